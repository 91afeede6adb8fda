"""The command line's root: the parser that teaches, the dispatch, and one place where failures become exit codes.

What lives here: as above. What must not: what a command does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from consumer.command import common, dead, export, lag, read, tail, trim
from consumer.errors import ConsumerError, Stopped, StoreAway, StoreRefuses, Unsafe

DESCRIPTION = """Read what Inlet has accepted: look at it, handle it, keep it, trim it.

Start here:
  python -m consumer tail                                    what arrives, as it arrives
  python -m consumer tail --from start --service checkout    the past too, of one service
  python -m consumer read --group billing > out.ndjson       as a consumer group: at least once, acked when written
  python -m consumer exec --group mail -- ./send.sh          a program handles the lines; exit status 0 acks them
  python -m consumer lag --watch                             how far behind each group is
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="python -m consumer",
        description=DESCRIPTION,
        epilog=common.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for module in (tail, read, lag, dead, trim, export):
        module.register(commands)
    return root


def main(words: Sequence[str]) -> int:
    """Run one command; return its exit code. Every failure is one line on stderr."""
    try:
        arguments = parser().parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    # As Ctrl-C, wherever a command does not catch it itself.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        return int(arguments.run(arguments) or common.OK)
    except BrokenPipeError:
        # Whoever read has seen enough. Nothing more may be flushed into the pipe at exit.
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
    sys.stderr.write(f"consumer: {error.detail}\n")
    return code
