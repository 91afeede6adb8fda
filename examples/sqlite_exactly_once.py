"""Every record in SQLite exactly once, though the stream delivers at least once.

    python -m examples.sqlite_exactly_once out.db [--group sqlite] [--consumer NAME] [--once]

The trick is one transaction for the output and for the watermark (partition, entry ID) of the entry it came from.
Killed before the COMMIT, neither is there, and the entry comes again. Killed after it but before the ack, the entry
comes again too, its watermark is found, and nothing is written twice.

Not "the highest ID so far": an entry that failed, or was claimed from a dead consumer, comes after later ones. So each
entry's ID is kept: 40 bytes for a hundred records. Rows of entries that are acked can be deleted at any time.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable

from consumer import ConsumerError, Entry, Options, Reader
from wsgi.settings import load, store_url

SCHEMA = """
CREATE TABLE IF NOT EXISTS handled (partition INTEGER, entry_id TEXT, PRIMARY KEY (partition, entry_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (event_id TEXT, timestamp TEXT, service TEXT, message TEXT);
"""
LOCK_SECONDS_MAX = 30.0
"""How long to wait for another process that writes to the same file."""


def database(path: str) -> sqlite3.Connection:
    """Open it, in a mode that survives kill -9 and power failures alike."""
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS_MAX, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(SCHEMA)
    return connection


def writer(connection: sqlite3.Connection) -> Callable[[Entry], None]:
    """A handler for ``Reader.run_entries``."""

    def handle(entry: Entry) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            new = connection.execute("INSERT OR IGNORE INTO handled VALUES (?, ?)", entry.watermark).rowcount
            if new:
                rows = [record[:4] for record in entry.records]
                connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    return handle


def main() -> int:
    """Run until TERM or Ctrl-C, or with --once until there is nothing more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--group", default="sqlite")
    parser.add_argument("--consumer", help="a name that stays: what a crash left is taken up at once")
    parser.add_argument("--once", action="store_true", help="end when there is nothing more")
    parser.add_argument("--claim-idle", type=float, default=60.0, metavar="SECONDS")
    arguments = parser.parse_args()
    settings = load(os.environ)
    options = Options(claim_idle_ms=int(arguments.claim_idle * 1000))
    reader = Reader(store_url(settings), settings.stream, arguments.group, arguments.consumer, options=options)
    try:
        reader.run_entries(writer(database(arguments.file)), forever=not arguments.once)
    except ConsumerError as error:
        sys.stderr.write(f"sqlite_exactly_once: {error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
