"""What a commit costs this process: microseconds of CPU (user and system), over a real store on a unix socket.

python -m bench.commits --rounds 5

``pack`` packs an XADD, as redis-py does in ``redis-py pack``. ``redis-py`` and ``wire`` send a packed one and read its
reply, by redis-py's connection and by the sink's own wire, which reads with hiredis from the same socket. ``sink loop``
and ``sink blocking`` are the whole way of a commit's requests through the sink: append, begin (twice) and commit of
each. A record is 413 bytes, as one of the benchmark's is stored. ``spans`` splits 10,000 lines into entries of 1 MiB:
how long that holds the loop.
"""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable
from typing import Any

from bench import micro
from bench.store import STREAM, BenchStore
from wsgi.sink.backpressure import Backpressure
from wsgi.sink.batches import Batches
from wsgi.sink.circuit import Circuit
from wsgi.sink.driver import Driver
from wsgi.sink.durability import RECEIVED, STORED
from wsgi.sink.flight import xadd
from wsgi.sink.link import Link
from wsgi.sink.probe import Probe
from wsgi.sink.spans import spans
from wsgi.sink.waits import Waits
from wsgi.sink.watcher import Watcher
from wsgi.sink.wire import Wire

COMMITS = 2_000
"""Commits of a run: about a tenth of a second."""
RECORDS = (1, 25)
"""Records a commit: an idle worker's, and one with 64 connections."""
LINE = b"x" * 413
TURN_MILLISECONDS = 10
"""How long a turn of the loop waits: the first one has nothing to wait for while the link connects."""
_KEY = STREAM.encode()


class PollWatch:
    """A loop of one file descriptor: the least that a server can give the sink."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callback: Callable[[str], object] = lambda event: None

    def watch(self, fd: int, callback: Callable[[str], object]) -> PollWatch:
        """Watch ``fd``."""
        self._poll.register(fd, select.POLLIN)
        self._callback = callback
        return self

    def want_write(self, on: bool) -> None:
        """Do nothing: what is sent here fits the socket."""

    def deadline(self, seconds: float | None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def turn(self) -> None:
        """Wait for the socket, and report it."""
        if self._poll.poll(TURN_MILLISECONDS):
            self._callback("readable")


def _driver(url: str) -> Driver:
    driver = Driver(url, connect_timeout_ms=1_000, commit_timeout_ms=15_000)
    driver.connect()
    return driver


def _batches(url: str) -> Batches:
    waits, circuit = Waits(replicas=1, commit_timeout_ms=15_000), Circuit()
    pressure = Backpressure(backlog_max=0, memory_percent_max=100)
    watcher = Watcher(Probe(_driver(url), waits, STREAM), circuit, pressure, level=STORED)
    watcher.start = lambda: None  # type: ignore[method-assign]  # no thread beside the measurement
    return Batches(
        lambda level: Link(_driver(url), waits, level), circuit, watcher, STREAM,
        level=STORED, entry_bytes_max=1_048_576, inflight_bytes_max=2**26, inflight_requests_max=2**14,
    )  # fmt: skip


def _redis_py(url: str, records: int) -> Callable[[], object]:
    connection: Any = _driver(url)._connection
    lines = [LINE] * records

    def one() -> None:
        connection.send_packed_command([xadd(_KEY, lines)])
        connection.read_response()

    return one


def _redis_py_pack(url: str, records: int) -> Callable[[], object]:
    connection: Any = _driver(url)._connection
    lines = [LINE] * records
    return lambda: connection.pack_command("XADD", _KEY, "*", "r", b"\n".join(lines), "n", len(lines))


def _pack(url: str, records: int) -> Callable[[], object]:
    lines = [LINE] * records
    return lambda: xadd(_KEY, lines)


def _wire(url: str, records: int) -> Callable[[], object]:
    driver = _driver(url)
    wire, lines = Wire(driver.socket()), [LINE] * records

    def one() -> object:
        wire.send(xadd(_KEY, lines))
        wire.wait(15_000)
        return driver, wire.receive()

    return one


def _loop(url: str, records: int) -> Callable[[], object]:
    batches, loop = _batches(url), PollWatch()

    def one() -> None:
        tickets = [batches.append([LINE], RECEIVED) for _ in range(records)]
        waiting = [ticket.begin(loop.watch) for ticket in tickets]
        while waiting[0] is not None:
            loop.turn()
            waiting = [ticket.begin(loop.watch) for ticket in tickets]
        for ticket in tickets:
            ticket.commit()

    return one


def _blocking(url: str, records: int) -> Callable[[], object]:
    batches = _batches(url)

    def one() -> None:
        for ticket in [batches.append([LINE], RECEIVED) for _ in range(records)]:
            ticket.commit()

    return one


def cases(url: str) -> dict[str, Callable[[], object]]:
    """Return one commit of each case, by name."""
    lines, starts = [b"x" * 500] * 10_000, [0]
    table: dict[str, Callable[[], object]] = {"spans 10,000 lines": lambda: spans(lines, starts, 1_048_576)}
    for records in RECORDS:
        for name, make in (
            ("redis-py pack", _redis_py_pack), ("pack", _pack), ("redis-py", _redis_py), ("wire", _wire),
            ("sink loop", _loop), ("sink blocking", _blocking),
        ):  # fmt: skip
            table[f"{name}, {records} records"] = make(url, records)
    return table


def run(rounds: int, commits: int = COMMITS) -> dict[str, float]:
    """Return the best of ``rounds`` runs of each case, interleaved: microseconds of CPU a commit."""
    with BenchStore() as store:
        gc.disable()
        table = cases(store.url)
        best = dict.fromkeys(table, float("inf"))
        for _ in range(rounds):
            for name, one in table.items():
                one()
                calls = commits if "records" in name else max(1, commits // 100)
                began = time.process_time()
                for _ in range(calls):
                    one()
                best[name] = min(best[name], (time.process_time() - began) / calls * 1_000_000)
            store.client.delete(STREAM)
        gc.enable()
    return best


if __name__ == "__main__":
    micro.main(__doc__, run, rounds=5)
