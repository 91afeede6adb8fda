"""One entry and a handler: what is tried, tried again, given up on. Steps only, as in ``core``.

What lives here: what a handler's exception leads to. What must not: I/O, reading, claims.

- First deliveries: every record is tried; those that fail leave the entry pending, and only they are tried again by
  this process (another process, which cannot know, tries them all).
- From delivery ``deliveries_max`` on a record that fails becomes a dead letter, the others are done, the entry acked.
- A record that kills the process raises nothing. So from that delivery on the line being tried is written to
  ``<stream>:try:<group>:<entry ID>`` first: who finds a line there knows what the last one died of.
- ``BadRecord`` makes a dead letter at once.
"""

from __future__ import annotations

import logging
from typing import Any

from consumer.core import Session
from consumer.deadletter import BAD_RECORD, CONSUMER_DIED, HANDLER_FAILED
from consumer.entries import DETAIL_CHARS_MAX, WHOLE, Bad, Entry
from consumer.errors import BadRecord
from consumer.steps import Invoke, Steps

log = logging.getLogger("inlet.consumer")

PARTIAL_MAX = 10_000
"""Entries whose failed lines are remembered; past it the oldest is forgotten, and all its records tried again."""
TRY_SECONDS_MAX = 86_400
"""How long the line being tried is kept: a day, in which someone surely claims the entry."""
DIED = "the consumer ended, without a word, while it handled this"


def records(session: Session, entry: Entry, done: int = 0, error: Exception | None = None) -> Steps[bool]:
    """Handle an entry record by record; True where it is time to flush the acks.

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
    """Handle an entry in one call. At the last try, where no BadRecord names a line, every record becomes a letter."""
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
    """Leave it pending, for a later delivery."""
    if not whole:
        while len(session.partial) >= PARTIAL_MAX:
            session.partial.pop(next(iter(session.partial)))
        session.partial[entry.watermark] = frozenset(bad.line for bad in failed)
    session.fail(entry)
    log.warning(
        "consumer: the handler failed on %s %s line %d, delivery %d of %d, tried again later: %s",
        session.keys[entry.partition], entry.entry_id, failed[0].line, entry.deliveries,
        session.options.deliveries_max, failed[0].detail,
    )  # fmt: skip


def _try_key(session: Session, entry: Entry) -> str:
    return f"{session.keys[entry.partition]}:try:{session.group}:{entry.entry_id}"


def _try(session: Session, entry: Entry, line: int) -> tuple[Any, ...]:
    return ("SET", _try_key(session, entry), line, "EX", TRY_SECONDS_MAX)


def _died_at(session: Session, entry: Entry) -> Steps[int | None]:
    """The line that the last consumer was at when it ended, if it was at one."""
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
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:DETAIL_CHARS_MAX]
