"""``read`` and ``exec``: pass a consumer group's entries to stdout or to a program, and ack them after that.

What lives here: as above. What must not: decisions about entries, which are the reader's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from inlet.command import common, output
from inlet.command.programs import Program, RunLimits
from inlet.consumer.entries import Entry
from inlet.consumer.errors import Stopped
from inlet.consumer.options import Options
from inlet.consumer.reader import Reader
from inlet.consumer.session import Stats
from inlet.consumer.stopping import STOP_SIGNALS, StopFlag, stopping_on
from inlet.stream.errors import ConsumerError

READ = """Print a group's records, one JSON object a line: event_id, timestamp, service, message, metadata.

An entry is acked once the kernel has taken its lines. If the process is killed in between, the group gets the lines
again: delivery is at least once. Several processes in one group share the stream.

  inlet read --group billing | ./load-into-db
  inlet read --group audit --from now --consumer audit-1
  inlet read --group report --once > so-far.ndjson
"""
EXEC = """Run CMD for each entry with its records on stdin (NDJSON, as `read` prints); exit status 0 acks the entry.

Any other status is a failed attempt, and so is a run longer than --timeout. The entry is retried, each time after twice
the wait. After --attempts-max attempts it is retried in halves, down to single records; those that still fail become
dead letters (`inlet dead list`). CMD's environment has CONSUMER_STREAM, CONSUMER_GROUP, CONSUMER_PARTITION,
CONSUMER_ENTRY_ID, CONSUMER_LINES (first and last, such as 0-99), CONSUMER_ATTEMPT (1 for the first) and
CONSUMER_DELIVERIES.

If CMD cannot be started (exit status 126 or 127), or fails while nobody reads its output any more, exec hands the entry
back and ends, with no attempt counted. So CMD must not use 126 or 127 for failures of its own.

CMD is over when its process exits; whatever it leaves in its process group is then killed. After TERM or Ctrl-C, CMD
may take --grace seconds to finish; then it is ended and its entry handed back, with no attempt counted. A second signal
ends it at once.

  inlet exec --group mail -- ./send-mail.sh
  inlet exec --group copy -- sh -c 'cat >> copy.ndjson'
  inlet exec --group slow --timeout 600 --claim-idle 900 -- ./transcode
"""
GRACE_SECONDS = 10.0
"""Seconds a program may take to finish after TERM: what Docker and most supervisors wait before they kill."""
GRACE_SECONDS_MAX = 86_400.0
"""Bound of ``--grace`` (a day): a longer stop is a mistake."""
TIMEOUT_SHARE = 0.75
"""Default deadline of a program, as a share of ``--claim-idle``: after that, another consumer may take the entry."""


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
    execute.add_argument(
        "--timeout", type=common.number, metavar="SECONDS",
        help=f"end CMD after so long, as a failed attempt; default: {TIMEOUT_SHARE:g} times --claim-idle",
    )  # fmt: skip
    execute.add_argument(
        "--grace", type=common.number, default=GRACE_SECONDS, metavar="SECONDS",
        help="how long CMD may take to finish after TERM or Ctrl-C; default: %(default)g",
    )  # fmt: skip
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
        "--claim-idle", type=common.number, default=defaults.claim_idle_ms / 1000, metavar="SECONDS",
        help="claim what another consumer has not acked for so long; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--attempts-max", type=int, default=defaults.attempts_max, metavar="N",
        help="failed attempts before a record becomes a dead letter; default: %(default)s",
    )  # fmt: skip


def reader(arguments: argparse.Namespace, where: common.Target) -> Reader:
    """Return the reader those options describe, once the store has answered. Raises Usage, StoreAway, StoreRefuses."""
    idle_ms = int(arguments.claim_idle * 1000)
    try:
        options = Options(
            start=arguments.start,
            claim_idle_ms=idle_ms,
            claim_idle_ms_max=max(Options.claim_idle_ms_max, idle_ms),
            attempts_max=arguments.attempts_max,
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


@contextlib.contextmanager
def stopping(source: Reader) -> Iterator[StopFlag]:
    """Stop ``source`` on TERM or INT, and yield a flag that says so; a second signal raises KeyboardInterrupt."""
    flag = StopFlag()

    def stop() -> None:
        flag.stop()
        source.stop()

    with stopping_on(stop, STOP_SIGNALS):
        yield flag


def run_read(arguments: argparse.Namespace) -> int:
    """Run ``read``."""
    source = reader(arguments, common.target(arguments, os.environ))
    left = arguments.count
    with source, stopping(source) as flag:
        for entry in source.entries(forever=not arguments.once, idle=output.check_pipe):
            written = False
            try:
                # A write may wait for the pipe's reader; entries that are done must not wait with it for their ack.
                written = output.write_lines(lines(entry, arguments.address), source.flush, lambda: flag.stopped)
            finally:
                if not written:
                    source.give_back(entry)
            if not written:
                break
            source.ack(entry)
            if left is not None:
                left -= len(entry.records)
                if left <= 0:
                    break
    return exit_code(arguments, source.stats)


def lines(entry: Entry, address: bool = False) -> bytes:
    """Return the entry's records as NDJSON."""
    if not address:
        return b"".join([output.line(output.members(record)) for record in entry.records])
    return b"".join([output.line({**output.members(record), **where._asdict()}) for where, record in entry.items()])


def run_exec(arguments: argparse.Namespace) -> int:
    """Run ``exec``."""
    where = common.target(arguments, os.environ)
    executable = shutil.which(arguments.program[0])
    if executable is None:
        raise common.Usage(f"program not found: {output.printable(arguments.program[0])}")
    words, limits = [executable, *arguments.program[1:]], program_limits(arguments)
    source = reader(arguments, where)
    broken: list[OSError] = []
    with stopping(source) as flag, contextlib.closing(Program(words, limits, lambda: flag.stopped)) as program:

        def handle(entry: Entry) -> None:
            try:
                output.check_pipe()
                try:
                    program.run(lines(entry), about(entry, where.stream, arguments.group))
                except ConsumerError:
                    # A program says in its own way that nobody reads what it prints: SIGPIPE, 141, 1, ...
                    output.check_pipe()
                    raise
            except OSError as error:
                # No fault of the entry: stdout is closed, the program is gone, or the machine has no process to spare.
                broken.append(error)
                raise Stopped("no program can be run") from None

        stats = source.run_entries(handle, forever=not arguments.once, signals=())
    if arguments.json:
        output.write(output.line(vars(stats)))
    if broken and isinstance(broken[0], BrokenPipeError):
        raise broken[0]
    if broken:
        raise ConsumerError(f"{output.printable(executable)}: {broken[0].strerror}; its entry was handed back")
    return exit_code(arguments, stats)


def exit_code(arguments: argparse.Namespace, stats: Stats) -> int:
    """Return 1 if a run with ``--once`` had failures, or made dead letters, of another writer's entries too."""
    # A run without --once has logged failures, and may have handled the entries since.
    return common.FAILED if arguments.once and (stats.dead or stats.failed) else common.OK


def program_limits(arguments: argparse.Namespace) -> RunLimits:
    """Return the deadline and the grace. Raises Usage."""
    idle, timeout = arguments.claim_idle, arguments.timeout
    if timeout is None:
        timeout = idle * TIMEOUT_SHARE
    elif not 0 < timeout < idle:
        raise common.Usage(
            f"--timeout {timeout:g} must be above 0 and below --claim-idle {idle:g}: after that, another consumer takes"
            " the entry. Raise --claim-idle for a program that takes longer"
        )
    if not 0 <= arguments.grace <= GRACE_SECONDS_MAX:
        raise common.Usage(f"--grace must be from 0 to {GRACE_SECONDS_MAX:g}")
    return RunLimits(timeout, arguments.grace)


def about(entry: Entry, stream: str, group: str) -> dict[str, str]:
    """Return what a program's environment says of its entry."""
    return {
        "CONSUMER_STREAM": stream,
        "CONSUMER_GROUP": group,
        "CONSUMER_PARTITION": str(entry.partition),
        "CONSUMER_ENTRY_ID": entry.entry_id,
        "CONSUMER_LINES": "{}-{}".format(*entry.span),
        "CONSUMER_ATTEMPT": str(entry.attempt),
        "CONSUMER_DELIVERIES": str(entry.deliveries),
    }


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
