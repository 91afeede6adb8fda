"""``export``: a group's records into files: gzipped NDJSON, or Parquet.

What lives here: the command. What must not: the files (``consumer.export``).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from consumer import export
from consumer.command import common
from consumer.command.read import reader, reader_options
from consumer.plan import BOUNDS
from consumer.reader import STOP_SIGNALS, stopping_on

DESCRIPTION = """Write a consumer group's records into files, rolled by size and age.

A file has its name only once it is whole and on the disk; its entries are acked after that. Killed at any point,
nothing is lost and no half file is left; entries that were in a file but not acked yet come again, in a later one:
partition, entry_id and line tell.

  python -m consumer export --to out                              gzipped NDJSON, until stopped
  python -m consumer export --to out --format parquet --once      what there is (needs: pip install pyarrow)
  python -m consumer export --to out --roll-mib 512 --roll-seconds 600
"""
GROUP = "export"
"""Default consumer group."""
IDLE_FACTOR = 3
"""How many times a file's age an entry may wait for its ack before another exporter takes it."""


def register(commands: Any) -> None:
    """Add ``export`` to the command line."""
    parser = commands.add_parser(
        "export", help="write records into files: NDJSON or Parquet", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="made as needed")
    parser.add_argument("--format", choices=export.FORMATS, default=export.FORMATS[0], help="default: %(default)s")
    parser.add_argument(
        "--roll-mib", type=float, default=export.ROLL_BYTES / 2**20, metavar="MIB",
        help="of records, before compression; default: %(default)g",
    )  # fmt: skip
    parser.add_argument(
        "--roll-seconds", type=float, default=export.ROLL_SECONDS, metavar="SECONDS", help="default: %(default)g"
    )
    parser.add_argument("--once", action="store_true", help="end when there is nothing more right now")
    reader_options(parser, group=False)
    common.place_options(parser)
    parser.set_defaults(run=run, group=GROUP)


def run(arguments: argparse.Namespace) -> int:
    """``export``."""
    if not 0.001 <= arguments.roll_mib <= 65_536 or not 0.1 <= arguments.roll_seconds <= 86_400:
        raise common.Usage("--roll-mib must be from 0.001 to 65536, --roll-seconds from 0.1 to 86400")
    where = common.place(arguments, os.environ)
    # Entries wait for their ack until their file is whole.
    idle = max(arguments.claim_idle, arguments.roll_seconds * IDLE_FACTOR)
    arguments.claim_idle = min(idle, BOUNDS["claim_idle_ms"][1] / 1000)
    progress, total = common.Progress("exported"), 0

    def wrote(path: Path, records: int) -> None:
        nonlocal total
        total += records
        progress.end()
        common.say({"file": str(path), "records": records}, f"{path}: {records:,} records", arguments)

    source = reader(arguments, where)
    with source, stopping_on(source.stop, STOP_SIGNALS):
        exporter = export.Exporter(
            source, arguments.to, where.stream, suffix=arguments.format, roll_bytes=int(arguments.roll_mib * 2**20),
            roll_seconds=arguments.roll_seconds, wrote=wrote, grew=lambda records: progress.show(total + records),
        )  # fmt: skip
        exporter.run(forever=not arguments.once)
    return common.OK
