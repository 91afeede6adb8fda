"""``trim``: trim the stream to its retention, once or until stopped.

What lives here: the command. What must not: what may be trimmed (``inlet.stream.retention``).
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from inlet.command import common, output
from inlet.consumer.errors import Unsafe
from inlet.consumer.stopping import STOP_SIGNALS, StopFlag, stopping_on
from inlet.stream.errors import StoreAway
from inlet.stream.keeper import KEEP_EVERY_SECONDS, Forecast, Keeper, Kept
from inlet.stream.retention import retention
from inlet.stream.trimming import LEASE_MS

DESCRIPTION = """Trim the stream to INLET_RETENTION, or to --retention.

Only entries that every group has acked are removed. Nothing is trimmed from a stream that no group has read, nor
while a group that was seen before is missing from the store (see `inlet groups`). If unread entries alone exceed a
bound, they stay and the exit code is 4, unless --unread drop (or INLET_RETENTION_UNREAD=drop) allows removing them.
One process trims at a time; a lease in the store makes the others wait.

  inlet trim --retention age=7d
  inlet trim --retention entries=1000000,memory=2gb --dry-run
  INLET_RETENTION=age=30d,memory=8gb inlet trim --watch
"""


def register(commands: Any) -> None:
    """Add ``trim`` to the command line."""
    parser = commands.add_parser(
        "trim", help="trim the stream; never removes unread entries unless allowed", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--retention", metavar="BOUNDS", help="any of age=7d,entries=1000000,memory=2gb")
    parser.add_argument("--unread", choices=("keep", "drop"), help="what to do with unread entries over a bound")
    parser.add_argument("--watch", action="store_true", help="repeat until stopped")
    parser.add_argument(
        "--every", type=common.number, default=KEEP_EVERY_SECONDS, metavar="SECONDS",
        help=f"with --watch; default: {KEEP_EVERY_SECONDS:g}",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    common.target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``trim``."""
    where = common.target(arguments, os.environ)
    text = arguments.retention or os.environ.get("INLET_RETENTION", "")
    unread = arguments.unread or os.environ.get("INLET_RETENTION_UNREAD") or "keep"
    try:
        keep = retention(text, unread)
    except ValueError as error:
        raise common.Usage(f"--retention or INLET_RETENTION: {error}") from None
    if not 0.1 <= arguments.every <= LEASE_MS / 2000:
        raise common.Usage(f"--every must be from 0.1 to {LEASE_MS // 2000} seconds: half of the lease")
    client = common.connect(where)
    progress = output.Progress("trimmed")
    keeper = Keeper(client, where.keys, keep, publish=arguments.watch, trimmed=progress.show)
    if arguments.dry_run:
        for key, found in keeper.look().items():
            _say_forecast(key, found, arguments)
        return common.OK
    if arguments.watch:
        return watch(keeper, progress, arguments)
    kept = keeper.tick()
    progress.end()
    if kept is None:
        raise Unsafe("another keeper holds the lease of this stream; nothing was trimmed")
    keeper.release()
    for row in kept:
        _say(row, arguments)
    for refusal in keeper.refused.values():
        raise refusal
    return common.UNSAFE if any(row.full for row in kept) else common.OK


def watch(keeper: Keeper, progress: output.Progress, arguments: argparse.Namespace) -> int:
    """Trim until stopped; wait for a store that is away, and for another keeper's lease."""
    flag = StopFlag()
    away = waiting = False
    with stopping_on(flag.stop, STOP_SIGNALS):
        while not flag.stopped:
            try:
                kept = keeper.tick()
                progress.end()
            except StoreAway as error:
                progress.end()
                if not away:
                    output.warn(f"waiting for the store: {error.detail}")
                away, kept = True, []
            else:
                away = False
            if kept is None and not waiting:
                output.warn("another keeper trims this stream; waiting for its lease")
            waiting = kept is None
            for row in kept or ():
                if row.trimmed or row.dropped or row.full or arguments.json:
                    _say(row, arguments)
            for refusal in keeper.refused.values():
                raise refusal
            flag.sleep(arguments.every)
        if not away:
            keeper.release()
    return common.OK


def _say(row: Kept, arguments: argparse.Namespace) -> None:
    text = f"{row.key}: {row.trimmed:,} entries trimmed, {row.length:,} left ({row.memory_bytes / 2**20:,.1f} MiB)"
    if row.dropped:
        text += f"; {row.dropped:,} UNREAD entries dropped"
    if row.full:
        text += "; full of entries that some group has not acked"
    text += _why(row)
    output.say({**row._asdict(), "held": row.held._asdict()}, text, arguments)


def _why(found: Kept | Forecast) -> str:
    """Return what holds the stream back, where that matters."""
    return f"; {found.held.words()}" if found.full or found.held.kind == "missing" else ""


def _say_forecast(key: str, found: Forecast, arguments: argparse.Namespace) -> None:
    about = "about " if found.estimated else ""
    text = f"{key}: would trim {about}{found.trimmed:,} entries"
    if found.dropped:
        text += f" and drop {about}{found.dropped:,} UNREAD entries"
    if found.full:
        text += "; would stay full of entries that some group has not acked"
    text += _why(found)
    output.say({"key": key, **found._asdict(), "held": found.held._asdict()}, text, arguments)
