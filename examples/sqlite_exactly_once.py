"""Write every record to SQLite exactly once, though the stream delivers at least once.

    pip install .                                  (once, in the checkout; `make run` does it in .venv)
    python examples/sqlite_exactly_once.py out.db [--group sqlite] [--consumer NAME] [--once]

The output and where it came from (partition, entry ID, first and last line) are written in one transaction. If the
process is killed before the COMMIT, neither is there, and the entry is delivered again. If it is killed after the
COMMIT but before the ack, the entry is delivered again too; its lines are found, and nothing is written twice.

An entry that keeps failing is delivered in halves of halves, to find the record that fails. So an entry is skipped if
its lines are within those of a row. The rows are a set, not "the highest ID so far": an entry that failed, or was
claimed from a dead consumer, comes after later ones. Each takes about 50 bytes for a hundred records. Rows of acked
entries can be deleted at any time.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Callable

try:
    from inlet import ConsumerError, Entry, Options, Reader
    from inlet.stream.place import PlaceError, from_environment
except ImportError as error:
    sys.exit(f"{error}; run `pip install .` in the checkout first, or `make run` and then .venv/bin/python")

SCHEMA = """
CREATE TABLE IF NOT EXISTS handled_lines (
    partition INTEGER, entry_id TEXT, first INTEGER, last INTEGER, PRIMARY KEY (partition, entry_id, first, last)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (event_id TEXT, timestamp TEXT, service TEXT, message TEXT);
"""
CLAIM = """
INSERT INTO handled_lines SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS (
    SELECT 1 FROM handled_lines WHERE partition = ?1 AND entry_id = ?2 AND first <= ?3 AND last >= ?4
)
"""
"""Inserts a row unless these lines are within those of another."""
LOCK_SECONDS_MAX = 30.0
"""Seconds to wait for another process that writes to the same file."""


def database(path: str) -> sqlite3.Connection:
    """Open the file in a mode that survives kill -9 and power failures."""
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS_MAX, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(SCHEMA)
    return connection


def writer(connection: sqlite3.Connection) -> Callable[[Entry], None]:
    """Return a handler for ``Reader.run_entries``."""

    def handle(entry: Entry) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            new = connection.execute(CLAIM, (entry.partition, entry.entry_id, *entry.span)).rowcount
            if new:
                rows = [record[:4] for record in entry.records]
                connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    return handle


def main() -> int:
    """Run until TERM or Ctrl-C, or with --once until there is nothing more; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--group", default="sqlite")
    parser.add_argument("--consumer", help="a lasting name: what a crash left pending is delivered at once")
    parser.add_argument("--once", action="store_true", help="stop when there is nothing more")
    parser.add_argument("--claim-idle", type=float, default=60.0, metavar="SECONDS")
    arguments = parser.parse_args()
    options = Options(claim_idle_ms=int(arguments.claim_idle * 1000))
    try:
        url, stream = from_environment(os.environ)
        reader = Reader(url, stream, arguments.group, arguments.consumer, options=options)
        reader.run_entries(writer(database(arguments.file)), forever=not arguments.once)
    except (ConsumerError, PlaceError) as error:
        sys.stderr.write(f"sqlite_exactly_once: {error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
