"""``read`` and ``exec``: entries of a consumer group, to stdout or to a program; acked after that, never before.

What lives here: as above. What must not: decisions about entries, which the reader takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from typing import Any

from consumer.command import common
from consumer.entries import Entry
from consumer.errors import ConsumerError
from consumer.plan import Options
from consumer.reader import STOP_SIGNALS, Reader, stopping_on

READ = """Records of a group on stdout, one JSON object a line: event_id, timestamp, service, message, metadata.

Each entry is acked only after its lines were written and taken by the kernel. Killed in between, its lines come again
to whoever reads next in this group: at least once. Several processes with one group share the stream.

  python -m consumer read --group billing | ./load-into-db
  python -m consumer read --group audit --from now --consumer audit-1
  python -m consumer read --group report --once > so-far.ndjson
"""
EXEC = """Run CMD for each entry with its records on stdin (NDJSON, as `read` prints); exit status 0 acks them.

Any other status leaves the entry to be tried again, each time after twice the wait; after --deliveries-max tries its
records become dead letters (`python -m consumer dead list`). CMD finds CONSUMER_STREAM, CONSUMER_GROUP,
CONSUMER_PARTITION, CONSUMER_ENTRY_ID and CONSUMER_DELIVERIES in its environment.

  python -m consumer exec --group mail -- ./send-mail.sh
  python -m consumer exec --group copy -- sh -c 'cat >> copy.ndjson'
"""


def register(commands: Any) -> None:
    """Add ``read`` and ``exec`` to the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    read = commands.add_parser(
        "read", help="records of a group as NDJSON, acked when written", description=READ, formatter_class=kind
    )
    reader_options(read)
    read.add_argument("--count", type=_whole, metavar="N", help="stop after the entry that completes N records")
    read.add_argument("--once", action="store_true", help="stop when there is nothing more right now")
    read.add_argument("--address", action="store_true", help="add partition, entry_id and line to each object")
    common.place_options(read)
    read.set_defaults(run=run_read)
    execute = commands.add_parser(
        "exec", help="run a program on each entry, acked when it exits 0", description=EXEC, formatter_class=kind
    )
    reader_options(execute)
    execute.add_argument("--once", action="store_true", help="stop when there is nothing more right now")
    common.place_options(execute)
    execute.add_argument("program", nargs="+", metavar="CMD", help="after --: the program and its arguments")
    execute.set_defaults(run=run_exec)


def reader_options(parser: argparse.ArgumentParser, *, group: bool = True) -> None:
    """The options of every command that reads as a group."""
    defaults = Options()
    parser.add_argument("--group", required=group, metavar="G", help="the consumer group; made as needed")
    parser.add_argument(
        "--consumer", metavar="C", help="a name that stays, used by one process at a time; default: a new one each time"
    )
    parser.add_argument(
        "--from", dest="start", choices=("start", "now"), default="start",
        help="where a new group begins; default: start",
    )  # fmt: skip
    parser.add_argument(
        "--claim-idle", type=float, default=defaults.claim_idle_ms / 1000, metavar="SECONDS",
        help="take over what another has not acked for so long; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--deliveries-max", type=int, default=defaults.deliveries_max, metavar="N",
        help="then what fails becomes a dead letter; default: %(default)s",
    )  # fmt: skip


def reader(arguments: argparse.Namespace, where: common.Place) -> Reader:
    """The reader those options describe, once the store has answered; raises Usage, StoreAway, StoreRefuses."""
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
            raise common.Usage("--group and --consumer must be printable, and not empty")
    common.link(where).close()
    return Reader(
        where.url, where.stream, arguments.group, arguments.consumer, partitions=where.partitions, options=options
    )


def run_read(arguments: argparse.Namespace) -> int:
    """``read``."""
    source = reader(arguments, common.place(arguments, os.environ))
    left = arguments.count
    with source, stopping_on(source.stop, STOP_SIGNALS):
        for entry in source.entries(forever=not arguments.once, idle=common.check_pipe):
            try:
                # A write may wait for whoever reads: what is done must not wait with it for its ack.
                common.write(lines(entry, arguments.address), before_waiting=source.flush)
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
    """The entry's records as NDJSON."""
    if not address:
        return b"".join([common.line(common.members(record)) for record in entry.records])
    return b"".join([common.line({**common.members(record), **where._asdict()}) for where, record in entry.items()])


def run_exec(arguments: argparse.Namespace) -> int:
    """``exec``."""
    where = common.place(arguments, os.environ)
    program = shutil.which(arguments.program[0])
    if program is None:
        raise common.Usage(f"no such program: {common.printable(arguments.program[0])}")
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
            raise ConsumerError(f"{common.printable(arguments.program[0])} ended with status {process.returncode}")

    stats = source.run_entries(handle, forever=not arguments.once)
    if arguments.json:
        common.write(common.line(vars(stats)))
    # A run that goes on has said so on stderr, and may have mended it since.
    return common.FAILED if arguments.once and (stats.dead or stats.failed) else common.OK


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
