"""The ordinary clients of the stall rows: a few keep-alive connections at a fixed pace, in a process of their own.

What lives here: that process (``python -m bench.ordinary``), starting it, and the figures of what it saw. What must
not: offenders, servers.

A client sends one request every PACE_SECONDS, but waits for its answer first. While it waits, it sends less, so a stall
of a second would count once. It is therefore counted for each request that would have been sent meanwhile, as
HdrHistogram corrects for coordinated omission: what a client that comes at any moment has to expect. All answers are
awaited, however late, and those over DEADLINE_SECONDS are counted: a real client would have given up.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.peers import ROOT

PACE_SECONDS = 0.01
"""Between two requests of a client: four clients send 400 requests a second, a few percent of what a worker can do."""
DEADLINE_SECONDS = 1.0
"""How long an ordinary client would wait for its answer."""
LAST_SECONDS_MAX = 60.0
"""How long the answers that are still due when the run ends may take; what is missing then has status 0."""
READ_BYTES = 65_536
PRIORITY = 10
"""Of the process, SCHED_FIFO where that is permitted: what its own wait for a core costs is not the server's doing."""


class Sample(NamedTuple):
    """One request. ``began``: when, by ``time.monotonic``; ``status`` is 0 where no answer came."""

    began: float
    seconds: float
    status: int


@dataclass(frozen=True)
class Figures:
    """What the clients saw in a window of time.

    Latencies in milliseconds, corrected. ``requests``: those sent; ``late_percent``: over DEADLINE_SECONDS, corrected.
    """

    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_percent: float
    statuses: dict[str, int]


def figures(samples: list[Sample], begin: float = 0.0, end: float = float("inf")) -> Figures:
    """Return what there was to see from ``begin`` to ``end``, corrected; NaN where there was nothing.

    A request that was sent before ``begin`` and answered after it counts, but only for those that would have followed.
    """
    chosen = [sample for sample in samples if sample.began <= end and sample.began + sample.seconds >= begin]
    ordered = sorted(seconds for sample in chosen for seconds in corrected(sample, begin, end)) or [float("nan")]
    # Nearest rank: the smallest value that so many in a hundred do not exceed.
    p50, p99, most = (ordered[max(-(-len(ordered) * percent // 100), 1) - 1] * 1000 for percent in (50, 99, 100))
    statuses = collections.Counter(str(sample.status) for sample in chosen)
    late = 100 * sum(seconds > DEADLINE_SECONDS for seconds in ordered) / len(ordered)
    return Figures(len(chosen), p50, p99, most, late, dict(statuses))


def corrected(sample: Sample, begin: float = 0.0, end: float = float("inf")) -> Iterator[float]:
    """Yield how long a request took that was sent from ``begin`` to ``end``: this one, and those it has prevented."""
    answered = sample.began + sample.seconds
    if begin <= sample.began <= end:
        yield sample.seconds
    count = max(1, math.ceil((begin - sample.began) / PACE_SECONDS))
    while (due := sample.began + count * PACE_SECONDS) < answered and due <= end:
        yield answered - due
        count += 1


class Ordinary:
    """``with Ordinary(sockets, request) as clients``: they send until ``stop``, which returns every sample.

    ``sockets``: connected ones, one a client; they are the process's from then on. ``request``: its bytes.
    """

    def __init__(self, sockets: list[socket.socket], request: bytes) -> None:
        port = sockets[0].getpeername()[1]
        descriptors = [one.fileno() for one in sockets]
        words = [json.dumps({"port": port, "descriptors": descriptors, "request": request.decode("latin-1")})]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.ordinary", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
        )
        for one in sockets:
            one.close()

    def __enter__(self) -> Ordinary:
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun
        return self

    def stop(self) -> list[Sample]:
        """Send nothing more, wait for the answers that are due, and return all samples, by when they began."""
        output, _ = self._process.communicate()
        return sorted(Sample(*row) for row in json.loads(output))

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class _Client:
    """One connection: when it sends next, what it waits for, what has come."""

    def __init__(self, connection: socket.socket, port: int, request: bytes, due: float, poll: select.epoll) -> None:
        self.connection, self._port, self._request, self._poll = connection, port, request, poll
        self.due = due
        self.began: float | None = None
        self._data = b""
        self.samples: list[Sample] = []
        self._connected = True
        poll.register(connection, select.EPOLLIN)

    def tick(self, now: float) -> None:
        """Send the request if it is due and the client is free."""
        if self.due > now or self.began is not None:
            return
        self.began, self.due = now, max(self.due + PACE_SECONDS, now)
        if self._connected or self._connect():
            with contextlib.suppress(OSError):  # then the next read finds the end
                self.connection.sendall(self._request)
        else:
            self.end(0)

    def read(self) -> None:
        """Take what has arrived: perhaps the end of an answer, or of the connection."""
        data = b""
        with contextlib.suppress(OSError):
            data = self.connection.recv(READ_BYTES)
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        lower = head.lower()
        if not data:
            self._close()
            self.end(0)
        elif found and len(body) >= int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0]):
            if b"connection: close" in lower:
                self._close()
            self.end(int(head.split(b" ", 2)[1]))

    def end(self, status: int) -> None:
        """Note the end of the request under way, if there is one."""
        if self.began is not None:
            self.samples.append(Sample(self.began, time.monotonic() - self.began, status))
        self.began, self._data = None, b""

    def _close(self) -> None:
        self._poll.unregister(self.connection)
        self._connected = False

    def _connect(self) -> bool:
        """Connect again, on the same descriptor; return whether that worked."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), DEADLINE_SECONDS) as new:
            new.settimeout(None)
            os.dup2(new.fileno(), self.connection.fileno())
            self._poll.register(self.connection, select.EPOLLIN)
            self._connected = True
        return self._connected


def run(connections: list[socket.socket], port: int, request: bytes) -> list[Sample]:
    """Send until standard input ends, then wait for the answers that are due."""
    start = time.monotonic()
    step = PACE_SECONDS / len(connections)
    poll = select.epoll()
    clients = [_Client(one, port, request, start + step * n, poll) for n, one in enumerate(connections)]
    of = {client.connection.fileno(): client for client in clients}
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    sending = True
    while sending:
        for client in clients:
            client.tick(time.monotonic())
        due = [client.due for client in clients if client.began is None]
        for descriptor, _ in poll.poll(max(min(due) - time.monotonic(), 0.0) if due else None):
            if descriptor in of:
                of[descriptor].read()
            else:
                sending = False
    poll.unregister(sys.stdin.fileno())
    ends = time.monotonic() + LAST_SECONDS_MAX
    while any(client.began is not None for client in clients) and time.monotonic() < ends:
        for descriptor, _ in poll.poll(PACE_SECONDS):
            of[descriptor].read()
    for client in clients:
        client.end(0)
    return [sample for client in clients for sample in client.samples]


def main(words: list[str] | None = None) -> int:
    """Run the clients that the one argument (JSON) describes; print a line once they begin, and their samples."""
    given: dict[str, Any] = json.loads((words or sys.argv[1:])[0])
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    connections = [socket.socket(fileno=descriptor) for descriptor in given["descriptors"]]
    print("sending", flush=True)
    samples = run(connections, given["port"], given["request"].encode("latin-1"))
    print(json.dumps(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
