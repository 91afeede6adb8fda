"""``tail``: what arrives, without a consumer group, so that looking changes nothing.

What lives here: as above, with filters and the two looks. What must not: groups, acks.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from consumer import plan
from consumer.command import common
from consumer.entries import Address, Entry, parse
from consumer.errors import StoreAway
from consumer.link import Link
from wsgi.record import Record

DESCRIPTION = """Show records as they arrive. Reads without a group: nothing is acked, and no group is affected.

Coloured in a terminal, one JSON object a line in a pipe.

  python -m consumer tail                                what arrives from now on
  python -m consumer tail -n 20                          the last 20 records, and then what arrives
  python -m consumer tail --from start --once            all there is, then end
  python -m consumer tail --from 15m --service checkout  a quarter of an hour back, of one service
  python -m consumer tail --where metadata.region=eu-1 --text refused
"""
BLOCK_MS = 500
"""Milliseconds an idle read waits in the store; also how late a stop is noticed."""
COUNT = 16
"""Entries of each partition a read asks for: up to 16 MiB of the largest, usually under 1."""
LAST_MAX = 100_000
"""Records that ``-n`` may ask for: they are held in memory."""
_SPAN = re.compile(r"(\d{1,9})(s|m|h|d)")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ENTRY_ID = re.compile(r"\d{1,20}(-\d{1,20})?")

Keep = Callable[[Record], bool]


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
    parser.add_argument("-n", "--last", type=int, metavar="N", help="begin with the last N records that match")
    parser.add_argument("--once", action="store_true", help="end when there is nothing more right now")
    parser.add_argument("--limit", type=int, metavar="N", help="end after N records")
    parser.add_argument("--service", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="only where the message has it")
    parser.add_argument(
        "--where", action="append", default=[], metavar="PATH=VALUE",
        help="only where a member has the value: service=..., metadata.region=...; PATH alone: where it exists",
    )  # fmt: skip
    parser.add_argument("--address", action="store_true", help="show partition, entry ID and line of each record")
    common.place_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``tail``."""
    where = common.place(arguments, os.environ)
    keep = filters(arguments)
    if arguments.last is not None and not 0 <= arguments.last <= LAST_MAX:
        raise common.Usage(f"-n must be from 0 to {LAST_MAX}")
    connection = common.link(where, BLOCK_MS)
    pretty = sys.stdout.isatty() and not arguments.json
    positions, first = begin(connection, where, arguments, keep)
    left = arguments.limit if arguments.limit is not None else -1
    for entry in chain(first, follow(connection, where, positions, arguments.once)):
        shown = [(address, record) for address, record in entry.items() if keep(record)]
        if left >= 0:
            shown = shown[:left]
            left -= len(shown)
        if shown:
            common.write(b"".join(look(address, record, pretty, arguments.address) for address, record in shown))
        if left == 0:
            break
    return common.OK


def begin(
    connection: Link, where: common.Place, arguments: argparse.Namespace, keep: Keep
) -> tuple[dict[str, str], list[Entry]]:
    """Where to read on in each partition; and, with ``-n``, the entries of the last records."""
    positions = dict.fromkeys(where.keys, "0-0")
    if arguments.last is not None:
        # First where to read on, then what came before it: nothing is shown twice or passed over.
        positions = newest(connection, where)
        entries = last(connection, where, positions, arguments.last, keep)
        return positions, entries
    start = arguments.start
    if start == "now":
        return newest(connection, where), []
    if span := _SPAN.fullmatch(start):
        seconds = int(span[1]) * _SPAN_SECONDS[span[2]]
        now = int(connection.one("TIME")[0])
        return dict.fromkeys(where.keys, f"{max(0, now - seconds) * 1000}-0"), []
    if _ENTRY_ID.fullmatch(start):
        return dict.fromkeys(where.keys, _before(start)), []
    if start != "start":
        raise common.Usage("--from must be now, start, a time ago (30s, 15m, 2h, 7d) or an entry ID")
    return positions, []


def newest(connection: Link, where: common.Place) -> dict[str, str]:
    """The last entry ID of each partition."""
    replies = connection.many([("XREVRANGE", key, "+", "-", "COUNT", 1) for key in where.keys])
    return {key: rows[0][0].decode() if rows else "0-0" for key, rows in zip(where.keys, replies, strict=True)}


def last(connection: Link, where: common.Place, ends: dict[str, str], count: int, keep: Keep) -> list[Entry]:
    """Entries with the last ``count`` records that match, oldest first."""
    found: list[Entry] = []
    for partition, key in enumerate(where.keys):
        left, end = count, ends[key]
        while left > 0:
            rows = connection.one("XREVRANGE", key, end, "-", "COUNT", COUNT)
            if not rows:
                break
            for entry_id, fields in rows:
                entry = parse(partition, entry_id, fields)
                matching = [pair for pair in zip(entry.lines, entry.records, strict=True) if keep(pair[1])][-left:]
                if matching and left > 0:
                    left -= len(matching)
                    found.append(entry._replace(lines=[at for at, _ in matching], records=[it for _, it in matching]))
            end = "(" + rows[-1][0].decode()
    found.sort(key=lambda entry: _order(entry.entry_id))
    surplus = sum(len(entry.records) for entry in found) - count
    while surplus > 0:
        cut = min(surplus, len(found[0].records))
        found[0] = found[0]._replace(lines=found[0].lines[cut:], records=found[0].records[cut:])
        surplus -= cut
        if not found[0].records:
            found.pop(0)
    return found


def follow(connection: Link, where: common.Place, positions: dict[str, str], once: bool) -> Iterator[Entry]:
    """Entries after ``positions``, as they come (XREAD BLOCK); a store that is away is waited for."""
    numbers = {key.encode(): number for number, key in enumerate(where.keys)}
    block = () if once else ("BLOCK", BLOCK_MS)
    attempt = 0
    while True:
        try:
            command = ("XREAD", "COUNT", COUNT, *block, "STREAMS", *positions, *positions.values())
            reply = connection.one(*command)
        except StoreAway as error:
            if not attempt:
                sys.stderr.write(f"consumer: waiting for the store: {error.detail}\n")
            time.sleep(plan.backoff_seconds(attempt, 0.5))
            attempt += 1
            continue
        if attempt:
            sys.stderr.write("consumer: the store is back\n")
        attempt = 0
        if not reply:
            common.check_pipe()
        for key, rows in reply or ():
            for entry_id, fields in rows:
                yield parse(numbers[key], entry_id, fields)
            positions[key.decode()] = rows[-1][0].decode()
        if once and not reply:
            return


def filters(arguments: argparse.Namespace) -> Keep:
    """All of the filters must hold; of repeated ``--service`` one."""
    services = frozenset(arguments.service)
    texts = [text.casefold() for text in arguments.text]
    paths = [_path(condition) for condition in arguments.where]

    def keep(record: Record) -> bool:
        if services and record.service not in services:
            return False
        if texts:
            message = record.message.casefold()
            if not all(text in message for text in texts):
                return False
        return all(test(record) for test in paths)

    return keep


def _path(condition: str) -> Keep:
    path, equals, wanted = condition.partition("=")
    member, _, key = path.removeprefix("$").removeprefix(".").partition(".")
    if member not in Record._fields or (member == "metadata") != bool(key):
        raise common.Usage(
            f"--where {common.printable(condition)}: PATH is event_id, timestamp, service, message or metadata.KEY"
        )

    def test(record: Record) -> bool:
        value = record.metadata.get(key) if key else getattr(record, member)
        return value is not None and (not equals or value == wanted)

    return test


def look(address: Address, record: Record, pretty: bool, with_address: bool) -> bytes:
    """One record as a line for people, or as NDJSON."""
    if not pretty:
        return common.line({**common.members(record), **(address._asdict() if with_address else {})})
    pairs = " ".join(f"{common.printable(key)}={common.printable(value)}" for key, value in record.metadata.items())
    place = f"\x1b[2m{address.partition}/{address.entry_id}/{address.line}\x1b[0m " if with_address else ""
    stamp, service = common.printable(record.timestamp), common.printable(record.service)
    text = f"{place}\x1b[2m{stamp}\x1b[0m \x1b[36m{service}\x1b[0m {common.printable(record.message)}"
    return f"{text} \x1b[2m{pairs}\x1b[0m\n".encode(errors="replace")


def _order(entry_id: str) -> tuple[int, int]:
    first, _, second = entry_id.partition("-")
    return int(first), int(second or 0)


def _before(entry_id: str) -> str:
    """The ID just before: XREAD reads what comes after."""
    first, second = _order(entry_id)
    if second:
        return f"{first}-{second - 1}"
    return f"{first - 1}-18446744073709551615" if first else "0-0"
