"""Retention in the server: what is acked is trimmed by one worker's thread; what is unread is kept, or reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest
import redis
import ujson

from tests.conftest import Serve
from tests.consumer.support import command
from tests.stream.support import read_all
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


BOUNDS = ["entries=10", "memory=20kb", "entries=10,age=1s", "entries=10,memory=20kb,age=30d"]


def refuses(url: str) -> bool:
    return post(url).status_code == 429


def accepts(url: str) -> bool:
    return post(url).status_code == 202


@pytest.mark.parametrize("bounds", BOUNDS)
def test_records_are_accepted_again_once_every_group_has_acked_everything(
    serve: Serve, valkey: str, client: Any, stream: str, bounds: str
) -> None:
    """Regression: trimming stopped at the bound and the refusals at 95% of it, so the server refused for ever."""
    fill(client, stream, 400)
    client.xgroup_create(stream, "readers", id="0")
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_RETENTION=bounds)
    wait_until(lambda: refuses(server.url), "unread entries fill the bounds")
    read_all(valkey, stream, "readers")
    wait_until(lambda: accepts(server.url), "it accepts records again")
    wait_until(lambda: httpx.get(server.url + "/readyz", timeout=30).status_code == 200, "it is ready again")


def test_records_are_accepted_again_after_inlet_was_killed_while_the_stream_was_full(
    serve: Serve, valkey: str, client: Any, stream: str
) -> None:
    """The lease and the mark of the killed keeper are still in the store."""
    fill(client, stream, 50)
    client.xgroup_create(stream, "readers", id="0")
    more = {"REDIS_URL": valkey, "INLET_STREAM": stream, "INLET_RETENTION": "entries=10"}
    first = serve("--workers", "1", **more)
    wait_until(lambda: refuses(first.url), "unread entries fill the bounds")
    for pid in (first.process.pid, *first.workers()):
        os.kill(pid, signal.SIGKILL)
    first.process.wait(DEADLINE_SECONDS)
    assert client.exists(f"{stream}:full", f"{stream}:keeper") == 2
    client.persist(f"{stream}:full")  # as an earlier version or a clock that was set back may leave it
    read_all(valkey, stream, "readers")
    second = serve("--workers", "1", **more)
    wait_until(lambda: accepts(second.url), "it accepts records again")
    assert client.exists(f"{stream}:full") == 0


def test_records_are_accepted_again_after_the_store_was_killed_while_the_stream_was_full(serve: Serve) -> None:
    server = serve("--workers", "1", INLET_RETENTION="entries=10")
    url = f"unix://{server.data_dir / 'valkey.sock'}"
    with redis.Redis.from_url(url) as store:
        store.xgroup_create("logs", "readers", id="0", mkstream=True)
        fill(store, "logs", 50)
        wait_until(lambda: refuses(server.url), "unread entries fill the bounds")
        os.kill(store.info("server")["process_id"], signal.SIGKILL)
    wait_until(lambda: refuses(server.url), "the store is back, and the stream is full")
    # The refusal may be of before the kill.
    wait_until(lambda: (server.data_dir / "valkey.sock").exists() and read_all(url, "logs", "readers"), "all is acked")
    wait_until(lambda: accepts(server.url), "it accepts records again")


def test_the_refusal_names_the_group_that_holds_the_stream_back_and_what_to_do(
    serve: Serve, valkey: str, client: Any, stream: str
) -> None:
    fill(client, stream, 50)
    client.xgroup_create(stream, "mail", id="0")
    server = serve("--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream, INLET_RETENTION="entries=10")

    def detail(words: str) -> bool:
        return words in post(server.url).json().get("detail", "")

    wait_until(lambda: detail("group 'mail' has acked the least"), "the group is named")
    client.xgroup_destroy(stream, "mail")  # as if by a failover: nobody said that it may be forgotten
    wait_until(lambda: detail("group 'mail' is missing from the store"), "it is missed")
    assert detail("inlet groups forget mail")
    wait_until(lambda: "group 'mail' is missing from the store" in server.log(), "it is logged")
    forgotten = command(valkey, stream, "groups", "forget", "mail")
    assert forgotten.returncode == 0
    wait_until(lambda: detail("no group has read the stream"), "it is forgotten")
    client.xgroup_create(stream, "mail", id="$")
    wait_until(lambda: accepts(server.url), "it accepts records again")


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
