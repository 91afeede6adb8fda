"""Give an entry to a handler, and decide what an exception of it leads to. Steps only, as in ``session``.

What lives here: retries, dead letters, and the note of the line being handled. What must not: I/O, reading, claims.

- First deliveries: every record is handled. Those that fail leave the entry pending, and this process retries only them
  (another process, which cannot know, retries all).
- From delivery ``deliveries_max`` on, a record that fails becomes a dead letter, and the entry is acked.
- A record that kills the process raises nothing. So from that delivery on, the line is first written to
  ``<stream>:try:<group>:<entry ID>``: the next consumer that finds a line there knows what the last one died of.
- ``BadRecord`` makes a dead letter at once.
"""

from __future__ import annotations

import logging
from typing import Any

from inlet.consumer.deadletter import BAD_RECORD, CONSUMER_DIED, HANDLER_FAILED
from inlet.consumer.entries import DETAIL_CHARS_MAX, WHOLE, Bad, Entry
from inlet.consumer.errors import BadRecord
from inlet.consumer.session import Session
from inlet.consumer.steps import Invoke, Steps
from inlet.stream.keys import try_key

log = logging.getLogger("inlet.consumer")

PARTIAL_MAX = 10_000
"""Entries whose failed lines are remembered; past it the oldest is forgotten, and all its records are retried."""
TRY_SECONDS_MAX = 86_400
"""Seconds (a day) the line being handled is kept: someone surely claims the entry within it."""
DIED = "the consumer process died while it handled this record"


def records(session: Session, entry: Entry, done: int = 0, error: Exception | None = None) -> Steps[bool]:
    """Handle an entry record by record; return True if it is time to flush the acks.

    ``done`` records were handled already, and the next one raised ``error``.
    """
    last_try = entry.deliveries >= session.options.deliveries_max
    only = session.partial.pop(entry.watermark, None)
    died_at = (yield from _died_at(session, entry)) if last_try else None
    final: list[Bad] = []
    failed: list[Bad] = []
    for position in range(done, len(entry.records)):
        line = entry.lines[position]
        if only is not None and line not in only:
            continue
        if line == died_at:
            final.append(_bad(entry, line, CONSUMER_DIED, DIED))
            continue
        if last_try:
            yield from session.call([_try(session, entry, line)])
        try:
            if position == done and error is not None:
                raise error
            yield Invoke(entry.records[position])
        except BadRecord as raised:
            final.append(_bad(entry, line, BAD_RECORD, raised.detail))
        except Exception as raised:
            failed.append(_bad(entry, line, HANDLER_FAILED, _words(raised)))
    if failed and not last_try:
        _leave(session, entry, [*failed, *final])
        return False
    return (yield from _done(session, entry, [*final, *failed], last_try))


def whole(session: Session, entry: Entry) -> Steps[bool]:
    """Handle an entry in one call; return True if it is time to flush the acks.

    If the last delivery fails without a BadRecord that names a line, every record becomes a dead letter.
    """
    last_try = entry.deliveries >= session.options.deliveries_max
    died = (yield from _died_at(session, entry)) is not None if last_try else False
    final: list[Bad] = []
    rest = entry
    if died:
        final = [_bad(entry, line, CONSUMER_DIED, DIED) for line in entry.lines]
    elif last_try:
        yield from session.call([_try(session, entry, WHOLE)])
    while not died and rest.records:
        try:
            yield Invoke(rest)
            break
        except BadRecord as raised:
            lines = rest.lines if raised.line not in rest.lines else [raised.line]
            final += [_bad(entry, line, BAD_RECORD, raised.detail) for line in lines if line is not None]
            rest = _without(rest, {bad.line for bad in final})
        except Exception as raised:
            failed = [_bad(entry, line, HANDLER_FAILED, _words(raised)) for line in rest.lines]
            if not last_try:
                _leave(session, entry, failed[:1], whole=True)
                return False
            final += failed
            break
    return (yield from _done(session, entry, final, last_try))


def _done(session: Session, entry: Entry, final: list[Bad], last_try: bool) -> Steps[bool]:
    bad = [*entry.bad, *final]
    if bad or last_try:
        yield from session.bury(entry, bad, *([("DEL", _try_key(session, entry))] if last_try else []))
        return False
    return session.ack(entry)


def _leave(session: Session, entry: Entry, failed: list[Bad], *, whole: bool = False) -> None:
    """Leave the entry pending, for a later delivery."""
    if not whole:
        while len(session.partial) >= PARTIAL_MAX:
            session.partial.pop(next(iter(session.partial)))
        session.partial[entry.watermark] = frozenset(bad.line for bad in failed)
    session.fail(entry)
    log.warning(
        "inlet: the handler failed on %s %s line %d, delivery %d of %d, will be retried: %s",
        session.keys[entry.partition], entry.entry_id, failed[0].line, entry.deliveries,
        session.options.deliveries_max, failed[0].detail,
    )  # fmt: skip


def _try_key(session: Session, entry: Entry) -> str:
    return try_key(session.keys[entry.partition], session.group, entry.entry_id)


def _try(session: Session, entry: Entry, line: int) -> tuple[Any, ...]:
    return ("SET", _try_key(session, entry), line, "EX", TRY_SECONDS_MAX)


def _died_at(session: Session, entry: Entry) -> Steps[int | None]:
    """Return the line that the last consumer was handling when it died, or None."""
    [found] = yield from session.call([("GET", _try_key(session, entry))])
    try:
        return None if found is None else int(found)
    except ValueError:
        return None


def _bad(entry: Entry, line: int, reason: str, detail: str) -> Bad:
    return Bad(line, reason, detail[:DETAIL_CHARS_MAX], entry.raw(line))


def _without(entry: Entry, lines: set[int]) -> Entry:
    kept = [(line, record) for line, record in zip(entry.lines, entry.records, strict=True) if line not in lines]
    return entry._replace(lines=[line for line, _ in kept], records=[record for _, record in kept])


def _words(error: Exception) -> str:
    """Return an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:DETAIL_CHARS_MAX]
