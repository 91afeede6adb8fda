"""What the commands share: exit codes, the options of every command, the stream they name, and reading it in pages.

What lives here: as above. What must not: output (``inlet.command.output``), what any one command does.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from inlet.stream import place
from inlet.stream.client import StoreClient
from inlet.stream.errors import ConsumerError, StoreAway
from inlet.stream.keys import partition_keys

OK = 0
FAILED = 1
USAGE = 2
STORE = 3
UNSAFE = 4

EXIT_CODES = """exit codes:
  0  done, or ended by Ctrl-C, TERM or a closed pipe; what was handled is acked
  1  the work failed: a record, a file or a command; one line on stderr names it
  2  wrong usage or an invalid environment variable
  3  the store cannot be reached, or refuses (password, permission, the key is not a stream)
  4  refused, because records that a group has not acked would be lost
"""


ENTRY_ID = re.compile(r"\d{1,20}-\d{1,20}")
"""The whole ID of an entry, as commands take it."""


class Usage(ConsumerError):
    """The command line or the environment is wrong."""


class Target(NamedTuple):
    """The stream that a command works on: the store's URL, the stream's name, and the store key of each partition."""

    url: str
    stream: str
    keys: tuple[str, ...]

    @property
    def partitions(self) -> int:
        """Return the number of partitions."""
        return len(self.keys)


def number(text: str) -> float:
    """Return the number that an option holds; infinity and NaN are none. Raises ValueError, which argparse reports."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def target_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    where = parser.add_argument_group("where the stream is")
    where.add_argument("--url", help="the store; default: REDIS_URL, else the embedded store in INLET_DATA_DIR")
    where.add_argument("--stream", help="its store key; default: INLET_STREAM, else logs")
    where.add_argument("--partitions", type=int, default=1, metavar="N", help="number of partitions; default: 1")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line, in a terminal too")


def target(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Target:
    """Return the stream that the command line and the environment name. Raises Usage."""
    try:
        url, stream = place.from_environment(environ)
        keys = partition_keys(arguments.stream or stream, arguments.partitions)
    except place.PlaceError as error:
        raise Usage(error.detail) from None
    except ValueError as error:
        raise Usage(str(error)) from None
    if arguments.stream and not arguments.stream.isprintable():
        raise Usage("--stream must be printable")
    return Target(arguments.url or url, arguments.stream or stream, keys)


def connect(where: Target, block_ms: int = 0) -> StoreClient:
    """Return a client of a store that has answered once, even if it is loading. Raises StoreAway with what to do."""
    client = StoreClient(where.url, block_ms)
    try:
        client.one("PING")
    except StoreAway as error:
        if "loading" in error.detail.lower():
            return client
        hint = "is Inlet running (make run)?" if where.url.startswith("unix:") else "is REDIS_URL right?"
        raise StoreAway(f"{error.detail} ({place.redacted(where.url)}); {hint}") from None
    return client


def rows(client: StoreClient, key: str, page: int, *, newest_first: bool = False) -> Iterator[list[Any]]:
    """Yield the entries of a stream as XRANGE has them, ``page`` at a time; not those that arrive meanwhile."""
    last = client.one("XREVRANGE", key, "+", "-", "COUNT", 1)
    if not last:
        return
    first, end = "-", bytes(last[0][0]).decode()
    while True:
        span = ("XREVRANGE", key, end, first) if newest_first else ("XRANGE", key, first, end)
        found = client.one(*span, "COUNT", page)
        if not found:
            return
        yield from found
        beyond = "(" + bytes(found[-1][0]).decode()
        first, end = (first, beyond) if newest_first else (beyond, end)
