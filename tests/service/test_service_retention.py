"""Retention in the server: what is acked is trimmed by one worker's thread; what is unread is kept, or reported."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import httpx
import pytest
import ujson

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, ROOT, record, wait_until

JSON = {"Content-Type": "application/json"}


def post(url: str) -> httpx.Response:
    return httpx.post(url + "/ingest", content=ujson.dumps(record()), headers=JSON, timeout=30)


def fill(client: Any, stream: str, entries: int) -> None:
    for _ in range(entries):
        client.xadd(stream, {"r": '["e","t","s","m",{}]', "n": 1})


def test_what_every_group_has_acked_is_trimmed(serve: Serve, valkey: str, client: Any, stream: str) -> None:
    fill(client, stream, 50)
    client.xgroup_create(stream, "readers", id="0")
    batch = client.execute_command("XREADGROUP", "GROUP", "readers", "r", "COUNT", 40, "STREAMS", stream, ">")
    rows = batch[stream.encode()][0] if isinstance(batch, dict) else batch[0][1]
    client.xack(stream, "readers", *[row[0] for row in rows])
    server = serve("--workers", "2", REDIS_URL=valkey, INLET_STREAM=stream, INLET_RETENTION="entries=10")
    wait_until(lambda: client.xlen(stream) == 10, "the keeper has trimmed what is acked")
    assert post(server.url).status_code == 202
    text = httpx.get(server.url + "/metrics", timeout=30).text
    assert "inlet_entries_trimmed_total 40.0" in text
    assert "inlet_entries_dropped_total 0.0" in text


def test_where_unread_entries_fill_the_bound_new_records_are_refused(
    serve: Serve, valkey: str, client: Any, stream: str
) -> None:
    fill(client, stream, 50)
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_RETENTION="entries=10")

    def refused() -> httpx.Response | None:
        answer = post(server.url)
        return answer if answer.status_code != 202 else None

    answer = wait_until(refused, "the worker hears that the stream is full")
    assert (answer.status_code, answer.json()["reason"]) == (429, "backlog-full")
    assert "INLET_RETENTION" in answer.json()["detail"]
    assert httpx.get(server.url + "/readyz", timeout=30).status_code == 429
    assert client.xlen(stream) >= 50


def test_unread_entries_are_dropped_where_that_is_asked_for_and_that_is_reported(
    serve: Serve, valkey: str, client: Any, stream: str
) -> None:
    fill(client, stream, 50)
    server = serve(
        "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream,
        INLET_RETENTION="entries=10", INLET_RETENTION_UNREAD="drop",
    )  # fmt: skip
    wait_until(lambda: client.xlen(stream) == 10, "the keeper has dropped what is unread")
    wait_until(lambda: "keeper: dropped 40 entries" in server.log(), "it is logged")
    assert "inlet_entries_dropped_total 40.0" in httpx.get(server.url + "/metrics", timeout=30).text

    def ready() -> bool:
        return bool(httpx.get(server.url + "/readyz", timeout=30).json() == {"status": "ready", "unread": "drop"})

    wait_until(ready, "the watcher has looked")


@pytest.mark.parametrize("text", ["forever", "entries=0", "age=7d,age=8d"])
def test_a_retention_that_cannot_be_read_stops_the_start_with_one_line(text: str, tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:application", "--bind", "127.0.0.1:0"],
        cwd=ROOT, env={**os.environ, "INLET_DATA_DIR": str(tmp_path / "data"), "INLET_RETENTION": text},
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "INLET_RETENTION" in done.stderr
