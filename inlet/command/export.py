"""``export``: write a group's records into files: gzipped NDJSON, or Parquet.

What lives here: the command. What must not: the files (``inlet.consumer.export``).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from inlet.command import common, output
from inlet.command.read import exit_code, reader, reader_options, stopping
from inlet.consumer import export
from inlet.consumer.formats import FORMATS
from inlet.consumer.options import BOUNDS

DESCRIPTION = """Write a consumer group's records into files, rolled by size and age.

A file gets its final name once it is complete and on disk; its entries are acked after that. A kill at any point loses
nothing and leaves no partial file. Entries that were in a file but not acked appear in a later file too: partition,
entry_id and line identify each record.

  inlet export --to out                              write gzipped NDJSON until stopped
  inlet export --to out --format parquet --once      write what there is (needs pyarrow)
  inlet export --to out --roll-mib 512 --roll-seconds 600
"""
GROUP = "export"
"""Default consumer group."""
IDLE_FACTOR = 3
"""Times ``--roll-seconds`` that an entry may wait for its ack before another exporter claims it."""


def register(commands: Any) -> None:
    """Add ``export`` to the command line."""
    parser = commands.add_parser(
        "export", help="write records into files: NDJSON or Parquet", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="created as needed")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
    parser.add_argument(
        "--roll-mib", type=common.number, default=export.ROLL_BYTES / 2**20, metavar="MIB",
        help="size of a file's records before compression; default: %(default)g",
    )  # fmt: skip
    parser.add_argument(
        "--roll-seconds", type=common.number, default=export.ROLL_SECONDS, metavar="SECONDS",
        help="age of a file's first record; default: %(default)g",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="stop when there is nothing more right now")
    reader_options(parser, group=False)
    common.target_options(parser)
    parser.set_defaults(run=run, group=GROUP)


def run(arguments: argparse.Namespace) -> int:
    """Run ``export``."""
    if not 0.001 <= arguments.roll_mib <= 65_536 or not 0.1 <= arguments.roll_seconds <= 86_400:
        raise common.Usage("--roll-mib must be from 0.001 to 65536, --roll-seconds from 0.1 to 86400")
    where = common.target(arguments, os.environ)
    # Entries wait for their ack until their file is complete.
    idle = max(arguments.claim_idle, arguments.roll_seconds * IDLE_FACTOR)
    arguments.claim_idle = min(idle, BOUNDS["claim_idle_ms"][1] / 1000)
    progress, total = output.Progress("exported"), 0

    def wrote(path: Path, records: int) -> None:
        nonlocal total
        total += records
        progress.end()
        text = f"{path}: {records:,} records"
        output.say({"file": str(path), "records": records}, text, arguments, lambda: flag.stopped)

    source = reader(arguments, where)
    with source, stopping(source) as flag:
        exporter = export.Exporter(
            source, arguments.to, where.stream, suffix=arguments.format, roll_bytes=int(arguments.roll_mib * 2**20),
            roll_seconds=arguments.roll_seconds, wrote=wrote, grew=lambda records: progress.show(total + records),
        )  # fmt: skip
        exporter.run(forever=not arguments.once)
    return exit_code(arguments, source.stats)
