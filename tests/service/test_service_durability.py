"""The four levels, backpressure and the store's restart as a client of the real server sees them."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import redis
import ujson

from tests.conftest import Serve
from tests.support import record, stored_lines, wait_until

JSON = {"Content-Type": "application/json"}


def post(url: str, **headers: str) -> httpx.Response:
    return httpx.post(url + "/ingest", content=ujson.dumps(record()), headers={**JSON, **headers}, timeout=30)


def test_the_answer_names_the_level_and_a_header_may_raise_it(
    serve: Serve, valkey: str, client: Any, stream: str
) -> None:
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    wait_until(lambda: httpx.get(server.url + "/readyz", timeout=30).status_code == 200, "the watcher has looked")
    assert post(server.url).headers["inlet-durability"] == "stored"
    refused = post(server.url, **{"Inlet-Durability": "Synced"})
    assert (refused.status_code, refused.json()["reason"]) == (503, "durability-unavailable")
    assert post(server.url, **{"Inlet-Durability": "received"}).headers["inlet-durability"] == "stored"
    unknown = post(server.url, **{"Inlet-Durability": "forever"})
    assert (unknown.status_code, unknown.json()["reason"]) == (400, "unknown-durability")
    stored = client.xlen(stream)
    missing = post(server.url, **{"Inlet-Durability": "replicated"})
    assert (missing.status_code, missing.json()["reason"]) == (503, "durability-unavailable")
    assert missing.json()["retryable"] is False
    assert client.xlen(stream) == stored == 2


def test_the_embedded_store_fsyncs_always_for_synced(serve: Serve) -> None:
    server = serve("--workers", "1", INLET_DURABILITY="synced")
    assert post(server.url).headers["inlet-durability"] == "synced"
    wait_until(lambda: httpx.get(server.url + "/readyz", timeout=30).status_code == 200, "the watcher has looked")
    with redis.Redis(unix_socket_path=str(server.data_dir / "valkey.sock")) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_a_received_answer_has_a_receipt_without_entry_ids(serve: Serve, valkey: str, stream: str) -> None:
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_DURABILITY="received")
    answer = httpx.post(server.url + "/ingest?receipt=1", content=ujson.dumps(record()), headers=JSON, timeout=30)
    assert answer.headers["inlet-durability"] == "received"
    assert answer.json()["records"] == [{"index": 0, "entry_id": None, "line": 0}]


def test_429_while_the_backlog_is_over_its_bound(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    client.xgroup_create(stream, "readers", id="0", mkstream=True)
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_BACKLOG_MAX="3")

    def refused() -> httpx.Response | None:
        answer = post(server.url)
        return answer if answer.status_code != 202 else None

    answer = wait_until(refused, "the watcher sees the backlog")
    assert (answer.status_code, answer.json()["reason"], answer.json()["retryable"]) == (429, "backlog-full", True)
    assert int(answer.headers["retry-after"]) >= 1
    ready = httpx.get(server.url + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()["reason"]) == (429, "backlog-full")
    assert httpx.get(server.url + "/healthz", timeout=30).status_code == 200
    before = len(stored_lines(client, stream))
    batch = client.xreadgroup("readers", "r", {stream: ">"}, count=10_000)
    ids = [entry_id for name in batch for entry_id, _ in (batch[name][0] if isinstance(batch, dict) else name[1])]
    client.xack(stream, "readers", *ids)
    wait_until(lambda: post(server.url).status_code == 202, "it accepts again")
    assert len(stored_lines(client, stream)) > before


def test_the_master_starts_an_embedded_store_that_died(serve: Serve) -> None:
    server = serve("--workers", "1")
    assert post(server.url).status_code == 202
    os.kill(int((server.data_dir / "valkey.lock").read_text()), signal.SIGKILL)
    wait_until(lambda: "was restarted" in server.log(), "the master notices")
    wait_until(lambda: post(server.url).status_code == 202, "records are stored again")
    with redis.Redis(unix_socket_path=str(server.data_dir / "valkey.sock")) as client:
        assert client.xlen("logs") >= 2


def test_each_worker_looks_at_the_store_before_its_first_request(serve: Serve, valkey: str, client: Any) -> None:
    def connected() -> set[str]:
        return {found["id"] for found in client.client_list()}

    before = connected()
    serve("--workers", "2", REDIS_URL=valkey)
    wait_until(lambda: len(connected() - before) == 2, "a connection from each worker's watcher")
