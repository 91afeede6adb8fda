"""What pages in a real browser are told, against what the store then holds: each origin, setting, and way to send.

A page that is told of a failure sends again. So what a page is told that failed must not be stored, and what it is told
that was stored must be there once. A beacon's page is told nothing: its record must be stored, or its request refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ujson

from tests.browser.support import Browser, Inlet, site
from tests.support import record, wait_until

JSON = {"content-type": "application/json"}
FAILED = {"error": "TypeError: Failed to fetch"}

Send = Callable[[Browser, str, str], Any]


def _fetch_text(browser: Browser, url: str, body: str) -> Any:
    return browser.fetch(url, body)


def _fetch_json(browser: Browser, url: str, body: str) -> Any:
    return browser.fetch(url, body, headers=JSON)


def _fetch_keepalive(browser: Browser, url: str, body: str) -> Any:
    """Send as a page does that is about to be closed, and cannot use a beacon."""
    return browser.fetch(url, body, headers=JSON, keepalive=True)


def _beacon_text(browser: Browser, url: str, body: str) -> Any:
    return browser.beacon(url, body)


def _beacon_json(browser: Browser, url: str, body: str) -> Any:
    return browser.beacon(url, body, "application/json")


FETCHES = [_fetch_text, _fetch_json, _fetch_keepalive]
BEACONS = [_beacon_text, _beacon_json]


@pytest.fixture(scope="module")
def named_app() -> Iterator[str]:
    """The origin of allowed pages, on a host that is not loopback: browsers tell less about their requests."""
    with site("app.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def named_stranger() -> Iterator[str]:
    """The origin of other pages on such a host."""
    with site("stranger.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def closed(valkey: str) -> Iterator[Inlet]:
    """Inlet that allows no origin."""
    inlet = Inlet(valkey)
    yield inlet
    inlet.close()


@pytest.fixture(scope="module")
def listed(valkey: str, app: str, named_app: str) -> Iterator[Inlet]:
    """Inlet that allows two origins."""
    inlet = Inlet(valkey, INLET_CORS_ORIGINS=f"{app}, {named_app}", INLET_PAYLOAD_BYTES_MAX="65536")
    yield inlet
    inlet.close()


@pytest.fixture(scope="module")
def star(valkey: str) -> Iterator[Inlet]:
    """Inlet that allows every origin."""
    inlet = Inlet(valkey, INLET_CORS_ORIGINS="*")
    yield inlet
    inlet.close()


@pytest.fixture
def event_id() -> str:
    """An ``event_id`` that nobody else uses."""
    return uuid.uuid4().hex


def url_of(inlet: Inlet, event_id: str, host: str = "127.0.0.1") -> str:
    """A URL of this test alone: browsers remember preflights by URL, and the access log has it. Inlet ignores it."""
    return f"{inlet.origin(host)}/ingest?test={event_id}"


def refused(inlet: Inlet, send: Send, browser: Browser, url: str, event_id: str) -> None:
    """Send from the page that is open; check that Inlet refused it, stored nothing, and the page was told so."""
    told = send(browser, url, ujson.dumps(record(event_id)))
    # A page never learns what becomes of a beacon; the browser queued it.
    assert told == (True if send in BEACONS else FAILED)
    asks_first = send not in (_fetch_text, _beacon_text)
    assert inlet.has_answered(event_id, "OPTIONS 403" if asks_first else "POST 403")
    assert inlet.stored(event_id) == 0


def accepted(inlet: Inlet, send: Send, browser: Browser, url: str, event_id: str) -> Any:
    """Send from the page that is open; check that its record is stored once, and that it was told so."""
    told = send(browser, url, ujson.dumps(record(event_id)))
    if send in BEACONS:
        assert told is True
        wait_until(lambda: inlet.stored(event_id), "the beacon's record is stored")
    else:
        assert (told.get("status"), told.get("body")) == (202, '{"status":"queued"}'), told
    assert inlet.stored(event_id) == 1
    return told


@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_without_a_list_a_page_of_another_origin_stores_nothing(
    send: Send, browser: Browser, closed: Inlet, stranger: str, event_id: str
) -> None:
    browser.open(stranger)
    refused(closed, send, browser, url_of(closed, event_id), event_id)


@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_nor_does_one_whose_browser_tells_less(
    send: Send, browser: Browser, closed: Inlet, named_stranger: str, event_id: str
) -> None:
    browser.open(named_stranger)
    refused(closed, send, browser, url_of(closed, event_id, "inlet.test"), event_id)


def test_nor_does_a_page_that_does_not_want_to_read_the_answer(
    browser: Browser, closed: Inlet, stranger: str, event_id: str
) -> None:
    browser.open(stranger)
    for policy in ("strict-origin-when-cross-origin", "no-referrer"):
        told = browser.fetch(
            url_of(closed, event_id), ujson.dumps(record(event_id)), mode="no-cors", referrerPolicy=policy
        )
        assert (told["type"], told["status"], told["body"]) == ("opaque", 0, "")
    assert closed.has_answered(event_id, "POST 403", "POST 403")
    assert closed.stored(event_id) == 0


def test_nor_does_a_form_that_looks_like_json(browser: Browser, closed: Inlet, stranger: str, event_id: str) -> None:
    # No script is needed for it, and no permission.
    head, tail = ujson.dumps(record(event_id, message="a=b")).split("=")
    browser.open(stranger)
    browser.run(
        """
        const [url, name, value, done] = arguments;
        const form = document.body.appendChild(document.createElement("form"));
        Object.assign(form, {action: url, method: "post", enctype: "text/plain"});
        Object.assign(form.appendChild(document.createElement("input")), {name, value});
        done(null);
        form.submit();
        """,
        url_of(closed, event_id), head, tail,
    )  # fmt: skip
    assert closed.has_answered(event_id, "POST 403")
    assert closed.stored(event_id) == 0


@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_nor_does_a_sandboxed_frame(send: Send, browser: Browser, listed: Inlet, app: str, event_id: str) -> None:
    # Its origin is "null", though the page around it is allowed.
    browser.open(f"{app}/framed")
    browser.enter_frame()
    assert browser.run("arguments[0](self.origin)") == "null"
    refused(listed, send, browser, url_of(listed, event_id), event_id)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inlet.test"])
@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_a_page_of_the_same_origin_needs_no_permission(
    send: Send, host: str, browser: Browser, closed: Inlet, event_id: str
) -> None:
    browser.open(f"{closed.origin(host)}/healthz")
    told = accepted(closed, send, browser, f"/ingest?test={event_id}", event_id)
    assert closed.has_answered(event_id, "POST 202")
    if send in FETCHES:
        assert told["type"] == "basic"
        assert not [name for name in told["headers"] if name.startswith("access-control-")]


@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_a_page_of_a_listed_origin_stores_its_record_once(
    send: Send, browser: Browser, listed: Inlet, app: str, event_id: str
) -> None:
    browser.open(app)
    told = accepted(listed, send, browser, url_of(listed, event_id), event_id)
    if send in FETCHES:
        assert told["type"] == "cors"
        assert told["headers"]["inlet-durability"] == "stored"
        assert told["headers"]["x-request-id"]


@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_so_does_one_whose_browser_tells_less(
    send: Send, browser: Browser, listed: Inlet, named_app: str, event_id: str
) -> None:
    browser.open(named_app)
    accepted(listed, send, browser, url_of(listed, event_id, "inlet.test"), event_id)


@pytest.mark.parametrize("send", FETCHES + BEACONS)
def test_a_page_whose_origin_is_not_listed_stores_nothing(
    send: Send, browser: Browser, listed: Inlet, stranger: str, event_id: str
) -> None:
    browser.open(stranger)
    refused(listed, send, browser, url_of(listed, event_id), event_id)


def test_a_page_of_a_listed_origin_may_send_with_credentials(
    browser: Browser, listed: Inlet, app: str, event_id: str
) -> None:
    browser.open(app)
    told = browser.fetch(url_of(listed, event_id), ujson.dumps(record(event_id)), headers=JSON, credentials="include")
    assert told["status"] == 202
    assert listed.stored(event_id) == 1


def test_null_may_be_listed(browser: Browser, valkey: str, app: str, event_id: str) -> None:
    inlet = Inlet(valkey, INLET_CORS_ORIGINS="null")
    try:
        browser.open(f"{app}/framed")
        refused(inlet, _fetch_text, browser, url_of(inlet, event_id), event_id)
        browser.enter_frame()
        for send in FETCHES + BEACONS:
            own_id = f"{event_id}-{send.__name__}"
            accepted(inlet, send, browser, url_of(inlet, own_id), own_id)
    finally:
        inlet.close()


@pytest.mark.parametrize("send", [*FETCHES, _beacon_text])
def test_with_a_star_every_page_stores_its_record_once(
    send: Send, browser: Browser, star: Inlet, stranger: str, event_id: str
) -> None:
    browser.open(stranger)
    accepted(star, send, browser, url_of(star, event_id), event_id)
    browser.open(f"{stranger}/framed")
    browser.enter_frame()
    accepted(star, send, browser, url_of(star, f"{event_id}-framed"), f"{event_id}-framed")


def test_with_a_star_the_browser_keeps_back_a_beacon_of_json(
    browser: Browser, star: Inlet, stranger: str, event_id: str
) -> None:
    # Beacons are sent with credentials, which "*" does not cover. docs/operations.md says so.
    browser.open(stranger)
    assert browser.beacon(url_of(star, event_id), ujson.dumps(record(event_id)), "application/json")
    assert star.has_answered(event_id, "OPTIONS 204")
    accepted(star, _fetch_text, browser, url_of(star, f"{event_id}-later"), f"{event_id}-later")
    assert star.has_answered(event_id, "OPTIONS 204")
    assert star.stored(event_id) == 0


def test_a_browser_remembers_the_preflight_for_every_field_that_it_covers(
    browser: Browser, listed: Inlet, app: str, event_id: str
) -> None:
    browser.open(app)
    url = url_of(listed, event_id)
    for fields in (JSON, JSON, {"inlet-durability": "received"}, {**JSON, "prefer": "return=representation"}):
        assert browser.fetch(url, ujson.dumps(record(event_id)), headers=fields)["status"] == 202
    assert listed.has_answered(event_id, "OPTIONS 204", *["POST 202"] * 4)


def test_a_page_may_send_only_the_fields_that_inlet_reads(
    browser: Browser, listed: Inlet, app: str, event_id: str
) -> None:
    browser.open(app)
    url, body = url_of(listed, event_id), ujson.dumps(record(event_id))
    assert browser.fetch(url, body, headers={"x-other": "1"}) == FAILED
    assert browser.fetch(url, body, method="PUT") == FAILED
    assert listed.stored(event_id) == 0


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"timestamp": "yesterday"}, 422, "invalid-record"),
        ({"message": "m" * 65_536}, 413, "payload-too-large"),
    ],
)
def test_a_page_of_a_listed_origin_reads_why_it_was_refused(
    change: dict[str, str], status: int, reason: str, browser: Browser, listed: Inlet, app: str, event_id: str
) -> None:
    browser.open(app)
    for fields in ({}, JSON):
        told = browser.fetch(url_of(listed, event_id), ujson.dumps(record(event_id, **change)), headers=fields)
        assert told.get("status") == status, told
        assert ujson.loads(told["body"])["reason"] == reason
        assert told["headers"]["content-type"] == "application/problem+json"
    assert listed.stored(event_id) == 0


def test_a_page_of_a_listed_origin_reads_when_to_come_back(
    browser: Browser, own_store: Any, app: str, event_id: str
) -> None:
    inlet = Inlet(own_store.url, INLET_CORS_ORIGINS=app)
    try:
        browser.open(app)
        accepted(inlet, _fetch_json, browser, url_of(inlet, event_id), event_id)
        own_store.stop()
        told = browser.fetch(url_of(inlet, event_id), ujson.dumps(record()), headers=JSON)
        assert told.get("status") == 503, told
        assert ujson.loads(told["body"])["retryable"] is True
        assert int(told["headers"]["retry-after"]) >= 1
    finally:
        inlet.close()
