"""Consumers that die of a record, or of kill -9, beside records that fail: letters for those records, and no others."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.consumer.support import Spawn, dead, line, spawning

DEADLINE_SECONDS = 120.0
"""How long the consumers may take: generous, since each death costs a start of Python on a shared machine."""
HEADER = """
import os, signal, sqlite3, sys, time
sys.path.insert(0, "examples")
from inlet import BadRecord, Options, Reader
def die_of(name):
    if name.startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("failing"):
        raise ValueError("always")
def reader(consumer, **more):
    options = Options(block_ms=100, claim_idle_ms=400, claim_idle_ms_max=800, entries_max=16, **more)
    return Reader(os.environ["REDIS_URL"], os.environ["INLET_STREAM"], "g", consumer, options=options)
"""
RECORDS = """
out = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def handle(record):
    die_of(record.event_id)
    os.write(out, record.event_id.encode() + b"\\n")
reader(sys.argv[2] or None, attempts_max=2).run(handle)
"""
ENTRIES = """
from sqlite_exactly_once import database, writer
write = writer(database(sys.argv[1]))
def handle(entry):
    for address, record in entry.items():
        if record.event_id.startswith("bad"):
            raise BadRecord("no", address.line)
    for record in entry.records:
        die_of(record.event_id)
    write(entry)
reader(sys.argv[2] or None, attempts_max=2).run_entries(handle)
"""
SLOW = """
out = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def handle(record):
    time.sleep(0.05)
    os.write(out, record.event_id.encode() + b"\\n")
reader(sys.argv[2] or None).run(handle)
"""


@pytest.fixture
def spawn(valkey: str, stream: str) -> Iterator[Spawn]:
    with spawning(valkey, stream) as start:
        yield start


def fill(client: Any, stream: str, names: list[str], entry_records: int) -> None:
    """These records, in entries of so many."""
    for first in range(0, len(names), entry_records):
        lines = [line(name) for name in names[first : first + entry_records]]
        client.xadd(stream, {"r": b"\n".join(lines), "n": len(lines)})


def done(client: Any, stream: str) -> bool:
    groups = client.xinfo_groups(stream)
    return bool(groups) and groups[0]["lag"] == 0 and groups[0]["pending"] == 0


def keep_three(start: Callable[[int], subprocess.Popen[bytes]], over: Callable[[], bool], kill_seconds: float) -> int:
    """Three processes, started anew when they end; one is killed every ``kill_seconds``, if not 0, until ``over``."""
    processes = [start(number) for number in range(3)]
    kills, moment, deadline = 0, time.monotonic() + kill_seconds, time.monotonic() + DEADLINE_SECONDS
    while not over():
        assert time.monotonic() < deadline, "the consumers do not come to an end"
        time.sleep(0.05)
        if kill_seconds and time.monotonic() >= moment:
            processes[kills % 3].send_signal(signal.SIGKILL)
            processes[kills % 3].wait(30)
            kills, moment = kills + 1, time.monotonic() + kill_seconds
        for number, process in enumerate(processes):
            if process.poll() is not None:
                assert process.returncode == -signal.SIGKILL
                processes[number] = start(number)
    for process in processes:
        process.terminate()
        process.wait(30)
    return kills


@pytest.mark.parametrize("name", ["", "c"])
def test_a_record_that_kills_its_consumer_is_the_only_one_buried(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path, name: str
) -> None:
    names = [f"e-{number}" for number in range(200)]
    names[33], names[160] = "killer-0", "killer-1"
    fill(client, stream, names, 20)

    def start(number: int) -> subprocess.Popen[bytes]:
        return spawn("-c", HEADER + RECORDS, str(tmp_path / "out"), name and f"{name}{number}")

    keep_three(start, lambda: done(client, stream), 0)
    letters = dead(client, stream)
    assert Counter(letter[b"reason"] for letter in letters) == {b"consumer-died": 2}
    assert all(b"killer" in letter[b"record"] and letter[b"attempts"] == b"2" for letter in letters)
    handled = Counter((tmp_path / "out").read_text().split("\n"))
    assert not {name for name in names if name not in handled and "killer" not in name}
    assert client.keys(f"{stream}:try:*") == []


def test_exactly_once_holds_over_kills_and_records_that_fail_kill_or_are_bad(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    names = [f"e-{number}" for number in range(600)]
    poison = ["bad-0", "bad-1", "bad-2", "failing-0", "failing-1", "killer-0"]
    for number, name in zip(random.Random(12).sample(range(600), len(poison)), poison, strict=True):
        names[number] = name
    fill(client, stream, names, 12)
    file = tmp_path / "out.db"

    def start(number: int) -> subprocess.Popen[bytes]:
        return spawn("-c", HEADER + ENTRIES, str(file), f"c{number}")

    kills = keep_three(start, lambda: done(client, stream), 0.8)
    database = sqlite3.connect(file)
    rows = Counter(event_id for (event_id,) in database.execute("SELECT event_id FROM records"))
    database.close()
    letters = Counter(letter[b"record"].split(b'"')[1].decode() for letter in dead(client, stream))
    assert (set(rows), set(rows.values())) == (set(names) - set(poison), {1})
    assert letters == dict.fromkeys(poison, 1)
    assert kills >= 2


def test_a_slow_handler_under_kills_has_no_healthy_record_buried(
    valkey: str, client: Any, stream: str, spawn: Spawn, tmp_path: Path
) -> None:
    names = [f"e-{number}" for number in range(300)]
    fill(client, stream, names, 10)

    def start(number: int) -> subprocess.Popen[bytes]:
        return spawn("-c", HEADER + SLOW, str(tmp_path / "out"), "")

    kills = keep_three(start, lambda: done(client, stream), 0.6)
    handled = set((tmp_path / "out").read_text().split("\n"))
    assert (set(names) - handled, dead(client, stream)) == (set(), [])
    assert kills >= 8
    assert os.path.getsize(tmp_path / "out") > 0
