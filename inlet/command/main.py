"""The root of the ``inlet`` command: the parser, the dispatch, and the one place where failures become exit codes.

What lives here: as above. What must not: what a command does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from inlet.command import common, dead, export, groups, keys, lag, output, read, rejected, tail, trim
from inlet.consumer.errors import Stopped, Unsafe
from inlet.stream.errors import ConsumerError, StoreAway, StoreRefuses

DESCRIPTION = """Read what Inlet has stored: look at it, process it, export it, trim it.

Start here:
  inlet tail                                    show records as they arrive
  inlet tail --from start --service checkout    past records too, of one service
  inlet read --group billing > out.ndjson       read as a consumer group: at least once, acked when written
  inlet exec --group mail -- ./send.sh          run a program on each entry; exit status 0 acks it
  inlet lag --watch                             show how far behind each group is
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="inlet",
        description=DESCRIPTION,
        epilog=common.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for module in (tail, read, lag, dead, rejected, trim, groups, export, keys):
        module.register(commands)
    return root


def main(words: Sequence[str] | None = None) -> int:
    """Run one command (``sys.argv`` without ``words``); return its exit code. Every failure is one line on stderr."""
    try:
        arguments = parser().parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    # TERM acts as Ctrl-C wherever a command does not catch it itself.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        return int(arguments.run(arguments) or common.OK)
    except BrokenPipeError:
        # The reader of the pipe has seen enough. Nothing more may be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return common.OK
    except KeyboardInterrupt:
        return common.OK
    except Stopped as error:
        return _failed(error, common.OK)
    except common.Usage as error:
        return _failed(error, common.USAGE)
    except (StoreAway, StoreRefuses) as error:
        return _failed(error, common.STORE)
    except Unsafe as error:
        return _failed(error, common.UNSAFE)
    except ConsumerError as error:
        return _failed(error, common.FAILED)
    except OSError as error:
        return _failed(ConsumerError(f"{error.filename or 'output'}: {error.strerror or error}"), common.FAILED)


def _failed(error: ConsumerError, code: int) -> int:
    output.warn(error.detail)
    return code
