"""``read`` and ``exec``: pass a consumer group's entries to stdout or to a program, and ack them after that.

What lives here: as above. What must not: decisions about entries, which are the reader's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from typing import Any

from inlet.command import common, output
from inlet.consumer.entries import Entry
from inlet.consumer.options import Options
from inlet.consumer.reader import Reader
from inlet.consumer.stopping import STOP_SIGNALS, stopping_on
from inlet.stream.errors import ConsumerError

READ = """Print a group's records, one JSON object a line: event_id, timestamp, service, message, metadata.

An entry is acked once the kernel has taken its lines. If the process is killed in between, the group gets the lines
again: delivery is at least once. Several processes in one group share the stream.

  inlet read --group billing | ./load-into-db
  inlet read --group audit --from now --consumer audit-1
  inlet read --group report --once > so-far.ndjson
"""
EXEC = """Run CMD for each entry with its records on stdin (NDJSON, as `read` prints); exit status 0 acks the entry.

After any other status the entry is retried, each time after twice the wait; after --deliveries-max deliveries its
records become dead letters (`inlet dead list`). CMD's environment has CONSUMER_STREAM, CONSUMER_GROUP,
CONSUMER_PARTITION, CONSUMER_ENTRY_ID and CONSUMER_DELIVERIES.

  inlet exec --group mail -- ./send-mail.sh
  inlet exec --group copy -- sh -c 'cat >> copy.ndjson'
"""


def register(commands: Any) -> None:
    """Add ``read`` and ``exec`` to the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    read = commands.add_parser(
        "read", help="print a group's records as NDJSON, acked when written", description=READ, formatter_class=kind
    )
    reader_options(read)
    read.add_argument("--count", type=_whole, metavar="N", help="stop after the entry that completes N records")
    read.add_argument("--once", action="store_true", help="stop when there is nothing more right now")
    read.add_argument("--address", action="store_true", help="add partition, entry_id and line to each object")
    common.target_options(read)
    read.set_defaults(run=run_read)
    execute = commands.add_parser(
        "exec", help="run a program on each entry, acked if it exits with 0", description=EXEC, formatter_class=kind
    )
    reader_options(execute)
    execute.add_argument("--once", action="store_true", help="stop when there is nothing more right now")
    common.target_options(execute)
    execute.add_argument("program", nargs="+", metavar="CMD", help="after --: the program and its arguments")
    execute.set_defaults(run=run_exec)


def reader_options(parser: argparse.ArgumentParser, *, group: bool = True) -> None:
    """Add the options of every command that reads as a group."""
    defaults = Options()
    parser.add_argument("--group", required=group, metavar="G", help="the consumer group; created as needed")
    parser.add_argument(
        "--consumer", metavar="C", help="a lasting name, used by one process at a time; default: a new one each time"
    )
    parser.add_argument(
        "--from", dest="start", choices=("start", "now"), default="start",
        help="where a new group begins; default: start",
    )  # fmt: skip
    parser.add_argument(
        "--claim-idle", type=float, default=defaults.claim_idle_ms / 1000, metavar="SECONDS",
        help="claim what another consumer has not acked for so long; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--deliveries-max", type=int, default=defaults.deliveries_max, metavar="N",
        help="deliveries before a failing record becomes a dead letter; default: %(default)s",
    )  # fmt: skip


def reader(arguments: argparse.Namespace, where: common.Target) -> Reader:
    """Return the reader those options describe, once the store has answered. Raises Usage, StoreAway, StoreRefuses."""
    idle_ms = int(arguments.claim_idle * 1000)
    try:
        options = Options(
            start=arguments.start,
            claim_idle_ms=idle_ms,
            claim_idle_ms_max=max(Options.claim_idle_ms_max, idle_ms),
            deliveries_max=arguments.deliveries_max,
        )
    except ValueError as error:
        raise common.Usage(str(error)) from None
    for name in (arguments.group, arguments.consumer):
        if name is not None and not (name and name.isprintable()):
            raise common.Usage("--group and --consumer must be printable and not empty")
    common.connect(where).close()
    return Reader(
        where.url, where.stream, arguments.group, arguments.consumer, partitions=where.partitions, options=options
    )


def run_read(arguments: argparse.Namespace) -> int:
    """Run ``read``."""
    source = reader(arguments, common.target(arguments, os.environ))
    left = arguments.count
    with source, stopping_on(source.stop, STOP_SIGNALS):
        for entry in source.entries(forever=not arguments.once, idle=output.check_pipe):
            try:
                # A write may wait for the pipe's reader; entries that are done must not wait with it for their ack.
                output.write(lines(entry, arguments.address), before_waiting=source.flush)
            except BaseException:
                source.give_back(entry)
                raise
            source.ack(entry)
            if left is not None:
                left -= len(entry.records)
                if left <= 0:
                    break
    return common.OK


def lines(entry: Entry, address: bool = False) -> bytes:
    """Return the entry's records as NDJSON."""
    if not address:
        return b"".join([output.line(output.members(record)) for record in entry.records])
    return b"".join([output.line({**output.members(record), **where._asdict()}) for where, record in entry.items()])


def run_exec(arguments: argparse.Namespace) -> int:
    """Run ``exec``."""
    where = common.target(arguments, os.environ)
    program = shutil.which(arguments.program[0])
    if program is None:
        raise common.Usage(f"program not found: {output.printable(arguments.program[0])}")
    source = reader(arguments, where)

    def handle(entry: Entry) -> None:
        about = {
            "CONSUMER_STREAM": where.stream,
            "CONSUMER_GROUP": arguments.group,
            "CONSUMER_PARTITION": str(entry.partition),
            "CONSUMER_ENTRY_ID": entry.entry_id,
            "CONSUMER_DELIVERIES": str(entry.deliveries),
        }
        # A group of its own: a terminal's Ctrl-C stops this process after the entry, not the program within it.
        process = subprocess.Popen(
            arguments.program, executable=program, stdin=subprocess.PIPE, env={**os.environ, **about}, process_group=0
        )
        # A program need not read all of its input; its status decides. communicate() ignores the broken pipe.
        process.communicate(lines(entry))
        if process.returncode:
            raise ConsumerError(f"{output.printable(arguments.program[0])} exited with status {process.returncode}")

    stats = source.run_entries(handle, forever=not arguments.once)
    if arguments.json:
        output.write(output.line(vars(stats)))
    # A run without --once has logged failures, and may have handled the entries since.
    return common.FAILED if arguments.once and (stats.dead or stats.failed) else common.OK


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
