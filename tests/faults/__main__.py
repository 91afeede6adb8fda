"""``python -m tests.faults``: run every scenario and print the table.

``--write`` puts it into docs/reliability.md, unless a row is broken; ``--only WORDS`` runs the rows of these words.
The exit status is 1 where a row breaks a promise, or where all rows together saw too little to prove anything.

What lives here: the list of all rows, and the command line. What must not: a fault, or how a scenario runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from tests.faults import (
    client_faults,
    network_faults,
    power_cut,
    power_rows,
    process_faults,
    retention_faults,
    store_faults,
)
from tests.faults.scenario import Row, run
from tests.faults.table import HEAD, line, not_run, write

FAULTS = [
    *store_faults.FAULTS,
    *network_faults.FAULTS,
    *process_faults.FAULTS,
    *client_faults.FAULTS,
    *retention_faults.FAULTS,
]


ROWS_MIN = 60
"""Rows that a run of all of them must have; a machine without strace, mounts and libfaketime has to leave out ten."""
ANSWERED_MIN = 20_000
"""Records answered 202, over all rows."""
SEEN = (
    "sink-unavailable", "sink-misconfigured", "sink-outcome-unknown", "durability-timeout",
    "backlog-full", "request-timeout", "reset", "no connection",
)  # fmt: skip
"""Answers that the faults must have brought about, over all rows."""


def too_little(done: list[Row]) -> list[str]:
    """Why these rows together prove nothing, in words."""
    answered = sum(row.verdict.answered for row in done)
    few = {"rows": (len(done), ROWS_MIN), "records answered 202": (answered, ANSWERED_MIN)}
    unseen = [reason for reason in SEEN if not any(reason in row.answers for row in done)]
    return [
        *(f"only {number} {what}, where {least} are needed" for what, (number, least) in few.items() if number < least),
        *(f"no client was answered {reason}" for reason in unseen),
    ]


def rows(only: str) -> Iterator[Row | str]:
    """Each row as it is done; as text where it cannot be."""
    for fault in FAULTS:
        for level in fault.levels:
            if only in fault.name:
                reason = fault.impossible()
                yield not_run(fault.name, level, reason) if reason else run(fault, level)
    for case, (level, fsync) in power_rows.CASES.items():
        if only in power_rows.name(fsync):
            reason = power_cut.no_strace()
            yield not_run(power_rows.name(fsync), level, reason) if reason else power_rows.run(case)


def main() -> int:
    """Run, print, write."""
    options = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    chosen = options.add_mutually_exclusive_group()
    chosen.add_argument("--write", action="store_true", help="update the table of docs/reliability.md")
    chosen.add_argument("--only", default="", metavar="WORDS", help="run the rows whose name has these words")
    arguments = options.parse_args()
    lines, done, broken = [], list[Row](), 0
    print(HEAD, end="")
    for row in rows(arguments.only):
        lines.append(row if isinstance(row, str) else line(row))
        print(lines[-1], flush=True)
        done += [row] if isinstance(row, Row) else []
        if isinstance(row, Row) and row.wrong:
            broken += 1
            print(f"{row.name}, {row.level}: {row.wrong}", file=sys.stderr)
    for words in [] if arguments.only else too_little(done):
        broken += 1
        print(words, file=sys.stderr)
    if arguments.write and not broken:
        write(lines)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
