"""``tail``: show records as they arrive, without a consumer group, so that looking changes nothing.

What lives here: following the stream, and how a record is printed. What must not: groups, acks.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from inlet.command import common, output
from inlet.command.filters import filter_options, filters
from inlet.command.positions import COUNT, begin
from inlet.consumer.backoff import backoff_seconds
from inlet.consumer.entries import Address, Entry, parse
from inlet.stream.client import StoreClient
from inlet.stream.errors import StoreAway
from inlet.stream.record import Record

DESCRIPTION = """Show records as they arrive. Reads without a group: nothing is acked, and no group is affected.

Prints colored lines in a terminal, one JSON object a line in a pipe.

  inlet tail                                show what arrives from now on
  inlet tail -n 20                          show the last 20 records, then what arrives
  inlet tail --from start --once            show all there is, then stop
  inlet tail --from 15m --service checkout  start 15 minutes ago, one service only
  inlet tail --where metadata.region=eu-1 --text refused
"""
BLOCK_MS = 500
"""Milliseconds an idle read waits in the store; a stop is noticed this late."""
LAST_MAX = 100_000
"""Records that ``-n`` can ask for: they are held in memory."""


def register(commands: Any) -> None:
    """Add ``tail`` to the command line."""
    parser = commands.add_parser(
        "tail", help="show records as they arrive", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="start", default="now", metavar="WHERE",
        help="now (default), start, a time ago (30s, 15m, 2h, 7d), or an entry ID",
    )  # fmt: skip
    parser.add_argument("-n", "--last", type=int, metavar="N", help="start with the last N records that match")
    parser.add_argument("--once", action="store_true", help="stop when there is nothing more right now")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N records")
    filter_options(parser)
    parser.add_argument("--address", action="store_true", help="show partition, entry ID and line of each record")
    common.target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``tail``."""
    where = common.target(arguments, os.environ)
    keep = filters(arguments)
    if arguments.last is not None and not 0 <= arguments.last <= LAST_MAX:
        raise common.Usage(f"-n must be from 0 to {LAST_MAX}")
    client = common.connect(where, BLOCK_MS)
    pretty = sys.stdout.isatty() and not arguments.json
    positions, first = begin(client, where, arguments, keep)
    left = arguments.limit if arguments.limit is not None else -1
    for entry in chain(first, follow(client, where, positions, arguments.once)):
        shown = [(address, record) for address, record in entry.items() if keep(record)]
        if left >= 0:
            shown = shown[:left]
            left -= len(shown)
        if shown:
            output.write(b"".join(look(address, record, pretty, arguments.address) for address, record in shown))
        if left == 0:
            break
    return common.OK


def follow(client: StoreClient, where: common.Target, positions: dict[str, str], once: bool) -> Iterator[Entry]:
    """Yield entries after ``positions`` as they come (XREAD BLOCK); wait for a store that is away."""
    numbers = {key.encode(): number for number, key in enumerate(where.keys)}
    block = () if once else ("BLOCK", BLOCK_MS)
    attempt = 0
    while True:
        try:
            command = ("XREAD", "COUNT", COUNT, *block, "STREAMS", *positions, *positions.values())
            reply = client.one(*command)
        except StoreAway as error:
            if not attempt:
                output.warn(f"waiting for the store: {error.detail}")
            time.sleep(backoff_seconds(attempt, 0.5))
            attempt += 1
            continue
        if attempt:
            output.warn("the store is back")
        attempt = 0
        if not reply:
            output.check_pipe()
        for key, rows in reply or ():
            for entry_id, fields in rows:
                yield parse(numbers[key], entry_id, fields)
            positions[key.decode()] = rows[-1][0].decode()
        if once and not reply:
            return


def look(address: Address, record: Record, pretty: bool, with_address: bool) -> bytes:
    """Return one record as a line for people, or as NDJSON."""
    if not pretty:
        return output.line({**output.members(record), **(address._asdict() if with_address else {})})
    pairs = " ".join(f"{output.printable(key)}={output.printable(value)}" for key, value in record.metadata.items())
    place = f"\x1b[2m{address.partition}/{address.entry_id}/{address.line}\x1b[0m " if with_address else ""
    stamp, service = output.printable(record.timestamp), output.printable(record.service)
    text = f"{place}\x1b[2m{stamp}\x1b[0m \x1b[36m{service}\x1b[0m {output.printable(record.message)}"
    return f"{text} \x1b[2m{pairs}\x1b[0m\n".encode(errors="replace")
