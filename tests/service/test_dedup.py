"""INLET_DEDUP_SECONDS as a client of the real server sees it: answers, receipts, metrics, restarts."""

from __future__ import annotations

import functools
import os
import re
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import ujson

from inlet.stream.keys import ids_keys
from tests.conftest import Serve
from tests.sink.support import Store
from tests.support import ROOT, Server, record, stored_lines, wait_until

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
KILLS = 5
IDS = 300


def post(server: Server, *ids: str, query: str = "?receipt=1", **headers: str) -> httpx.Response:
    """POST one record, or a bulk."""
    body = "\n".join(ujson.dumps(record(event_id)) for event_id in ids)
    kind = NDJSON if len(ids) > 1 else JSON
    return httpx.post(f"{server.url}/ingest{query}", content=body, headers={**kind, **headers}, timeout=60)


def ids_in(client: Any, stream: str) -> list[str]:
    """Every event id of the stream."""
    return [line[0] for line in stored_lines(client, stream)]


def metric(server: Server, name: str) -> float:
    """The value of a counter without labels."""
    text = httpx.get(server.url + "/metrics", timeout=60).text
    found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def server(serve: Serve, valkey: str, client: Any, stream: str) -> Any:
    """A server of two workers that remembers ids for an hour."""
    yield serve("--workers", "2", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DEDUP_SECONDS="3600")
    client.delete(*ids_keys(stream.encode()))


def test_a_retry_is_answered_202_and_its_receipt_names_the_first_address(
    server: Server, client: Any, stream: str
) -> None:
    first, again = post(server, "a"), post(server, "a")
    assert (first.status_code, again.status_code) == (202, 202)
    (stored,), (known,) = first.json()["records"], again.json()["records"]
    assert "duplicate" not in stored
    assert known == {**stored, "duplicate": True}
    assert {**again.json(), "records": 0} == {**first.json(), "records": 0}  # it is accepted like the first one
    assert post(server, "a", query="").content == b'{"status":"queued"}'
    assert ids_in(client, stream) == ["a"]


def test_a_bulk_says_of_each_record_where_it_is(server: Server, client: Any, stream: str) -> None:
    (first,) = post(server, "b").json()["records"]
    answer = post(server, "a", "b", "a", "c").json()
    entry_id = answer["records"][0]["entry_id"]
    assert (answer["accepted"], answer["rejected"]) == (4, 0)
    assert answer["records"] == [
        {"index": 0, "entry_id": entry_id, "line": 0},
        {"index": 1, "entry_id": first["entry_id"], "line": 0, "duplicate": True},
        {"index": 2, "entry_id": entry_id, "line": 0, "duplicate": True},
        {"index": 3, "entry_id": entry_id, "line": 1},
    ]
    assert ids_in(client, stream) == ["b", "a", "c"]


def test_duplicates_are_counted_and_not_as_stored(server: Server, stream: str) -> None:
    post(server, "a", "b")
    post(server, "a", "b", "c")
    wait_until(lambda: metric(server, "inlet_records_stored_total") == 3, "what was stored is counted")
    assert metric(server, "inlet_records_duplicate_total") == 2


def test_many_clients_that_send_the_same_ids_at_once_over_two_workers_store_each_once(
    server: Server, client: Any, stream: str
) -> None:
    answers: list[list[Any]] = [[] for _ in range(6)]

    def send(number: int) -> None:
        with httpx.Client(timeout=60) as session:
            for event_id in range(IDS):
                answer = session.post(
                    server.url + "/ingest?receipt=1", content=ujson.dumps(record(str(event_id))), headers=JSON
                )
                assert answer.status_code == 202
                (found,) = answer.json()["records"]
                answers[number].append((found["entry_id"], found["line"], found.get("duplicate", False)))

    threads = [threading.Thread(target=send, args=[number]) for number in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids_in(client, stream), key=int) == [str(number) for number in range(IDS)]
    for each in zip(*answers, strict=True):
        assert len({address[:2] for address in each}) == 1
        assert [address[2] for address in each].count(False) == 1


def test_workers_that_are_killed_and_a_server_that_starts_again_remember(
    serve: Serve, server: Server, valkey: str, client: Any, stream: str
) -> None:
    first = post(server, "a").json()["records"][0]
    for _ in range(KILLS):
        before = server.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(functools.partial(others, server, before), "other workers run")
        assert wait_until(lambda: again(server), "it answers") == {**first, "duplicate": True}
    server.stop()
    other = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DEDUP_SECONDS="3600")
    assert post(other, "a").json()["records"] == [{**first, "duplicate": True}]
    assert ids_in(client, stream) == ["a"]


def others(server: Server, gone: list[int]) -> bool:
    """Whether two workers run, and none of these."""
    return len(server.workers()) == 2 and not set(server.workers()) & set(gone)


def again(server: Server) -> Any:
    """The address in a retry's receipt; None if it did not get one."""
    try:
        answer = post(server, "a")
    except httpx.HTTPError:
        return None
    return answer.json()["records"][0] if answer.status_code == 202 else None


@pytest.mark.parametrize("level", ["received", "stored"])
def test_every_level_stores_once(serve: Serve, valkey: str, client: Any, stream: str, level: str) -> None:
    subject = serve(
        "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DEDUP_SECONDS="60", INLET_DURABILITY=level
    )
    for _ in range(3):
        assert post(subject, "a", "b").status_code == 202
    wait_until(lambda: metric(subject, "inlet_records_duplicate_total") == 4, "duplicates are counted")
    assert ids_in(client, stream) == ["a", "b"]
    client.delete(*ids_keys(stream.encode()))


def test_the_embedded_store_remembers_over_its_own_end(serve: Serve) -> None:
    subject = serve("--workers", "1", INLET_DEDUP_SECONDS="60")
    first = post(subject, "a").json()["records"][0]
    lock = subject.data_dir / "valkey.lock"
    before = lock.read_text()
    os.kill(int(before), signal.SIGKILL)
    wait_until(lambda: lock.read_text() not in ("", before), "the master starts another store")
    assert wait_until(lambda: again(subject), "it answers") == {**first, "duplicate": True}


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_workers_without_an_event_loop_store_once_too(
    serve: Serve, valkey: str, client: Any, stream: str, worker: str
) -> None:
    subject = serve("-k", worker, "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DEDUP_SECONDS="60")
    assert [post(subject, "a", "a", "b").status_code for _ in range(2)] == [202, 202]
    assert ids_in(client, stream) == ["a", "b"]
    client.delete(*ids_keys(stream.encode()))


def test_after_the_window_it_is_stored_again(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    subject = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DEDUP_SECONDS="1")
    assert post(subject, "a").status_code == 202
    wait_until(lambda: post(subject, "a").status_code == 202 and len(ids_in(client, stream)) == 2, "it is forgotten")
    client.delete(*ids_keys(stream.encode()))


def test_without_it_nothing_is_remembered(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    subject = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    for _ in range(2):
        assert "duplicate" not in post(subject, "a").json()["records"][0]
    assert ids_in(client, stream) == ["a", "a"]
    assert not client.exists(*ids_keys(stream.encode()))


RECORDS = "~logs ~logs:* +xadd +info +type +xinfo +xlen"
DEDUP = "~{logs}:ids:* +evalsha +hmget +hset +pexpire +script|load +time +unlink"


@pytest.fixture
def own() -> Iterator[Store]:
    """A store of this test's own."""
    store = Store()
    yield store
    store.close()


def test_the_documented_permissions_are_enough(serve: Serve, own: Store) -> None:
    rules = f"{RECORDS} {DEDUP}".split()
    own.client.execute_command("ACL", "SETUSER", "inlet", "on", ">secret", *rules)
    subject = serve("--workers", "1", REDIS_URL=f"unix://inlet:secret@{own.path}", INLET_DEDUP_SECONDS="1")
    assert post(subject, "a", "b", "a").status_code == 202
    assert post(subject, "b").json()["records"][0]["duplicate"] is True
    wait_until(lambda: "duplicate" not in post(subject, "a").json()["records"][0], "buckets take turns")
    refused = {
        (row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)))[b"object"]
        for row in own.client.execute_command("ACL", "LOG")
    }
    assert refused <= {b"client|setinfo", b"config|get", b"wait"}
    page = (ROOT / "docs" / "operations.md").read_text().replace("\\|", "|")
    assert f"`{DEDUP}`" in page
