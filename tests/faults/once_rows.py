"""Each event stored once: faults under a load that retries, with INLET_DEDUP_SECONDS.

    python -m tests.faults.once_rows [--only WORDS]     prints the table, as Markdown

What lives here: which faults, and what such a row must show. What must not: how a fault is made.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from tests.faults import network_faults, process_faults, store_faults
from tests.faults.load import TIMEOUT, Answer, summary
from tests.faults.oracle import read_lines
from tests.faults.retrying import IMPATIENT, OnceVerdict, Retrying
from tests.faults.rig import Rig
from tests.faults.scenario import STATUSES, Fault, Seen, anything, explained, lead, reported

SENT_MIN = 60
"""Valid ids of a row: fewer prove nothing."""
RETRIED_MIN = 10
"""Attempts after the first one: without retries nothing is shown."""
DEDUP = {"INLET_DEDUP_SECONDS": "3600"}
HEAD = (
    "| fault | level | ids sent | attempts more | in the stream once | missing | doubled | altered |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
TAKEN = (
    "workers killed (SIGKILL)", "TERM under load", "workers recycled (max_requests)", "HUP under load",
    "embedded store killed (SIGKILL)", "store killed (SIGKILL), restarted", "store stopped (SIGSTOP) for 5 s",
    "store slow (CLIENT PAUSE 10 s)", "store out of memory (OOM)", "store turned into a replica (READONLY)",
    "store loading for seconds (LOADING)", "right to write taken (NOPERM)", "another type at the key (WRONGTYPE)",
    "script that does not end (BUSY)", "the stream's last ID is taken", "an ID in the future",
    "store's clock set back an hour", "disk full under the append-only file",
    "connection reset before the commit arrives", "connection reset in the middle of a commit",
    "connection reset after the commit, before its reply", "connection reset in the middle of the reply",
    "every connection to the store reset", "black hole before the store", "black hole before the replica",
    "store killed, its replica promoted", "store killed, a replica that was behind promoted",
)  # fmt: skip
"""Of the faults that there are for clients that do not retry; at the levels that promise to keep what is answered."""
_names = itertools.count()


@contextlib.contextmanager
def master_killed(rig: Rig) -> Iterator[None]:
    """SIGKILL to gunicorn's master and to all workers, and another start on the same store."""
    workers = rig.server.workers()
    rig.server.process.kill()
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    rig.start_server()
    yield


@contextlib.contextmanager
def script_flushed(rig: Rig) -> Iterator[None]:
    """SCRIPT FLUSH: the store has lost the script that every connection relies on."""
    rig.store.command("SCRIPT", "FLUSH")
    yield


OWN = [
    Fault(name="server killed (SIGKILL), started again", inject=master_killed, seen=anything),
    Fault(name="scripts flushed (SCRIPT FLUSH)", inject=script_flushed, seen=reported("sink-unavailable")),
]
ALL = [*process_faults.FAULTS, *store_faults.FAULTS, *network_faults.FAULTS]
FAULTS = [
    *OWN,
    *(
        replace(fault, levels=tuple(level for level in fault.levels if level not in fault.loses))
        for fault in ALL
        if fault.name in TAKEN
    ),
]


class OnceRow(NamedTuple):
    """A scenario's outcome."""

    name: str
    level: str
    answers: str
    verdict: OnceVerdict
    wrong: str


def run(fault: Fault, level: str) -> OnceRow:
    """Lead a load that retries through a fault. Raises AssertionError as ``scenario.lead`` does."""
    settings = {**fault.rig, "env": {**fault.rig.get("env", {}), **DEDUP}}
    with Rig(level, **settings) as rig, explained(rig):
        name = f"once-{os.getpid()}-{next(_names)}"
        rig.load = load = Retrying(name, lambda: (rig.server.host, rig.server.port))
        # Before the server is taken down, whatever happens.
        rig.at_end(load.abandon)
        lead(replace(fault, seen=noticed(fault)), rig)
        if not fault.recovers:
            rig.start_server()
        load.finish()
        with rig.reader() as client:
            verdict = load.verdict(line for _, line in read_lines(client, *rig.streams))
        wrong = [verdict.faults(), too_little(verdict)]
        if statuses := {answer.status for answer in load.answers} - STATUSES:
            wrong.append(f"undocumented statuses {sorted(statuses)}")
        if any(answer.reason == TIMEOUT for answer in load.answers):
            wrong.append("a client got no answer at all")
        if "Traceback" in rig.server.log():
            wrong.append("a traceback in the log")
        return OnceRow(fault.name, level, summary(load.answers), verdict, "; ".join(filter(None, wrong)))


def noticed(fault: Fault) -> Seen:
    """As the fault's own ``seen``; or whoever would have been told had hung up by then, and the next ones were told."""

    def seen(rig: Rig, answers: list[Answer]) -> bool:
        reasons = {answer.reason for answer in answers}
        return fault.seen(rig, answers) or {IMPATIENT, "sink-unavailable"} <= reasons

    return seen


def too_little(verdict: OnceVerdict) -> str:
    """Why the scenario proves nothing, in words; empty if it does."""
    if verdict.sent < SENT_MIN or verdict.retried < RETRIED_MIN:
        return f"only {verdict.sent} ids and {verdict.retried} retries"
    return ""


def line(row: OnceRow) -> str:
    """One row of the table."""
    verdict = row.verdict
    once = verdict.sent - verdict.missing - verdict.doubled
    return (
        f"| {row.name} | `{row.level}` | {verdict.sent} | {verdict.retried} | {once} | {verdict.missing} "
        f"| {verdict.doubled} | {verdict.altered} |"
    )


def main() -> int:
    """Run, print."""
    options = argparse.ArgumentParser(prog="python -m tests.faults.once_rows", description=__doc__)
    options.add_argument("--only", default="", metavar="WORDS", help="run the rows whose name has these words")
    only = options.parse_args().only
    broken = 0
    print(HEAD, end="")
    for fault in FAULTS:
        for level in fault.levels:
            if only not in fault.name:
                continue
            if reason := fault.impossible():
                print(f"| {fault.name} | `{level}` | not run: {reason} | - | - | - | - | - |")
                continue
            row = run(fault, level)
            print(line(row), flush=True)
            if row.wrong:
                broken += 1
                print(f"{row.name}, {row.level}: {row.wrong}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
