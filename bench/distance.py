"""A store that is milliseconds away: the delaying proxy between a peer and the store, and the check that it works.

What lives here: starting, checking and ending the proxy in ``bench/peers/delay`` (built by ``python -m bench peers``).
What must not: the store itself (``bench.store``), loads.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX, socket

from bench.peers import BUILD

PROXY = BUILD / "bin" / "delay"
START_SECONDS_MAX = 10.0
POLL_SECONDS = 0.01
PINGS = 20
"""Round trips of the check, one after the other; their median counts."""
PIPELINED = 20_000
"""Commands of the check that are sent without waiting for a reply: more than any peer has under way."""
LATE_MS_MAX = 5.0
"""How much longer a round trip may take than it should: both cores may be busy."""
PIPELINED_SECONDS_MAX = 5.0
"""How long PIPELINED commands may take: at the rate of one per round trip, it were PIPELINED times the delay."""
REPLY_SECONDS_MAX = 30.0
"""How long the check waits for anything at all."""

_PING, _PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"


class WrongDistance(RuntimeError):
    """The proxy does not delay as it should, or limits the rate; a figure taken through it would mean nothing."""


def words(near: Path, far: Path, away_ms: float) -> list[str]:
    """Return the command that makes the store at ``near`` appear at ``far``, ``away_ms`` away (a round trip)."""
    return [str(PROXY), "-listen", str(far), "-store", str(near), "-delay", f"{away_ms}ms"]


def _read(connection: socket, size: int) -> None:
    while size > 0:
        try:
            data = connection.recv(min(size, 1 << 20))
        except TimeoutError:
            raise WrongDistance(f"no reply through the proxy within {REPLY_SECONDS_MAX:.0f} s") from None
        if not data:
            raise WrongDistance("the proxy closed a connection")
        size -= len(data)


def _listens(path: Path) -> bool:
    """Whether a socket takes connections: its file is there a moment earlier."""
    with socket(AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.connect(str(path))
        return True
    return False


def _send(connection: socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever reads sees what went wrong
        connection.sendall(data)


def check(far: Path, away_ms: float) -> float:
    """Measure the proxy; raise WrongDistance, or return the round trip in milliseconds (median)."""
    with socket(AF_UNIX) as connection:
        connection.settimeout(REPLY_SECONDS_MAX)
        connection.connect(str(far))
        trips = []
        for _ in range(PINGS):
            begin = time.monotonic()
            connection.sendall(_PING)
            _read(connection, len(_PONG))
            trips.append((time.monotonic() - begin) * 1000)
        sender = threading.Thread(target=_send, args=(connection, _PING * PIPELINED))
        begin = time.monotonic()
        sender.start()
        _read(connection, len(_PONG) * PIPELINED)
        took = time.monotonic() - begin
        sender.join()
    trip = statistics.median(trips)
    if not away_ms <= trip <= away_ms + LATE_MS_MAX:
        raise WrongDistance(f"a round trip through the proxy takes {trip:.2f} ms, not {away_ms} ms")
    if took > PIPELINED_SECONDS_MAX:
        raise WrongDistance(f"{PIPELINED} pipelined commands took {took:.1f} s: the proxy limits the rate")
    return trip


@contextlib.contextmanager
def away(near: Path, away_ms: float) -> Iterator[tuple[Path, float]]:
    """Yield the socket of the store at this distance, and the round trip measured (0.0 without a proxy)."""
    if away_ms == 0:
        yield near, 0.0
        return
    directory = Path(tempfile.mkdtemp(prefix="inlet-far-"))
    far = directory / "far.sock"
    try:
        process = subprocess.Popen(words(near, far, away_ms), stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not _listens(far):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise WrongDistance("the delaying proxy does not start")
                time.sleep(POLL_SECONDS)
            yield far, check(far, away_ms)
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
