"""The workers of a running service, seen from outside: whose connection is whose, and their memory (Linux, proc(5)).

What lives here: reading ``/proc``, and connections spread over the workers. What must not: loads, starting servers.

A stall of one worker is seen by the clients that are connected to it alone. So the clients of a stall row are spread
evenly over the workers by looking, not by luck.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from bench import procs

SECONDS_MAX = 30.0
"""How long it may take until all workers are there, and until each has its share of connections."""
POLL_SECONDS = 0.005
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"
"""A request that every worker answers by itself."""
_PROC = Path("/proc")
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class Unspread(RuntimeError):
    """The connections could not be spread over the workers."""


def workers(root: int, count: int) -> list[int]:
    """Return the processes that serve, once there are ``count`` of them: children of ``root``, or itself for 0."""
    deadline = time.monotonic() + SECONDS_MAX
    while len(pids := procs.tree(root)[1:]) != count:
        if time.monotonic() > deadline:
            raise Unspread(f"there are {len(pids)} workers, and there should be {count}")
        time.sleep(POLL_SECONDS)
    return pids or [root]


def _sockets(pid: int) -> set[str]:
    """Return the sockets that a process has open, by inode."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(_PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                if match := _SOCKET.fullmatch(os.readlink(descriptor.path)):
                    found.add(match[1])
    return found


def spread(pids: list[int], port: int, count: int) -> list[socket.socket]:
    """Return ``count`` connections, as many to each worker as to any other, or one more; blocking, without a timeout.

    Each has had an answer to GET /healthz, so one worker has a socket more than before: the one that has accepted it.
    Where two have (a connection to the store), that is not known, and another one is made. Raises Unspread if some
    worker takes too few.
    """
    share = {pid: count // len(pids) + (n < count % len(pids)) for n, pid in enumerate(pids)}
    kept: list[socket.socket] = []
    deadline = time.monotonic() + SECONDS_MAX
    while len(kept) < count:
        if time.monotonic() > deadline:
            raise Unspread(f"of {count} connections, these are missing (by the worker's pid): {share}")
        before = {pid: _sockets(pid) for pid in pids}
        connection = socket.create_connection(("127.0.0.1", port), SECONDS_MAX)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ask(connection)
        owners = [pid for pid in pids if _sockets(pid) - before[pid]]
        if len(owners) == 1 and share[owners[0]] > 0:
            share[owners[0]] -= 1
            connection.settimeout(None)
            kept.append(connection)
        else:
            connection.close()
    return kept


def _ask(connection: socket.socket) -> None:
    connection.sendall(HEALTH)
    with connection.makefile("rb") as answer:
        fields = dict(line.lower().split(b": ", 1) for line in iter(answer.readline, b"\r\n") if b": " in line)
        answer.read(int(fields[b"content-length"]))


@dataclass(frozen=True)
class Memory:
    """Resident memory of one worker, in bytes: now, and the most since ``forget_peaks``."""

    now: int
    peak: int


def forget_peaks(pids: list[int]) -> None:
    """Let the peaks start from what the workers have now."""
    for pid in pids:
        (_PROC / str(pid) / "clear_refs").write_text("5")


def memory(pids: list[int]) -> dict[int, Memory]:
    """Return the memory of each worker that lives."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            text = (_PROC / str(pid) / "status").read_text()
            if values := dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE)):
                found[pid] = Memory(int(values["VmRSS"]) * 1024, int(values["VmHWM"]) * 1024)
    return found
