"""Consumers that are killed with -9 all the time, over the real server and the real store: nothing is lost."""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ujson

from tests.conftest import Serve
from tests.consumer.support import Spawn, connect, dead, fill, line, pending, spawning
from tests.support import ROOT, Server, record, wait_until

RECORDS = 100_000
BULK = 500
"""Records of one request, so about as many of an entry."""
KILL_SECONDS = 1.0
CONSUMER = """
import os, sys, time
from inlet import Options, Reader
out = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
options = Options(block_ms=100, claim_idle_ms=1500, claim_idle_ms_max=3000, entries_max=8, attempts_max=1000)
count = 0
def handle(record):
    global count
    os.write(out, record.event_id.encode() + b"\\n")
    count += 1
    if count % 100 == 0:
        time.sleep(0.01)
Reader(os.environ["REDIS_URL"], os.environ["INLET_STREAM"], "g", options=options).run(handle)
"""


@pytest.fixture
def spawn(valkey: str, stream: str) -> Iterator[Spawn]:
    with spawning(valkey, stream) as start:
        yield start


def post(server: Server, records: int) -> None:
    """Post so many records as bulks; every one must be accepted."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    for first in range(0, records, BULK):
        body = ujson.dumps([record(f"e-{number}") for number in range(first, first + BULK)])
        connection.request("POST", "/ingest", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 202, content
        assert ujson.loads(content)["accepted"] == BULK
    connection.close()


def keep_killing(
    start: Callable[[int], subprocess.Popen[bytes]],
    done: Callable[[], bool],
    sooner: Callable[[int], bool] = lambda kills: False,
) -> int:
    """Three processes; every second, or ``sooner``, the next is killed with -9 and started anew, until ``done``."""
    processes = [start(number) for number in range(3)]
    kills = 0
    deadline = time.monotonic() + 90
    while not done():
        assert time.monotonic() < deadline, "the consumers do not come to an end"
        moment = time.monotonic() + KILL_SECONDS
        while time.monotonic() < moment and not sooner(kills) and not done():
            time.sleep(0.01)
        if done():
            break
        number = kills % 3
        processes[number].send_signal(signal.SIGKILL)
        processes[number].wait(30)
        processes[number] = start(number)
        kills += 1
    for process in processes:
        process.send_signal(signal.SIGTERM)
    # TERM ends Python itself where a process that was started anew just now is still importing.
    assert {process.wait(30) for process in processes} <= {0, -signal.SIGTERM}
    return kills


def all_acked(client: Any, stream: str, group: str = "g") -> bool:
    groups = client.xinfo_groups(stream) if client.exists(stream) else []
    return bool(groups) and groups[0]["lag"] == 0 and groups[0]["pending"] == 0


def test_three_consumers_lose_nothing_though_one_is_killed_every_second(
    serve: Serve, valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    server = serve(REDIS_URL=valkey, INLET_STREAM=stream)
    posted = threading.Event()

    def produce() -> None:
        post(server, RECORDS)
        posted.set()

    producer = threading.Thread(target=produce)
    producer.start()

    def start(number: int) -> subprocess.Popen[bytes]:
        return spawn("-c", CONSUMER, str(tmp_path / f"out-{number}"))

    with connect(valkey) as own:
        kills = keep_killing(start, lambda: posted.is_set() and all_acked(own, stream))
    producer.join(30)
    handled: Counter[str] = Counter()
    for path in tmp_path.glob("out-*"):
        # A kill may cut a write off; the record is then handled again.
        handled.update(path.read_text().split("\n"))
    missing = [number for number in range(RECORDS) if f"e-{number}" not in handled]
    assert (missing, dead(client, stream), pending(client, stream, "g")) == ([], [], 0)
    assert kills >= 2


def test_the_sqlite_example_writes_every_record_exactly_once_though_it_is_killed_every_second(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    wanted = 20_000
    pipeline = client.pipeline(transaction=False)
    for first in range(0, wanted, 10):
        lines = [line(f"e-{number}") for number in range(first, first + 10)]
        pipeline.xadd(stream, {"r": b"\n".join(lines), "n": 10})
    pipeline.execute()
    file = tmp_path / "out.db"

    def start(number: int) -> subprocess.Popen[bytes]:
        words = ("--group", "g", "--consumer", f"c{number}", "--claim-idle", "1.5")
        return spawn("examples/sqlite_exactly_once.py", str(file), *words)

    def sooner(kills: int) -> bool:
        """At each further tenth that was handed out: SQLite may be done within a second."""
        groups: Any = client.xinfo_groups(stream)
        return bool(groups) and groups[0]["lag"] < wanted // 10 * (9 - kills) // 10

    kills = keep_killing(start, lambda: all_acked(client, stream), sooner)
    database = sqlite3.connect(file)
    rows = Counter(event_id for (event_id,) in database.execute("SELECT event_id FROM records"))
    database.close()
    assert (len(rows), set(rows.values()), dead(client, stream)) == (wanted, {1}, [])
    assert kills >= 3


def test_a_killed_read_hands_its_lines_to_the_next_and_an_acked_one_never_again(
    valkey: str, client: Any, stream: str, spawn: Spawn
) -> None:
    wanted = fill(client, stream, 5_000)
    first = spawn("-m", "inlet", "read", "--group", "g", "--consumer", "c", stdout=subprocess.PIPE)
    assert first.stdout is not None
    # The pipe holds 64 KiB and nobody empties it: the reader is stuck in a write, with its entry not acked.
    seen = os.read(first.stdout.fileno(), 1_000)

    def acked() -> int:
        groups: Any = client.xinfo_groups(stream)
        return int(groups[0]["entries-read"]) - pending(client, stream, "g")

    wait_until(acked, "the first acks")
    assert pending(client, stream, "g"), "entries read and not acked"
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    while piece := os.read(first.stdout.fileno(), 65_536):
        seen += piece
    whole = [ujson.loads(text)["event_id"] for text in seen.split(b"\n")[:-1]]
    second = spawn("-m", "inlet", "read", "--group", "g", "--consumer", "c", "--once", stdout=subprocess.PIPE)
    output, _ = second.communicate(timeout=60)
    again = [ujson.loads(text)["event_id"] for text in output.splitlines()]
    assert second.returncode == 0
    assert sorted({*whole, *again}) == sorted(wanted)
    assert (len(again), pending(client, stream, "g")) == (len(set(again)), 0)
    assert len(again) < len(wanted), "what was acked does not come again"


def test_the_sqlite_example_says_what_to_install_where_the_package_is_missing(tmp_path: Path) -> None:
    # -S and -E: neither site-packages nor PYTHONPATH.
    words = [sys.executable, "-S", "-E", "examples/sqlite_exactly_once.py", str(tmp_path / "out.db")]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "pip install ." in result.stderr
