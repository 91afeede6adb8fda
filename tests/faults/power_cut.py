"""Power cut: what of the append-only file was on the disk at any instant, from a trace of the store's system calls.

What lives here: strace's lines to write and fdatasync calls, the file's commands to event ids, and the cut. What must
not: the server, the load.

When the power goes, what a completed fdatasync(2) covered is kept; what was only written may be gone. So the file as it
would be found after a cut at the instant t is its first ``durable(t)`` bytes: as far as the writes went that had ended
when the last fdatasync that ended before t began. (What the disk itself does with a completed fdatasync is the disk's
promise.)
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from bisect import bisect_right, insort
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ujson

from tests.faults.load import Answer
from tests.support import DEADLINE_SECONDS, wait_until

CALLS = "write,writev,pwrite64,fsync,fdatasync"
DETACH_SECONDS = 15.0
"""Time for strace to let go of what it traces after SIGINT: usually milliseconds."""
MISSING = 2**63
"""The position of a record that is nowhere in the file."""
_FILE = r"<[^>]*\.incr\.aof>"
_WHOLE = re.compile(rf"(\d+) +([\d.]+) (\w+)\(\d+{_FILE}.*\) += (-?\d+).*<([\d.]+)>$")
_BEGUN = re.compile(rf"(\d+) +([\d.]+) (\w+)\(\d+{_FILE}.*<unfinished \.\.\.>$")
_ENDED = re.compile(r"(\d+) +([\d.]+) <\.\.\. (\w+) resumed>.*\) += (-?\d+)")


class Call(NamedTuple):
    """One system call on the append-only file. Times as ``time.time()``."""

    name: str
    began: float
    ended: float
    result: int


@functools.cache
def no_strace() -> str:
    """Why no process can be traced here; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "60"]) as victim, tempfile.TemporaryDirectory(prefix="inlet-") as directory:
        try:
            with traced(victim.pid, Path(directory) / "trace"):
                return ""
        except AssertionError as error:
            return f"strace is not permitted here: {error}"
        finally:
            victim.kill()


@contextlib.contextmanager
def traced(pid: int, output: Path, *expressions: str) -> Iterator[None]:
    """Trace all threads of a process into ``output`` meanwhile; ``expressions`` are strace's -e, by default CALLS."""
    errors = output.with_suffix(".err")
    words = [word for expression in expressions or (f"trace={CALLS}",) for word in ("-e", expression)]
    with open(errors, "wb") as said:
        tracer = subprocess.Popen(
            ["strace", "-f", "-ttt", "-T", "-y", "-s", "0", *words, "-o", str(output), "-p", str(pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip

    def attached() -> bool:
        assert tracer.poll() is None, errors.read_text(errors="replace")
        statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
        return all(f"TracerPid:\t{tracer.pid}\n" in status for status in statuses)

    try:
        wait_until(attached, "strace has attached to every thread")
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        try:
            tracer.wait(DETACH_SECONDS)
        except subprocess.TimeoutExpired:
            # Seen once, on a busy machine. The kernel lets go of what a dead tracer holds.
            tracer.kill()
            tracer.wait(DEADLINE_SECONDS)


def freeze(pid: int, trace: Path) -> None:
    """SIGSTOP a traced process, and wait until its main thread has stopped; ``trace`` is strace's output.

    /proc does not tell this stop from those that strace makes at each call.
    """
    stop = re.compile(rf"^{pid} .*--- stopped by SIGSTOP ---$", re.MULTILINE)
    before = len(stop.findall(trace.read_text()))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: len(stop.findall(trace.read_text())) > before, "the traced process stops")


def is_held(pid: int) -> bool:
    """Whether strace holds the main thread of a process: in a call that it delays, or for an instant in any other."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "t"
    return False


def calls(trace: str) -> list[Call]:
    """The calls on the append-only file, in the order in which they ended."""
    found, open_calls = [], dict[str, tuple[str, float]]()
    for line in trace.splitlines():
        if whole := _WHOLE.match(line):
            _, began, name, result, seconds = whole.groups()
            found.append(Call(name, float(began), float(began) + float(seconds), int(result)))
        elif begun := _BEGUN.match(line):
            open_calls[begun[1]] = begun[3], float(begun[2])
        elif (ended := _ENDED.match(line)) and open_calls.get(ended[1], ("", 0.0))[0] == ended[3]:
            name, at = open_calls.pop(ended[1])
            found.append(Call(name, at, float(ended[2]), int(ended[4])))
    return sorted(found, key=lambda call: call.ended)


class Disk:
    """What was durable when. ``size``: bytes of the file, all durable, when the trace began."""

    def __init__(self, size: int, traced_calls: list[Call]) -> None:
        self.written = [(float("-inf"), size)]  # (when it was written, up to here), rising
        self._synced = [(float("-inf"), size)]  # (when the sync ended, what it covers), rising
        for call in traced_calls:
            if "write" in call.name and call.result > 0:
                self.written.append((call.ended, self.written[-1][1] + call.result))
            elif "sync" in call.name and call.result == 0:
                self._synced.append((call.ended, max(_at(self.written, call.began), self._synced[-1][1])))

    def durable(self, when: float) -> int:
        """Bytes of the file that survive a power cut at ``when``."""
        return _at(self._synced, when)

    def window(self) -> float:
        """Seconds: the longest that written bytes waited for the end of the sync that covers them."""
        waits = [0.0]
        for when, size in self.written[1:]:
            ends = next((ended for ended, covered in self._synced if covered >= size), None)
            if ends is not None:
                waits.append(ends - when)
        return max(waits)


def _at(steps: list[tuple[float, int]], when: float) -> int:
    """The value of a step function at ``when``."""
    return steps[bisect_right(steps, (when, MISSING)) - 1][1]


def positions(file: bytes, stream: str) -> dict[str, int]:
    """Event id -> the offset at which the command that adds it ends in an append-only file (RESP commands)."""
    found: dict[str, int] = {}
    at = 0
    while at < len(file):
        assert file[at : at + 1] == b"*", f"no command at {at}"
        end = file.index(b"\r\n", at)
        count, at = int(file[at + 1 : end]), end + 2
        words = []
        for _ in range(count):
            end = file.index(b"\r\n", at)
            length = int(file[at + 1 : end])
            words.append(file[end + 2 : end + 2 + length])
            at = end + 2 + length + 2
        if words[0].upper() == b"XADD" and words[1] == stream.encode():
            for line in words[words.index(b"r") + 1].split(b"\n"):
                found[str(ujson.loads(line)[0])] = at
    return found


class Cut(NamedTuple):
    """The power goes at ``when``: what had been answered 202 by then, and what of it the disk holds."""

    when: float
    size: int
    answered: int
    lost: int


def worst_cut(disk: Disk, where: dict[str, int], answers: list[Answer]) -> Cut:
    """The cut that loses the most. It comes just after an answer: only an answer adds to what may be lost."""
    ends: list[int] = []  # of each record answered 202 so far, where it ends in the file; sorted
    worst = Cut(0.0, 0, 0, -1)
    for answer in sorted(answers, key=lambda answer: answer.ended):
        for event_id in answer.promised:
            insort(ends, where.get(event_id, MISSING))
        size = disk.durable(answer.ended)
        lost = len(ends) - bisect_right(ends, size)
        worst = max(worst, Cut(answer.ended, size, len(ends), lost), key=lambda cut: (cut.lost, cut.answered))
    return worst
