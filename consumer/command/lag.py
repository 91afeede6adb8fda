"""``lag``: how far behind each consumer group is, and each consumer in it.

What lives here: the figures and their two looks. What must not: anything that changes the stream.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from consumer import plan
from consumer.command import common
from consumer.deadletter import dead_key
from consumer.errors import StoreAway
from consumer.link import Link
from consumer.reader import STOP_SIGNALS, WAIT_SLICE_SECONDS, stopping_on
from consumer.trim import group_rows

DESCRIPTION = """How far behind each group is: per partition, group and consumer.

  unread     entries not yet handed to the group ("?": the store cannot tell, as before Redis 7)
  pending    entries handed out and not acked
  records    estimated records in both, from the size of a few entries
  oldest     age of the oldest entry that is not acked
  deliveries the most often any of the first pending entries was handed out

  python -m consumer lag
  python -m consumer lag --watch
  python -m consumer lag --json | jq 'select(.oldest_ms > 60000)'
"""
SAMPLE = 5
"""Entries looked at for the average of records an entry: they may be of 1 MiB each."""
PENDING_SCAN = 100
"""Pending entries of a consumer looked at for their delivery count."""


@dataclass
class Consumer:
    """One consumer of a group."""

    name: str
    pending: int
    idle_ms: int
    deliveries: int


@dataclass
class Row:
    """One group on one partition. ``unread`` is None where the store cannot tell."""

    partition: int
    key: str
    group: str
    unread: int | None
    pending: int
    records: int | None
    oldest_ms: int | None
    deliveries: int
    dead: int
    consumers: list[Consumer] = field(default_factory=list)


def register(commands: Any) -> None:
    """Add ``lag`` to the command line."""
    parser = commands.add_parser(
        "lag", help="how far behind each group is", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--group", metavar="G", help="only this one")
    parser.add_argument(
        "--watch", nargs="?", type=float, const=2.0, metavar="SECONDS", help="again every so often; default: 2"
    )
    common.place_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``lag``."""
    where = common.place(arguments, os.environ)
    if arguments.watch is not None and not 0.1 <= arguments.watch <= 3_600:
        raise common.Usage("--watch must be from 0.1 to 3600 seconds")
    link = common.link(where)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True

    with stopping_on(stop, STOP_SIGNALS):
        while True:
            try:
                show(rows(link, where, arguments.group), arguments)
            except StoreAway as error:
                if arguments.watch is None:
                    raise
                sys.stderr.write(f"consumer: waiting for the store: {error.detail}\n")
            if arguments.watch is None:
                return common.OK
            deadline = time.monotonic() + arguments.watch
            while not stopping and time.monotonic() < deadline:
                time.sleep(WAIT_SLICE_SECONDS)
            if stopping:
                return common.OK


def rows(link: Link, where: common.Place, only: str | None) -> list[Row]:
    """Every group of every partition."""
    found: list[Row] = []
    for partition, key in enumerate(where.keys):
        now, dead = link.many([("TIME",), ("XLEN", dead_key(key))])
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        for group in group_rows(link, key):
            name = bytes(group["name"]).decode(errors="replace")
            if only is None or name == only:
                found.append(_row(link, partition, key, name, group, now_ms, int(dead)))
    return found


def _row(link: Link, partition: int, key: str, name: str, group: dict[str, Any], now_ms: int, dead: int) -> Row:
    last = bytes(group["last-delivered-id"]).decode()
    summary, sample, members = link.many(
        [
            ("XPENDING", key, name),
            ("XRANGE", key, "(" + last, "+", "COUNT", SAMPLE),
            ("XINFO", "CONSUMERS", key, name),
        ]
    )
    oldest = [bytes(summary[1]).decode()] if summary[0] and summary[1] else []
    oldest += [bytes(sample[0][0]).decode()] if sample else []
    if not sample and oldest:
        sample = link.one("XRANGE", key, oldest[0], "+", "COUNT", SAMPLE)
    unread = group.get("lag")
    if unread is None and not sample:
        unread = 0
    consumers = [_consumer(link, key, name, plan.named(member)) for member in members]
    pending = int(summary[0])
    counts = [_records(fields) for _, fields in sample]
    mean = sum(counts) / len(counts) if counts else 0
    return Row(
        partition, key, name, None if unread is None else int(unread), pending,
        None if unread is None else round((int(unread) + pending) * mean),
        max(0, now_ms - min(map(common.entry_ms, oldest))) if oldest else None,
        max((consumer.deliveries for consumer in consumers), default=0), dead, consumers,
    )  # fmt: skip


def _consumer(link: Link, key: str, group: str, member: dict[str, Any]) -> Consumer:
    name, pending = bytes(member["name"]), int(member["pending"])
    waiting = link.one("XPENDING", key, group, "-", "+", PENDING_SCAN, name) if pending else []
    deliveries = max((row.deliveries for row in plan.pending(waiting)), default=0)
    return Consumer(name.decode(errors="replace"), pending, int(member["idle"]), deliveries)


def _records(fields: list[bytes]) -> int:
    pairs = dict(zip(fields[::2], fields[1::2], strict=False))
    count = pairs.get(b"n", b"")
    return int(count) if count.isdigit() and len(count) < 10 else 0


def show(found: list[Row], arguments: argparse.Namespace) -> None:
    """The rows, for people or as NDJSON; a live view starts at the top of the terminal each time."""
    if arguments.json:
        common.write(b"".join(common.line(asdict(row)) for row in found))
        return
    head = "PARTITION  GROUP / CONSUMER            UNREAD   PENDING   RECORDS    OLDEST  DELIVERIES   DEAD"
    text = [head] if found else ["no group has read this stream yet; try: python -m consumer read --group G"]
    for row in found:
        text.append(
            f"{row.partition:>9}  {common.printable(row.group)[:24]:<24}{_count(row.unread):>10}{row.pending:>10,}"
            f"{_count(row.records):>10}{common.age(row.oldest_ms):>10}{row.deliveries:>12}{row.dead:>7,}"
        )
        for consumer in row.consumers:
            text.append(
                f"{'':>9}    {common.printable(consumer.name)[:22]:<22}{'':>10}{consumer.pending:>10,}{'':>10}"
                f"{'':>10}{consumer.deliveries:>12}   idle {common.age(consumer.idle_ms)}"
            )
    live = arguments.watch is not None and sys.stdout.isatty()
    common.write((("\x1b[H\x1b[2J" if live else "") + "\n".join(text) + "\n").encode(errors="replace"))


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
