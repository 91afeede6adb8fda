"""What the commands print: lines that survive ``| head``, messages on stderr, numbers for people.

What lives here: as above. What must not: what any one command prints.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

import ujson

from inlet.consumer.stopping import WAIT_SLICE_SECONDS
from inlet.stream.record import Record

PROGRESS_SECONDS = 0.5
"""Seconds between two progress lines."""


def members(record: Record) -> dict[str, Any]:
    """Return a record as JSON's members, in the order of docs/protocol.md."""
    return record._asdict()


def line(value: dict[str, Any]) -> bytes:
    """Return one line of NDJSON, which a terminal can show: what is not printable is escaped."""
    text = ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False)
    if not text.isprintable():
        # C1 controls and marks that change the direction of text; a lone surrogate, which only another writer can have
        # put there.
        text = ujson.dumps(value, ensure_ascii=True, escape_forward_slashes=False)
    return text.encode() + b"\n"


def write(data: bytes) -> None:
    """Write all of ``data`` to stdout; the kernel has it when this returns. Raises BrokenPipeError."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def write_lines(data: bytes, before_waiting: Callable[[], object], stopped: Callable[[], bool]) -> bool:
    """Do as ``write``; return False if stopped while the reader of a pipe keeps this waiting, with a part written.

    ``before_waiting`` is called whenever that reader is slow. Lines of up to PIPE_BUF bytes (4 KiB) are written whole
    or not at all.
    """
    if stat.S_ISREG(os.fstat(1).st_mode):
        write(data)
        return True
    poller = select.poll()
    poller.register(1, select.POLLOUT)
    done = 0
    while done < len(data):
        if not poller.poll(0):
            before_waiting()
            while not poller.poll(WAIT_SLICE_SECONDS * 1000):
                if stopped():
                    return False
        # POLLOUT promises no more than PIPE_BUF bytes; a longer write could wait in the middle.
        end = data.rfind(b"\n", done, done + select.PIPE_BUF) + 1 or done + select.PIPE_BUF
        done += os.write(1, data[done:end])
    return True


def check_pipe() -> None:
    """Raise BrokenPipeError if the reader of stdout is gone; otherwise only the next write would find out."""
    poller = select.poll()
    poller.register(1, 0)
    # Not POLLNVAL: a stdout that was closed from the start has no reader to lose.
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0)):
        raise BrokenPipeError(errno.EPIPE, "the reader of the pipe is gone")


def say(
    value: dict[str, Any], text: str, arguments: argparse.Namespace, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Print one result: as JSON with ``--json``, else as text. Left out if stopped while nobody reads the pipe."""
    data = line(value) if arguments.json else text.encode(errors="replace") + b"\n"
    write_lines(data, lambda: None, stopped)


def warn(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(f"inlet: {text}\n")


class Progress:
    """Show the progress of long work on stderr, only if that is a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def show(self, done: int, total: int | None = None) -> None:
        """Print the progress, at most every ``PROGRESS_SECONDS``."""
        now = time.monotonic()
        if self._terminal and now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            of = f" of {total:,}" if total is not None else ""
            sys.stderr.write(f"\r\x1b[K{self._what}: {done:,}{of}")
            sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        if self._terminal and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: log messages may hold escape sequences."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" if ord(char) < 256 else "?" for char in text)


def age(milliseconds: float | None) -> str:
    """Return a time span for people, such as ``2.5h``."""
    if milliseconds is None:
        return "-"
    seconds = max(0.0, milliseconds / 1000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


def entry_ms(entry_id: str) -> int:
    """Return the time in an entry ID: milliseconds since 1970."""
    return int(entry_id.partition("-")[0])
