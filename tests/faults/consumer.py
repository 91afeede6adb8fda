"""One consumer of the soak, a process: ``python -m tests.faults.consumer KIND URL STREAM GROUP NAME LOG``.

What lives here: what a handler does with a record, and the note that it has done it. What must not: who starts, kills
and counts consumers (``crew``, ``ledger``).

A record whose id says so is poison (``POISON``): it fails, says that it is bad, kills the process, or hangs. Any other
record's id goes into LOG, followed by a blank and ALTERED if the record is not what was sent, before the handler
returns: so whatever was acked is in LOG. A kill may leave an id there that is then handled again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

from inlet import AsyncReader, BadRecord, Options, Reader, Record
from inlet.consumer.entries import Entry
from inlet.stream.errors import StoreAway, StoreRefuses
from tests.faults import content

POISON = "-poison-"
"""In the id of a poison record, followed by what it does: ``fails``, ``bad``, ``kills`` or ``hangs``."""
KINDS = ("fails", "bad", "kills", "hangs")
ALTERED = "altered"
ATTEMPTS_MAX = 3
CLAIM_IDLE_MS = 3_000
CLAIM_IDLE_MS_MAX = 4_000
HANDLE_TIMEOUT_MS = 1_000
"""Of one attempt, in milliseconds: below CLAIM_IDLE_MS, or another consumer takes the entry meanwhile."""
HANG_SECONDS = 3_600
REFUSED = 3
"""Exit status where the store refuses or is away, as of the ``inlet`` command."""
OPTIONS = Options(
    entries_max=64,
    claim_idle_ms=CLAIM_IDLE_MS,
    claim_idle_ms_max=CLAIM_IDLE_MS_MAX,
    attempts_max=ATTEMPTS_MAX,
    handle_timeout_ms=HANDLE_TIMEOUT_MS,
)


def poison(event_id: str) -> str:
    """What this record does; empty if it is healthy."""
    return event_id.partition(POISON)[2].partition("-")[0]


def act(record: Record, line: int | None = None) -> None:
    """Do what a poison record does; nothing for a healthy one."""
    kind = poison(record.event_id)
    if kind == "fails":
        raise ValueError("poison")
    if kind == "bad":
        raise BadRecord("poison", line)
    if kind == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hangs":
        time.sleep(HANG_SECONDS)


def note(log: int, records: list[Record]) -> None:
    """Append the ids of handled records in one write(2): what is written survives a kill."""
    lines = [
        record.event_id if tuple(record) == content.stored(record.event_id) else f"{record.event_id} {ALTERED}"
        for record in records
    ]
    os.write(log, "".join(f"{line}\n" for line in lines).encode())


def main() -> int:
    """Read until TERM."""
    kind, url, stream, group, name, path = sys.argv[1:]
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle(record: Record) -> None:
        act(record)
        note(log, [record])

    def handle_entry(entry: Entry) -> None:
        for line, record in zip(entry.lines, entry.records, strict=True):
            act(record, line)
        note(log, entry.records)

    async def handle_later(record: Record) -> None:
        if poison(record.event_id) == "hangs":
            await asyncio.sleep(HANG_SECONDS)
        handle(record)

    try:
        if kind == "async":
            asyncio.run(AsyncReader(url, stream, group, name or None, options=OPTIONS).run(handle_later))
            return 0
        with Reader(url, stream, group, name or None, options=OPTIONS) as reader:
            if kind == "entries":
                reader.run_entries(handle_entry)
            else:
                reader.run(handle)
    except (StoreAway, StoreRefuses) as error:
        print(error.detail, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
