"""The ground of the tests of clients holds: the store comes back with what it held, and the judgement finds faults."""

from __future__ import annotations

import httpx
import pytest

from tests.clients.support import Inlet, check_messages, check_once, in_background, outage
from tests.support import record, wait_until


def test_a_record_is_refused_during_the_outage_and_stored_once_after_it(inlet: Inlet) -> None:
    with httpx.Client(base_url=inlet.url, timeout=30) as client:
        assert client.post("/ingest", json=record("e-1", message="before")).status_code == 202
        with outage(inlet):
            assert client.post("/ingest", json=record("e-2", message="during")).status_code == 503
        again = wait_until(
            lambda: (
                (answer := client.post("/ingest", json=record("e-2", message="during"))).status_code == 202 and answer
            ),
            "the store is used again",
        )
        assert again.status_code == 202
        assert client.post("/ingest", json=record("e-2", message="during")).status_code == 202
    records = check_messages(inlet, ["before", "during"])
    assert records[0].metadata == {"region": "eu-1"}


def test_a_key_is_needed_where_keys_are_on(keyed: Inlet) -> None:
    with httpx.Client(base_url=keyed.url, timeout=30) as client:
        assert client.post("/ingest", json=record()).status_code == 401
        headers = {"Authorization": f"Bearer {keyed.key}"}
        assert client.post("/ingest", json=record(), headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("found", "words"),
    [(["a"], "1 missing"), (["a", "b", "b"], "1 doubled"), (["a", "b", "c"], "1 never sent")],
)
def test_the_judgement_names_what_is_wrong(found: list[str], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_once(found, ["a", "b"])
    check_once(["b", "a"], ["a", "b"])


def test_what_a_client_in_the_background_raises_is_passed_on() -> None:
    join = in_background(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        join()
