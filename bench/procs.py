"""What a process tree costs: CPU time and memory, read from /proc (Linux, proc(5)).

What lives here: readers and a sampler. What must not: starting or ending processes, knowing whose they are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""Unit of the CPU times in /proc/<pid>/stat."""
SAMPLE_SECONDS = 0.5
"""Between two readings of memory: a reading costs the kernel about a millisecond per process."""

_PROC = Path("/proc")


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third on, or None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses, which may hold spaces and parentheses.
    return text.rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """``root`` and all its descendants that live now; empty if ``root`` does not."""
    if _stat(root) is None:
        return []
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """CPU time, user and system, of the tree so far, with that of children it has waited for."""
    ticks = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks * TICK_SECONDS


def pss_bytes(pid: int) -> int:
    """Proportional set size of one process: its own pages, and its share of the shared ones; 0 if it is gone."""
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def command(pid: int) -> str:
    """Name of the program a process runs, 15 characters at most (comm, proc(5)); empty if it is gone."""
    # Not cmdline: valkey-server writes a title of its own there.
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Sampler:
    """Calls ``read`` every ``SAMPLE_SECONDS`` in a thread, from ``with`` to its end, and once more there."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = 0

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._read())

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self._read())


def tree_pss_bytes(root: int) -> int:
    """Sum over the tree."""
    return sum(map(pss_bytes, tree(root)))
