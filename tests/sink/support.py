"""The sink's parts put together as app.py does it, over a store of the test's choice; and stores of a test's own."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.sink.loop import Loop, LoopTicket
from tests.support import DEADLINE_SECONDS, wait_until
from wsgi.problems import SinkError
from wsgi.sink.backpressure import Backpressure
from wsgi.sink.batches import Batches
from wsgi.sink.circuit import Circuit
from wsgi.sink.dedup import Dedup
from wsgi.sink.driver import Driver
from wsgi.sink.durability import RECEIVED, STORED
from wsgi.sink.link import Link
from wsgi.sink.probe import Probe, Streams
from wsgi.sink.waits import Waits
from wsgi.sink.watcher import LOOK_SECONDS_MAX, Watcher
from wsgi.store.server import server_binary


class Sink:
    """Batches, circuit and watcher of one stream.

    ``driven``: by "blocking" calls, or by a "loop". Every promise of a commit holds for both.
    """

    driven = "blocking"

    def __init__(
        self,
        url: str,
        stream: str,
        *,
        entry_bytes_max: int = 1_000_000,
        commit_timeout_ms: int = 2_000,
        level: int = STORED,
        inflight_bytes_max: int = 1_000_000,
        inflight_requests_max: int = 1_000,
        backlog_max: int = 0,
        look_seconds_max: float = LOOK_SECONDS_MAX,
        retention: bool = False,
        streams: Streams | None = None,
        dedup_seconds: int = 0,
    ) -> None:
        waits = Waits(replicas=1, commit_timeout_ms=commit_timeout_ms)
        self.dedup = dedup = Dedup(dedup_seconds) if dedup_seconds else None
        self.loop = Loop()
        self.links: dict[int, Link] = {}

        def link(level: int) -> Link:
            self.links[level] = Link(driver(url, commit_timeout_ms), waits, level, dedup)
            return self.links[level]

        self.circuit = Circuit()
        self.watcher = Watcher(
            Probe(
                driver(url, commit_timeout_ms),
                waits,
                stream,
                backlog=backlog_max > 0,
                retention=retention,
                streams=streams,
                dedup=dedup,
            ),
            self.circuit,
            Backpressure(backlog_max=backlog_max, memory_percent_max=95),
            level=level,
            look_seconds_max=look_seconds_max,
        )
        self.batches = Batches(
            link,
            self.circuit,
            self.watcher,
            stream,
            level=level,
            entry_bytes_max=entry_bytes_max,
            inflight_bytes_max=inflight_bytes_max,
            inflight_requests_max=inflight_requests_max,
            streams=streams,
        )

    def append(self, lines: list[bytes], level: int = RECEIVED, destination: bytes | None = None) -> Any:
        """Append; return a ticket whose ``commit`` is driven as this class says."""
        ticket = self.batches.append(lines, level, destination)
        return LoopTicket(self.loop, ticket) if self.driven == "loop" else ticket

    def check(self) -> None:
        """Raise what readiness says right after a look."""
        self.watcher.look()
        self.ready()

    def ready(self) -> None:
        """Raise what readiness says."""
        if (error := self.watcher.readiness()) is not None:
            raise error


def driver(url: str, commit_timeout_ms: int = 2_000) -> Driver:
    """A connection to the store, not yet opened."""
    return Driver(url, connect_timeout_ms=1_000, commit_timeout_ms=commit_timeout_ms)


@contextlib.contextmanager
def refused(*reasons: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[SinkError]]:
    """Expect a SinkError with one of these reasons."""
    with pytest.raises(SinkError, match=match) as caught:
        yield caught
    assert caught.value.reason in reasons


def once_closed(subject: Sink, *lines: bytes) -> Any:
    """Append as soon as the circuit is closed again; the ticket."""

    def append() -> Any:
        try:
            return subject.append(list(lines))
        except SinkError as error:
            if error.reason not in ("sink-unavailable", "sink-misconfigured"):
                raise
            return None

    return wait_until(append, "the circuit closes")


class Store:
    """A valkey-server with options of its own, on a unix socket and a TCP port."""

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inlet-"))
        self.path = self.directory / "s.sock"
        self.url = f"unix://{self.path}"
        self.process = subprocess.Popen(
            [server_binary(), "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.directory),
             "--save", "", "--repl-diskless-sync-delay", "0", *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.client: Any = redis.Redis(unix_socket_path=str(self.path))

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(self.client.ping())
            return False

        wait_until(answers, "the store answers")

    def close(self) -> None:
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)
