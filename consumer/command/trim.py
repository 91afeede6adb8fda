"""``trim``: keep the stream within its bounds, once or for as long as it runs.

What lives here: the command. What must not: what may be trimmed (``consumer.trim``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from consumer import trim
from consumer.command import common
from consumer.errors import StoreAway, Unsafe
from consumer.reader import STOP_SIGNALS, WAIT_SLICE_SECONDS, stopping_on

DESCRIPTION = """Trim the stream to INLET_RETENTION, or to --retention. Only what every consumer group has acked goes.

A stream that no group has ever read is unread as a whole, so nothing of it is trimmed. Where unread entries alone
reach the bound, the exit code is 4, and nothing of them goes, unless --unread drop (or INLET_RETENTION_UNREAD=drop)
says so. One keeper at a time: a lease in the store keeps the others waiting.

  python -m consumer trim --retention age=7d
  python -m consumer trim --retention entries=1000000,memory=2gb --dry-run
  INLET_RETENTION=age=30d,memory=8gb python -m consumer trim --watch
"""


def register(commands: Any) -> None:
    """Add ``trim`` to the command line."""
    parser = commands.add_parser(
        "trim", help="keep the stream within bounds; loses nothing unread", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--retention", metavar="BOUNDS", help="age=7d,entries=1000000,memory=2gb: any of them")
    parser.add_argument("--unread", choices=("keep", "drop"), help="what to do with unread entries over the bound")
    parser.add_argument("--watch", action="store_true", help="go on until stopped")
    parser.add_argument(
        "--every", type=float, default=trim.KEEP_EVERY_SECONDS, metavar="SECONDS", help="with --watch; default: 10"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and let it be")
    common.place_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``trim``."""
    where = common.place(arguments, os.environ)
    text = arguments.retention or os.environ.get("INLET_RETENTION", "")
    unread = arguments.unread or os.environ.get("INLET_RETENTION_UNREAD") or "keep"
    try:
        keep = trim.retention(text, unread)
    except ValueError as error:
        raise common.Usage(f"--retention or INLET_RETENTION: {error}") from None
    if not 0.1 <= arguments.every <= trim.LEASE_MS / 2000:
        raise common.Usage(f"--every must be from 0.1 to {trim.LEASE_MS // 2000} seconds: half of the lease")
    link = common.link(where)
    progress = common.Progress("trimmed")
    keeper = trim.Keeper(link, where.keys, keep, publish=arguments.watch, trimmed=progress.show)
    if arguments.dry_run:
        for key, plan in keeper.look().items():
            _say_plan(key, plan, arguments)
        return common.OK
    if arguments.watch:
        return watch(keeper, arguments)
    kept = keeper.tick()
    progress.end()
    if kept is None:
        raise Unsafe("another keeper is trimming this stream (its lease is in the store); nothing was done")
    keeper.release()
    for row in kept:
        _say(row, arguments)
    return common.UNSAFE if any(row.full for row in kept) else common.OK


def watch(keeper: trim.Keeper, arguments: argparse.Namespace) -> int:
    """Trim until stopped; a store that is away is waited for, another keeper too."""
    stopping = False
    away = waiting = False

    def stop() -> None:
        nonlocal stopping
        stopping = True

    with stopping_on(stop, STOP_SIGNALS):
        while not stopping:
            try:
                kept = keeper.tick()
            except StoreAway as error:
                if not away:
                    sys.stderr.write(f"consumer: waiting for the store: {error.detail}\n")
                away, kept = True, []
            else:
                away = False
            if kept is None and not waiting:
                sys.stderr.write("consumer: another keeper trims this stream; waiting for its lease\n")
            waiting = kept is None
            for row in kept or ():
                if row.trimmed or row.dropped or row.full or arguments.json:
                    _say(row, arguments)
            deadline = time.monotonic() + arguments.every
            while not stopping and time.monotonic() < deadline:
                time.sleep(WAIT_SLICE_SECONDS)
        if not away:
            keeper.release()
    return common.OK


def _say(row: trim.Kept, arguments: argparse.Namespace) -> None:
    text = f"{row.key}: {row.trimmed:,} entries trimmed, {row.length:,} left ({row.memory_bytes / 2**20:,.1f} MiB)"
    if row.dropped:
        text += f"; {row.dropped:,} UNREAD entries dropped"
    if row.full:
        text += "; full of entries that some group has not acked: see `python -m consumer lag`"
    common.say(row._asdict(), text, arguments)


def _say_plan(key: str, plan: trim.Plan, arguments: argparse.Namespace) -> None:
    rows = [
        {"below": f"{item.below[0]}-{item.below[1]}", "entries_max": item.most, "unread": item.unread}
        for item in plan.trims
    ]
    words = [
        f"{'unread' if row['unread'] else 'acked'} entries below {row['below']}"
        + (f", {row['entries_max']:,} at most" if row["entries_max"] is not None else "")
        for row in rows
    ]
    text = f"{key}: would trim {'; '.join(words) or 'nothing'}{'; is full of unread entries' if plan.full else ''}"
    common.say({"key": key, "trims": rows, "full": plan.full}, text, arguments)
