"""The real server's life: many clients at once, worker classes, the collector, HUP, recycled workers, the data kept."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import ujson

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, ROOT, Server, record, stored_lines, wait_until

JSON = {"Content-Type": "application/json"}
CLIENTS = 8
RECORDS = 10_000
HTTP = httpx.Client(timeout=DEADLINE_SECONDS, limits=httpx.Limits(max_keepalive_connections=0))
"""A connection a request; made once, since each client loads all certificates anew."""


def post(server: Server, event_id: str = "e-1") -> httpx.Response:
    return HTTP.post(server.url + "/ingest", content=ujson.dumps(record(event_id)), headers=JSON)


def send_all(server: Server, name: int, ids: list[str], accepted: set[str]) -> None:
    """One client: single records and NDJSON bulks in turn over one connection; notes what was answered 202."""
    with httpx.Client(base_url=server.url, timeout=DEADLINE_SECONDS) as http:
        for size in itertools.cycle((1, 1, 1, 9)):
            part = [ids.pop() for _ in range(min(size, len(ids)))]
            if not part:
                return
            body = "\n".join(ujson.dumps(record(event_id, service=f"client-{name}")) for event_id in part)
            answer = http.post("/ingest", content=body, headers={"Content-Type": "application/x-ndjson"})
            if answer.status_code == 202:
                assert answer.json()["accepted"] == len(part)
                accepted.update(part)


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_every_record_answered_202_is_in_the_stream_once_and_no_other(
    worker_class: str, serve: Serve, store_url: str, stream: str
) -> None:
    server = serve("-k", worker_class, "--workers", "2", REDIS_URL=store_url, INLET_STREAM=stream)
    each = RECORDS // CLIENTS
    accepted: list[set[str]] = [set() for _ in range(CLIENTS)]
    threads = [
        threading.Thread(target=send_all, args=(server, name, [f"{name}-{n}" for n in range(each)], accepted[name]))
        for name in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with redis.Redis.from_url(store_url) as client:
        stored = [line[0] for line in stored_lines(client, stream)]
        client.delete(stream)
    assert set().union(*accepted) == set(stored)
    assert len(stored) == len(set(stored)) == RECORDS


def test_a_stock_gunicorn_command_line_works_as_for_any_app(serve: Serve, valkey: str, stream: str) -> None:
    server = serve("--workers", "4", "-k", "sync", REDIS_URL=valkey, INLET_STREAM=stream)
    wait_until(lambda: len(server.workers()) == 4, "four workers")
    assert post(server).content == b'{"status":"queued"}'
    assert server.stop() == 0


def test_another_wsgi_server_serves_the_same_app(valkey: str, client: Any, stream: str) -> None:
    """The standard library's wsgiref, which knows nothing of gunicorn's configuration."""
    program = (
        "from wsgiref.simple_server import make_server\n"
        "from app import application\n"
        "server = make_server('127.0.0.1', 0, application)\n"
        "print(server.server_port, flush=True)\n"
        "server.handle_request()\n"
    )
    env = {**os.environ, "REDIS_URL": valkey, "INLET_STREAM": stream}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        answer = HTTP.post(f"http://127.0.0.1:{port}/ingest", content=ujson.dumps(record()), headers=JSON)
    assert answer.content == b'{"status":"queued"}'
    assert len(stored_lines(client, stream)) == 1


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_every_worker_starts_frozen_after_hup_and_when_recycled_too(
    worker_class: str, serve: Serve, valkey: str, stream: str
) -> None:
    server = serve(
        "-k", worker_class, "--workers", "2", "-c", "tests/service/frozen.conf.py", "--max-requests", "20",
        REDIS_URL=valkey, INLET_STREAM=stream,
    )  # fmt: skip

    def frozen() -> dict[int, int]:
        return {int(pid): int(count) for pid, count in re.findall(r"worker (\d+) frozen (\d+)", server.log())}

    wait_until(lambda: len(frozen()) == 2, "two workers")
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(frozen()) == 4 and len(server.workers()) == 2, "two more after HUP")

    def recycled() -> bool:
        with contextlib.suppress(httpx.TransportError):
            post(server)
        return len(frozen()) > 4

    wait_until(recycled, "a recycled worker")
    assert min(frozen().values()) > 10_000
    assert "collector enabled" not in server.log()


def test_metrics_are_summed_over_workers_and_outlive_a_recycled_one(serve: Serve, valkey: str, stream: str) -> None:
    server = serve("--workers", "2", "--max-requests", "30", REDIS_URL=valkey, INLET_STREAM=stream)

    def total() -> int:
        text = HTTP.get(server.url + "/metrics").text
        found = re.search(r"^inlet_records_stored_total (\d+)", text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    for count in range(80):
        assert post(server, str(count)).status_code == 202
    wait_until(lambda: total() == 80, "every record is counted")
    wait_until(lambda: len(server.booted()) > 2, "a recycled worker")


def kill_all_of(server: Server, *spared: int) -> None:
    """SIGKILL to the master, its workers and its store, but for those spared."""
    server.metrics_directories()
    store_pid = int((server.data_dir / "valkey.lock").read_text())
    for pid in {server.process.pid, *server.workers(), store_pid} - set(spared):
        os.kill(pid, signal.SIGKILL)
    server.process.wait(DEADLINE_SECONDS)


def kept_over_the_kill(serve: Serve, first: Server, *args: str) -> None:
    """The next start on the same directory has what was stored before, stores more, and stops cleanly."""
    second = serve("--workers", "1", *args, INLET_DATA_DIR=str(first.data_dir))
    assert post(second, "after").status_code == 202
    with redis.Redis(unix_socket_path=str(first.data_dir / "valkey.sock")) as client:
        assert [line[0] for line in stored_lines(client, "logs")] == ["kept", "after"]
    assert second.stop() == 0
    assert not (first.data_dir / "valkey.sock").exists()


def test_the_embedded_store_keeps_everything_over_a_kill_of_all_processes(serve: Serve) -> None:
    first = serve("--workers", "1")
    assert post(first, "kept").status_code == 202
    kill_all_of(first)
    kept_over_the_kill(serve, first)


def test_a_store_that_outlives_the_kill_is_stopped_by_the_next_start(serve: Serve) -> None:
    first = serve("--workers", "1")
    assert post(first, "kept").status_code == 202
    store_pid = int((first.data_dir / "valkey.lock").read_text())
    kill_all_of(first, store_pid)
    kept_over_the_kill(serve, first)


def test_after_kill_9_of_the_master_the_next_start_gave_up_while_a_worker_still_lived(serve: Serve) -> None:
    """Regression: it found the address in use by a worker that had not noticed yet, and ended after five seconds."""
    first = serve("--workers", "1")
    assert post(first, "kept").status_code == 202
    (orphan,) = first.workers()
    # Stopped, so that it certainly outlives its master.
    os.kill(orphan, signal.SIGSTOP)
    kill_all_of(first, orphan)
    lock = first.data_dir / "inlet.lock"

    def let_go() -> None:
        """Let the orphan go on, later than gunicorn tries to listen by itself."""
        wait_until(lambda: openers(lock) - {orphan}, "the next start finds the lock held")
        time.sleep(7)
        os.kill(orphan, signal.SIGCONT)

    with futures.ThreadPoolExecutor(1) as pool:
        going = pool.submit(let_go)
        kept_over_the_kill(serve, first, "--bind", f"{first.host}:{first.port}")
        going.result()


def openers(path: Path) -> set[int]:
    """The processes that have this file open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                found.add(int(link.parts[2]))
    return found


def test_the_log_says_where_it_listens_where_the_store_is_and_a_curl_line_that_works(serve: Serve) -> None:
    server = serve("--workers", "1")
    log = server.log()
    assert f"Listening at: {server.url}" in log
    assert f"unix://{server.data_dir}/valkey.sock" in log
    line = next(line for line in log.splitlines() if line.lstrip().startswith("curl "))
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert answer.stdout.startswith("HTTP/1.1 202 ")
    assert answer.stdout.endswith('{"status":"queued"}')


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"INLET_STREM": "x"}, "INLET_STREM"),
        ({"INLET_ENTRY_BYTES_MAX": "1"}, "INLET_ENTRY_BYTES_MAX"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(env: dict[str, str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:application", "--bind", "127.0.0.1:0"],
        cwd=ROOT, env={**os.environ, "INLET_DATA_DIR": str(tmp_path / "data"), **env},
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "data").exists()


def test_two_inlets_on_one_directory_the_second_refuses(serve: Serve) -> None:
    first = serve("--workers", "1")
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:application", "--bind", "127.0.0.1:0"],
        cwd=ROOT, env={**os.environ, "INLET_DATA_DIR": str(first.data_dir)},
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1
    assert "another Inlet" in done.stderr
    assert post(first).status_code == 202


def test_nothing_is_left_behind_after_term(serve: Serve) -> None:
    server = serve("--workers", "2")
    assert post(server).status_code == 202
    store_pid = int((server.data_dir / "valkey.lock").read_text())
    metrics_directories = server.metrics_directories()
    assert metrics_directories
    assert server.stop() == 0
    assert not Path(f"/proc/{store_pid}").exists()
    assert not any(path.exists() for path in metrics_directories)
    assert "Traceback" not in server.log()
