"""Pages in a real browser where keys are required: what each is told, against what the store then holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ujson

from inlet import keyfile
from tests.browser.support import Browser, Inlet
from tests.support import record, wait_until

FAILED = {"error": "TypeError: Failed to fetch"}


class Keys:
    """A file of keys: one that may send, one that may not, and one with a quota of two requests."""

    def __init__(self, path: Path) -> None:
        self._made: list[keyfile.Key] = []
        self.good = self._key("good")
        self.elsewhere = self._key("elsewhere", receivers=("otlp",))
        quota = keyfile.Quota(per_second=keyfile.PER_SECOND_MIN, burst=2)
        self.twice = self._key("twice", quotas=keyfile.KeyQuotas(requests=quota))
        self.wrong = self.good[:-1] + ("0" if self.good[-1] != "0" else "1")
        keyfile.save(path, self._made)

    def _key(self, name: str, **rights: Any) -> str:
        secret, digest = keyfile.new_secret()
        key = keyfile.Key(keyfile.new_id(), name, digest, datetime.now(UTC), **rights)
        self._made.append(key)
        return f"inlet_{key.id}_{secret}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """The keys of this module's server."""
    return Keys(tmp_path_factory.getbasetemp() / "browser-keys.toml")


@pytest.fixture(scope="module")
def inlet(valkey: str, app: str, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inlet]:
    """Inlet that requires keys and allows one origin."""
    path = tmp_path_factory.getbasetemp() / "browser-keys.toml"
    inlet = Inlet(valkey, INLET_CORS_ORIGINS=app, INLET_KEYS_FILE=str(path))
    yield inlet
    inlet.close()


@pytest.fixture
def event_id() -> str:
    """An ``event_id`` that nobody else uses."""
    return uuid.uuid4().hex


def url_of(inlet: Inlet, event_id: str, key: str = "") -> str:
    """A URL of this test alone, since browsers remember preflights by URL."""
    return f"{inlet.origin()}/ingest?test={event_id}" + (f"&key={key}" if key else "")


def reason(told: dict[str, Any]) -> tuple[Any, Any]:
    """Status and reason of the problem that a page was told."""
    return told.get("status"), ujson.loads(told["body"])["reason"] if "body" in told else told


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "dd-api-key"])
def test_a_key_in_a_header_is_asked_for_once_and_taken(
    name: str, browser: Browser, inlet: Inlet, app: str, keys: Keys, event_id: str
) -> None:
    browser.open(app)
    fields = {"content-type": "application/json", name: f"Bearer {keys.good}" if name == "authorization" else keys.good}
    for number in ("1", "2"):
        told = browser.fetch(url_of(inlet, event_id), ujson.dumps(record(event_id + number)), headers=fields)
        assert told.get("status") == 202, told
        assert inlet.stored(event_id + number) == 1
    # The preflight has no key: browsers send none.
    assert inlet.has_answered(event_id, "OPTIONS 204", "POST 202", "POST 202")


@pytest.mark.parametrize("type_", [None, "application/json"])
def test_a_beacon_has_its_key_in_the_query(
    type_: str | None, browser: Browser, inlet: Inlet, app: str, keys: Keys, event_id: str
) -> None:
    browser.open(app)
    assert browser.beacon(url_of(inlet, event_id, keys.good), ujson.dumps(record(event_id)), type_)
    wait_until(lambda: inlet.stored(event_id), "the beacon's record is stored")
    assert inlet.stored(event_id) == 1
    assert keys.good not in inlet.server.log()


@pytest.mark.parametrize("type_", [None, "application/json"])
@pytest.mark.parametrize("which", ["", "wrong"])
def test_a_beacon_without_a_good_key_is_not_stored(
    which: str, type_: str | None, browser: Browser, inlet: Inlet, app: str, keys: Keys, event_id: str
) -> None:
    browser.open(app)
    url = url_of(inlet, event_id, keys.wrong if which else "")
    assert browser.beacon(url, ujson.dumps(record(event_id)), type_)
    assert inlet.has_answered(event_id, *(["OPTIONS 204"] if type_ else []), "POST 401")
    assert inlet.stored(event_id) == 0


def test_a_page_of_a_listed_origin_reads_that_its_key_is_no_good(
    browser: Browser, inlet: Inlet, app: str, keys: Keys, event_id: str
) -> None:
    browser.open(app)
    body = ujson.dumps(record(event_id))
    assert reason(browser.fetch(url_of(inlet, event_id), body)) == (401, "unauthorized")
    assert reason(browser.fetch(url_of(inlet, event_id, keys.wrong), body)) == (401, "unauthorized")
    fields = {"authorization": f"Bearer {keys.wrong}"}
    assert reason(browser.fetch(url_of(inlet, event_id), body, headers=fields)) == (401, "unauthorized")
    assert reason(browser.fetch(url_of(inlet, event_id, keys.elsewhere), body)) == (403, "forbidden")
    assert inlet.stored(event_id) == 0


def test_a_page_reads_an_answer_that_comes_before_its_body_is_sent(
    browser: Browser, inlet: Inlet, app: str, keys: Keys, event_id: str
) -> None:
    browser.open(app)
    body = ujson.dumps([record(event_id, message="m" * 100_000)] * 60)
    assert reason(browser.fetch(url_of(inlet, event_id, keys.wrong), body)) == (401, "unauthorized")
    body = ujson.dumps([record(event_id, message="m" * 100_000)] * 100)
    assert reason(browser.fetch(url_of(inlet, event_id, keys.good), body)) == (413, "payload-too-large")
    assert inlet.stored(event_id) == 0


def test_a_page_of_a_listed_origin_reads_its_quota(
    browser: Browser, inlet: Inlet, app: str, keys: Keys, event_id: str
) -> None:
    browser.open(app)
    told = [
        browser.fetch(url_of(inlet, event_id, keys.twice), ujson.dumps(record(f"{event_id}-{number}")))
        for number in range(3)
    ]
    assert [answer.get("status") for answer in told] == [202, 202, 429]
    assert [inlet.stored(f"{event_id}-{number}") for number in range(3)] == [1, 1, 0]
    assert reason(told[2]) == (429, "quota-exceeded")
    assert int(told[2]["headers"]["retry-after"]) >= 1
    assert told[2]["headers"]["ratelimit"]
    assert told[2]["headers"]["ratelimit-policy"]


def test_a_good_key_does_not_help_a_page_of_another_origin(
    browser: Browser, inlet: Inlet, stranger: str, keys: Keys, event_id: str
) -> None:
    browser.open(stranger)
    body = ujson.dumps(record(event_id))
    assert browser.fetch(url_of(inlet, event_id, keys.good), body) == FAILED
    assert browser.fetch(url_of(inlet, event_id), body, headers={"x-api-key": keys.good}) == FAILED
    assert browser.beacon(url_of(inlet, event_id, keys.good), body)
    assert inlet.has_answered(event_id, "POST 403", "OPTIONS 403", "POST 403")
    assert inlet.stored(event_id) == 0


def test_a_page_of_the_same_origin_needs_a_key_too(browser: Browser, inlet: Inlet, keys: Keys, event_id: str) -> None:
    browser.open(f"{inlet.origin()}/healthz")
    body = ujson.dumps(record(event_id))
    assert reason(browser.fetch("/ingest", body)) == (401, "unauthorized")
    assert inlet.stored(event_id) == 0
    assert browser.fetch(f"/ingest?key={keys.good}", body)["status"] == 202
    assert inlet.stored(event_id) == 1
