"""INLET_KEEP_REJECTED over the real server: what is kept, what is not, and that it costs no answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import ujson

from inlet.stream.rejected import TEXT_BYTES_MAX, RejectedEntry
from tests.access.support import keys_file, new_key
from tests.conftest import Serve
from tests.consumer.support import command
from tests.faults.fuzz import resident
from tests.service.test_service_acl import BASE, permit
from tests.sink.support import Store
from tests.sink.test_rejected import kept
from tests.support import Server, record, stored_lines, wait_until
from wsgi.receivers.parsed import ROWS_MAX
from wsgi.sink.rejected import QUEUE_BYTES_MAX

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
FLOOD = 400
"""Requests of 200 KB: 80 MB of records that are refused."""
GOOD = ujson.dumps(record("good")).encode()


def post(server: Server, body: bytes, headers: dict[str, str] = NDJSON) -> httpx.Response:
    return httpx.post(server.url + "/ingest", content=body, headers=headers, timeout=30)


def metric(server: Server, name: str) -> float:
    """The value of a metric without labels."""
    lines = httpx.get(server.url + "/metrics", timeout=30).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


def found(client: Any, stream: str, count: int) -> list[RejectedEntry]:
    entries: list[RejectedEntry] = wait_until(
        lambda: len(all_of := kept(client, stream)) >= count and all_of, f"{count} are kept"
    )
    assert len(entries) == count
    return entries


@pytest.mark.parametrize("worker", ["wsgi.worker.PhasedWorker", "sync", "gthread"])
def test_records_refused_one_by_one_are_kept(serve: Serve, valkey: str, client: Any, stream: str, worker: str) -> None:
    server = serve("-k", worker, REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEEP_REJECTED="1")
    in_part = b"\n".join([GOOD, b'{"event_id":"a"}', b"{"])
    assert post(server, in_part).status_code == 202
    part = found(client, stream, 2)
    assert [(row.reason, row.event_id, row.text) for row in part] == [
        ("invalid-record", "a", b'{"event_id":"a"}'), ("malformed-record", None, b"{"),
    ]  # fmt: skip
    assert {row.receiver for row in part} == {"native"}
    assert post(server, b"[0]", JSON).status_code == 422
    assert [row.text for row in found(client, stream, 3)[2:]] == [b"0"]
    single = b'{ "event_id":"single", "message":"' + b"m" * TEXT_BYTES_MAX + b'"}'
    assert post(server, single, JSON).status_code == 422
    row = found(client, stream, 4)[-1]
    assert (row.reason, row.text, row.size) == ("invalid-record", single[:TEXT_BYTES_MAX], len(single))
    assert [line[0] for line in stored_lines(client, stream)] == ["good"]


def test_what_is_not_refused_one_by_one_is_not_kept(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    server = serve(
        REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEEP_REJECTED="1", INLET_PAYLOAD_BYTES_MAX="65536"
    )
    for body, headers, status in (
        (b"{", JSON, 400), (b"[{},", JSON, 400), (b"", NDJSON, 400), (b"x" * 70_000, NDJSON, 413),
        (b"{}", {"Content-Type": "image/png"}, 415), (b"[]", JSON, 422), (GOOD, JSON, 202),
    ):  # fmt: skip
        assert post(server, body, headers).status_code == status, body[:20]
    # One that is kept, behind all others.
    assert post(server, b"0\n").status_code == 422
    assert [row.text for row in found(client, stream, 1)] == [b"0"]
    assert metric(server, "inlet_rejected_lost_total") == 0


@pytest.mark.parametrize("env", [{}, {"INLET_KEEP_REJECTED": "0"}])
def test_nothing_is_kept_unless_asked(
    serve: Serve, valkey: str, client: Any, stream: str, env: dict[str, str]
) -> None:
    server = serve(REDIS_URL=valkey, INLET_STREAM=stream, **env)
    assert post(server, b"0\n").status_code == 422
    assert post(server, b"0\n" + GOOD).status_code == 202
    server.stop()
    assert client.exists(f"{stream}:rejected") == 0


@pytest.mark.parametrize("records", [ROWS_MAX, ROWS_MAX + 1])
def test_so_many_of_a_request_are_kept_and_the_rest_is_counted(
    serve: Serve, valkey: str, client: Any, stream: str, records: int
) -> None:
    server = serve(REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEEP_REJECTED="1")
    answer = post(server, GOOD + b"\n" + b"\n".join(b"%d" % number for number in range(records)))
    assert (answer.status_code, answer.json()["rejected"]) == (202, records)
    assert [row.text for row in found(client, stream, ROWS_MAX)] == [b"%d" % number for number in range(ROWS_MAX)]
    assert metric(server, "inlet_rejected_lost_total") == records - ROWS_MAX


@pytest.mark.parametrize("worker", ["wsgi.worker.PhasedWorker", "sync", "gthread"])
def test_a_worker_that_ends_writes_what_waits(
    serve: Serve, valkey: str, client: Any, stream: str, worker: str
) -> None:
    server = serve("-k", worker, "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEEP_REJECTED="1")
    body = b"\n".join(b"%d" % number for number in range(ROWS_MAX))
    for _ in range(3):
        assert post(server, body).status_code == 422
    assert server.stop() == 0
    assert client.xlen(f"{stream}:rejected") == 3 * ROWS_MAX


def test_refusals_are_answered_while_nothing_can_be_kept(serve: Serve) -> None:
    store = Store()
    try:
        # Writing to this one key is forbidden: records go on, rejected ones are lost and counted.
        store.client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~logs", "~logs:full", "+@all")
        server = serve("--workers", "1", REDIS_URL=f"unix://u:p@{store.path}", INLET_KEEP_REJECTED="1")
        for _ in range(5):
            assert post(server, GOOD + b"\n0").status_code == 202
        wait_until(lambda: metric(server, "inlet_rejected_lost_total") == 5, "they are counted")
        assert store.client.xlen("logs") == 5
        assert server.log().count("NOPERM") == 1
    finally:
        store.close()


def test_the_documented_permissions_are_enough(serve: Serve) -> None:
    store = Store()
    try:
        server = serve(REDIS_URL=permit(store, BASE), INLET_KEEP_REJECTED="1")
        assert post(server, GOOD + b"\n0").status_code == 202
        assert [row.text for row in found(store.client, "logs", 1)] == [b"0"]
        assert metric(server, "inlet_rejected_lost_total") == 0
    finally:
        store.close()


def test_a_flood_of_bad_bulks_costs_neither_memory_nor_a_good_record(
    serve: Serve, valkey: str, client: Any, stream: str
) -> None:
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEEP_REJECTED="1")
    [worker] = server.workers()
    bad = b"\n".join(b'{"event_id":"%d","x":"%b"}' % (number, b"x" * 1_950) for number in range(ROWS_MAX))
    with httpx.Client(base_url=server.url, headers=NDJSON, timeout=30) as http:

        def flood(requests: int) -> None:
            for _ in range(requests):
                assert http.post("/ingest", content=GOOD + b"\n" + bad).status_code == 202

        flood(50)
        before = resident(worker)
        flood(FLOOD - 50)
    assert resident(worker) - before < QUEUE_BYTES_MAX
    assert client.xlen(stream) == FLOOD
    # Each is either kept or counted, and so many wait at most.
    wait_until(
        lambda: client.xlen(f"{stream}:rejected") + metric(server, "inlet_rejected_lost_total") == FLOOD * ROWS_MAX,
        "the queue is written",
    )
    assert client.xlen(f"{stream}:rejected") < FLOOD * ROWS_MAX


def test_a_tenants_rejected_records_stand_beside_its_own_stream(
    serve: Serve, valkey: str, client: Any, stream: str, tmp_path: Path
) -> None:
    tenant, right = new_key("tenant", stream=f"{stream}-t", services=("checkout",))
    plain, other = new_key("plain")
    # One worker: two write in no particular order.
    server = serve(
        "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEEP_REJECTED="1",
        INLET_KEYS_FILE=str(keys_file(tmp_path / "keys.toml", tenant, plain)),
    )  # fmt: skip

    def send(key: str, body: bytes, headers: dict[str, str] = NDJSON) -> int:
        return post(server, body, {**headers, "X-Api-Key": key}).status_code

    assert send(right, GOOD + b"\n1") == 202
    assert send(right, b"2\n") == 422
    assert send(right, b"{}", JSON) == 422
    assert send(other, GOOD + b"\n3") == 202
    assert [row.text for row in found(client, f"{stream}-t", 3)] == [b"1", b"2", b"{}"]
    assert [row.text for row in found(client, stream, 1)] == [b"3"]
    # Of strangers nothing is kept.
    assert send(right[:-1] + "x", b"4\n") == 401
    assert send("", b"5\n") == 401
    assert send(right, b"6\n") == 422
    assert [row.text for row in found(client, f"{stream}-t", 4)][3:] == [b"6"]
    assert len(found(client, stream, 1)) == 1
    # Of a record whose service the key may not send, the line that would have been stored is kept.
    assert send(right, GOOD + b"\n" + ujson.dumps(record("x", service="other")).encode()) == 202
    row = found(client, f"{stream}-t", 5)[-1]
    assert (row.reason, row.event_id, json.loads(row.text)[2]) == ("forbidden", "x", "other")


def test_the_command_reads_them_while_the_embedded_store_runs(serve: Serve) -> None:
    server = serve(INLET_KEEP_REJECTED="1")
    assert post(server, b'{"event_id":"a"}\n').status_code == 422
    url = f"unix://{server.data_dir}/valkey.sock"

    def listed() -> list[str]:
        return command(url, "logs", "rejected", "list", "--json").stdout.splitlines()

    [line] = wait_until(listed, "it is kept")
    assert (row := json.loads(line))["event_id"] == "a"
    assert '{"event_id":"a"}' in command(url, "logs", "rejected", "show", row["entry_id"]).stdout
    assert command(url, "logs", "rejected", "drop", "--all").stdout == "1 dropped\n"
    assert listed() == []
