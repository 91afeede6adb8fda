"""``lag``: how far behind each consumer group is, and each consumer in it.

What lives here: the figures, as a table and as JSON. What must not: anything that changes the stream.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from inlet.command import common, output
from inlet.consumer.stopping import STOP_SIGNALS, StopFlag, stopping_on
from inlet.stream.client import StoreClient, named
from inlet.stream.entry import FIELD_COUNT
from inlet.stream.errors import StoreAway
from inlet.stream.groups import group_rows
from inlet.stream.keys import dead_key, keeper_key
from inlet.stream.retention import Hold, Retention
from inlet.stream.trimming import Lease, portion

DESCRIPTION = """Show how far behind each group is: per partition, group and consumer.

  unread     entries not yet delivered to the group ("?": unknown to the store, as before Redis 7)
  pending    entries delivered and not acked
  records    estimated records in both, from the size of a few entries
  oldest     age of the oldest entry that is not acked
  deliveries highest delivery count among the first pending entries

The group below the table keeps the oldest entries from being trimmed. A group that was seen before and is missing from
the store keeps all of them; see `inlet groups`.

  inlet lag
  inlet lag --watch
  inlet lag --json | jq 'select(.oldest_ms > 60000)'
"""
SAMPLE = 5
"""Entries read for the average records an entry: each may have 1 MiB."""
PENDING_SCAN = 100
"""Pending entries of a consumer read for their delivery count."""


@dataclass
class Consumer:
    """One consumer of a group."""

    name: str
    pending: int
    idle_ms: int
    deliveries: int


@dataclass
class Row:
    """One group on one partition. ``unread`` is None if the store does not know it.

    ``missing``: the group is remembered, and the store does not have it. ``holds_back``: it keeps the oldest entries
    that are kept, so nothing after what it has acked can be trimmed.
    """

    partition: int
    key: str
    group: str
    unread: int | None
    pending: int
    records: int | None
    oldest_ms: int | None
    deliveries: int
    dead: int
    missing: bool = False
    holds_back: bool = False
    consumers: list[Consumer] = field(default_factory=list)


def register(commands: Any) -> None:
    """Add ``lag`` to the command line."""
    parser = commands.add_parser(
        "lag", help="show how far behind each group is", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--group", metavar="G", help="only this group")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=common.number,
        const=2.0,
        metavar="SECONDS",
        help="repeat every so many seconds; default: 2",
    )
    common.target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``lag``."""
    where = common.target(arguments, os.environ)
    if arguments.watch is not None and not 0.1 <= arguments.watch <= 3_600:
        raise common.Usage("--watch must be from 0.1 to 3600 seconds")
    client = common.connect(where)
    flag = StopFlag()
    with stopping_on(flag.stop, STOP_SIGNALS):
        while True:
            try:
                show(rows(client, where, arguments.group), arguments)
            except StoreAway as error:
                if arguments.watch is None:
                    raise
                output.warn(f"waiting for the store: {error.detail}")
            if arguments.watch is None:
                return common.OK
            flag.sleep(arguments.watch)
            if flag.stopped:
                return common.OK


def rows(client: StoreClient, where: common.Target, only: str | None) -> list[Row]:
    """Return a row for every group of every partition."""
    found: list[Row] = []
    for partition, key in enumerate(where.keys):
        now, dead = client.many([("TIME",), ("XLEN", dead_key(key))])
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        state = portion(client, key, Retention(), Lease(keeper_key(key)))
        groups = group_rows(client, key)
        here = [_row(client, partition, key, group, now_ms, int(dead)) for group in groups]
        lost = state.groups - {bytes(group["name"]) for group in groups}
        for group in sorted(lost):
            name = group.decode(errors="replace")
            here.append(Row(partition, key, name, None, 0, None, None, 0, int(dead), missing=True))
        for row in here:
            row.holds_back = row.group == state.held.group and (row.missing or row.oldest_ms is not None)
        found += [row for row in here if only in (None, row.group)]
    return found


def _row(client: StoreClient, partition: int, key: str, group: dict[str, Any], now_ms: int, dead: int) -> Row:
    name = bytes(group["name"])
    last = bytes(group["last-delivered-id"]).decode()
    summary, sample, members = client.many(
        [
            ("XPENDING", key, name),
            ("XRANGE", key, "(" + last, "+", "COUNT", SAMPLE),
            ("XINFO", "CONSUMERS", key, name),
        ]
    )
    oldest = [bytes(summary[1]).decode()] if summary[0] and summary[1] else []
    oldest += [bytes(sample[0][0]).decode()] if sample else []
    if not sample and oldest:
        sample = client.one("XRANGE", key, oldest[0], "+", "COUNT", SAMPLE)
    unread = group.get("lag")
    if unread is None and not sample:
        unread = 0
    consumers = [_consumer(client, key, name, named(member)) for member in members]
    pending = int(summary[0])
    counts = [_records(fields) for _, fields in sample]
    mean = sum(counts) / len(counts) if counts else 0
    return Row(
        partition, key, name.decode(errors="replace"), None if unread is None else int(unread), pending,
        None if unread is None else round((int(unread) + pending) * mean),
        max(0, now_ms - min(map(output.entry_ms, oldest))) if oldest else None,
        max((consumer.deliveries for consumer in consumers), default=0), dead, consumers=consumers,
    )  # fmt: skip


def _consumer(client: StoreClient, key: str, group: bytes, member: dict[str, Any]) -> Consumer:
    name, pending = bytes(member["name"]), int(member["pending"])
    waiting = client.one("XPENDING", key, group, "-", "+", PENDING_SCAN, name) if pending else []
    deliveries = max((int(row[3]) for row in waiting), default=0)
    return Consumer(name.decode(errors="replace"), pending, int(member["idle"]), deliveries)


def _records(fields: list[bytes]) -> int:
    pairs = dict(zip(fields[::2], fields[1::2], strict=False))
    count = pairs.get(FIELD_COUNT, b"")
    return int(count) if count.isdigit() and len(count) < 10 else 0


def show(found: list[Row], arguments: argparse.Namespace) -> None:
    """Print the rows as a table or as NDJSON; a live table starts at the top of the terminal each time."""
    if arguments.json:
        output.write(b"".join(output.line(asdict(row)) for row in found))
        return
    head = "PARTITION  GROUP / CONSUMER            UNREAD   PENDING   RECORDS    OLDEST  DELIVERIES   DEAD"
    who = "no group has" if arguments.group is None else f"group {arguments.group!a} has not"
    text = [head] if found else [f"{who} read this stream yet; try: inlet read --group G"]
    for row in found:
        text.append(
            f"{row.partition:>9}  {output.printable(row.group)[:24]:<24}{_count(row.unread):>10}{row.pending:>10,}"
            f"{_count(row.records):>10}{output.age(row.oldest_ms):>10}{row.deliveries:>12}{row.dead:>7,}"
        )
        for consumer in row.consumers:
            text.append(
                f"{'':>9}    {output.printable(consumer.name)[:22]:<22}{'':>10}{consumer.pending:>10,}{'':>10}"
                f"{'':>10}{consumer.deliveries:>12}   idle {output.age(consumer.idle_ms)}"
            )
    for row in found:
        if row.holds_back:
            text.append(f"{row.key}: {Hold('missing' if row.missing else 'behind', row.group).words()}")
    live = arguments.watch is not None and sys.stdout.isatty()
    output.write((("\x1b[H\x1b[2J" if live else "") + "\n".join(text) + "\n").encode(errors="replace"))


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
