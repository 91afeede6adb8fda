"""What the commands share: exit codes, where the store is, output that survives ``| head``, numbers for people.

What lives here: as above. What must not: what any one command does.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ujson

from consumer import plan
from consumer.errors import ConsumerError, StoreAway
from consumer.link import Link
from wsgi import settings as env
from wsgi.errors import SettingsError
from wsgi.record import Record

OK = 0
FAILED = 1
USAGE = 2
STORE = 3
UNSAFE = 4

EXIT_CODES = """exit codes:
  0  done, or ended by Ctrl-C, TERM or a reader that closed the pipe; what was handled is acked
  1  the work failed: a record, a file or a command; one line on stderr says which
  2  wrong usage or a wrong environment variable
  3  the store cannot be reached, or refuses (password, permission, the key is no stream)
  4  refused, since records that a group has not acked would be lost
"""

PROGRESS_SECONDS = 0.5
"""Between two progress lines."""


class Usage(ConsumerError):
    """The command line or the environment is wrong."""


@dataclass(frozen=True)
class Place:
    """Where the stream is."""

    url: str
    stream: str
    keys: tuple[str, ...]

    @property
    def partitions(self) -> int:
        """How many streams make up the stream."""
        return len(self.keys)


def place_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    where = parser.add_argument_group("where the stream is")
    where.add_argument("--url", help="the store; default: REDIS_URL, else the embedded store of INLET_DATA_DIR")
    where.add_argument("--stream", help="its key; default: INLET_STREAM, else logs")
    where.add_argument(
        "--partitions", type=int, metavar="N", help="how many streams it is; default: as Inlet has it, or 1"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout: one object a line, also without a pipe")


def place(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Place:
    """Where the stream is, from the command line and the environment; raises Usage."""
    try:
        settings = env.load(environ)
        # Not every version of Inlet has partitions.
        partitions = getattr(settings, "partitions", 1) if arguments.partitions is None else arguments.partitions
        keys = plan.keys(arguments.stream or settings.stream, partitions)
    except SettingsError as error:
        raise Usage(error.detail) from None
    except ValueError as error:
        raise Usage(str(error)) from None
    if arguments.stream and not arguments.stream.isprintable():
        raise Usage("--stream must be printable")
    return Place(arguments.url or env.store_url(settings), arguments.stream or settings.stream, keys)


def link(where: Place, block_ms: int = 0) -> Link:
    """A connection to the store that has answered once, be it that it is loading; raises StoreAway with what to do."""
    connection = Link(where.url, block_ms)
    try:
        connection.one("PING")
    except StoreAway as error:
        if "loading" in error.detail.lower():
            return connection
        hint = "is Inlet running (make run)?" if where.url.startswith("unix:") else "is REDIS_URL right?"
        raise StoreAway(f"{error.detail} ({env.redacted(where.url)}); {hint}") from None
    return connection


def members(record: Record) -> dict[str, Any]:
    """A record as JSON's members, in the order of docs/protocol.md."""
    return record._asdict()


def line(value: dict[str, Any]) -> bytes:
    """One line of NDJSON."""
    try:
        return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode() + b"\n"
    except UnicodeEncodeError:
        # A lone surrogate, which only another writer can have put there.
        return ujson.dumps(value, ensure_ascii=True, escape_forward_slashes=False).encode() + b"\n"


def write(data: bytes, before_waiting: Callable[[], object] | None = None) -> None:
    """All of ``data`` on stdout, given to the kernel when this returns; raises BrokenPipeError.

    ``before_waiting`` is called where the write would wait for whoever reads, but for a file.
    """
    view = memoryview(data)
    if before_waiting is None or stat.S_ISREG(os.fstat(1).st_mode):
        while view:
            view = view[os.write(1, view) :]
        return
    poller = select.poll()
    poller.register(1, select.POLLOUT)
    while view:
        if not poller.poll(0):
            before_waiting()
        # POLLOUT promises no more than PIPE_BUF bytes; a longer write could wait in the middle.
        view = view[os.write(1, view[: select.PIPE_BUF]) :]


def check_pipe() -> None:
    """Raise BrokenPipeError where whoever read from stdout is gone: else only the next write would tell."""
    poller = select.poll()
    poller.register(1, 0)
    if poller.poll(0):
        raise BrokenPipeError(errno.EPIPE, "nobody reads any more")


def say(value: dict[str, Any], text: str, arguments: argparse.Namespace) -> None:
    """One result: as JSON with ``--json``, else as text."""
    write(line(value) if arguments.json else text.encode(errors="replace") + b"\n")


class Progress:
    """How far long work is, on stderr, only where that is a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def show(self, done: int, total: int | None = None) -> None:
        """Say it, unless it was said a moment ago."""
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
    """``text`` without what a terminal would obey: escape sequences come in log messages too."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" if ord(char) < 256 else "?" for char in text)


def age(milliseconds: float | None) -> str:
    """A time span for people."""
    if milliseconds is None:
        return "-"
    seconds = max(0.0, milliseconds / 1000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


def entry_ms(entry_id: str) -> int:
    """The time in an entry ID: milliseconds since 1970."""
    return int(entry_id.partition("-")[0])
