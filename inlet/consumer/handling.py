"""Give an entry to a handler, and decide what an exception of it leads to. Steps only, as in ``session``.

What lives here: attempts, bisection, verdicts. What must not: I/O, reading, claims, the bytes of a note (``notes``).

An entry is handled in units: single records for ``run``, all records for ``run_entries``.

- A unit that fails is tried again later; those that are done are not. The note says which are left (``notes``).
- A unit that fails at attempt ``attempts_max`` is split in halves, each with one try, down to single records. What
  fails alone becomes a dead letter, once nothing of the entry is left. ``BadRecord`` makes one without a retry.
- A death may be anybody's fault. So it takes ``attempts_max`` deaths of a record that was alone to make it a letter.
- A record that kills the process raises nothing. So from an entry's second delivery on, a unit is noted as begun before
  the handler gets it: a begun unit that the next consumer finds has failed. That is a round trip a unit. So the records
  of an entry without a note, which was most likely only read ahead, are noted all at once, and one by one from the next
  delivery on.

Every note is written before the handler is called with what depends on it. So after a kill the units are the same.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque

from inlet.consumer import notes
from inlet.consumer.deadletter import BAD_RECORD, CONSUMER_DIED, HANDLER_FAILED
from inlet.consumer.entries import DETAIL_CHARS_MAX, Bad, Entry
from inlet.consumer.errors import BadRecord, Stopped, words
from inlet.consumer.notes import Note, Unit, Verdict
from inlet.consumer.session import Noted, Session
from inlet.consumer.steps import Invoke, Steps

log = logging.getLogger("inlet.consumer")

DIED = "the consumer process died while it handled this record"


def records(session: Session, entry: Entry, done: int = 0, error: Exception | None = None) -> Steps[bool]:
    """Handle an entry record by record; return True if it is time to flush the acks.

    ``done`` records were handled already, and the next one raised ``error``.
    """
    return (yield from _Pass(session, entry, single=True, done=done, error=error).run())


def whole(session: Session, entry: Entry) -> Steps[bool]:
    """Handle an entry in one call, or what earlier attempts have left of it; return True if it is time to flush."""
    return (yield from _Pass(session, entry, single=False).run())


class _Pass:
    """One delivery of an entry. ``single``: the handler gets records one by one."""

    def __init__(
        self, session: Session, entry: Entry, *, single: bool, done: int = 0, error: Exception | None = None
    ) -> None:
        self.session, self.entry, self.single, self.error = session, entry, single, error
        self.max = session.options.attempts_max
        self.noted = entry.note is not None or (not single and not first(entry))  # each unit is noted as begun
        self.owed = False  # the handler must not be called before the note is written
        last = entry.line_count - 1
        self.handled = done
        fresh = Unit(entry.lines[done] if done else 0, last)
        self.todo = deque(entry.note.left if entry.note else [fresh])
        self.begun = entry.note.begun if entry.note else None
        self.all = (0, last)
        self.failed: list[Unit] = []
        self.bad = list(entry.bad)
        self.judged = {bad.line for bad in entry.bad}
        self.why = ""

    def run(self) -> Steps[bool]:
        if not self.noted and not first(self.entry):
            written = yield from self._note(begun=self.all)
            if written is Noted.NOT_OURS:
                self.session.fail(self.entry)
                return False
        while self.todo:
            unit = self.todo.popleft()
            if self.single and unit.first < unit.last:
                self.todo.appendleft(unit._replace(first=unit.first + 1))
                unit = unit._replace(last=unit.first)
            part = self._part(unit)
            if not part.records:
                continue
            if unit.lines == self.begun and unit.deaths:
                alone = len(part.records) == 1
                if (unit.deaths if alone else unit.attempts) >= self.max:
                    self._give_up(unit, part, CONSUMER_DIED, DIED, unit.attempts)
                    continue
                self._log(f"the process died, {self._place(unit, part)}")
            if self.noted:
                written = yield from self._note(unit.begun(), begun=unit.lines)
                if written is Noted.NOT_OURS or (written is Noted.FULL and self.owed):
                    self.session.fail(self.entry)
                    return False
                self.owed = False
            yield from self._try(unit, part)
        return (yield from self._end())

    def _part(self, unit: Unit) -> Entry:
        """Return the entry with the unit's records only."""
        entry = self.entry
        begin, end = bisect_left(entry.lines, unit.first), bisect_left(entry.lines, unit.last + 1)
        kept = [number for number in range(begin, end) if entry.lines[number] not in self.judged]
        return entry._replace(
            records=[entry.records[number] for number in kept],
            lines=[entry.lines[number] for number in kept],
            part=None if unit.lines == self.all else unit.lines,
            attempt=unit.attempts + 1,
        )

    def _try(self, unit: Unit, part: Entry) -> Steps[None]:
        """Call the handler with one unit."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
            yield Invoke(part.records[0] if self.single else part)
            self.handled += len(part.records)
        except Stopped:
            yield from self._hand_back(unit)
            raise
        except BadRecord as raised:
            line, why = part.lines[0] if self.single else raised.line, words(raised.detail)
            # A handler may give as a line whatever it likes; what is none is looked for.
            if isinstance(line, int) and line in part.lines:
                self._judge(int(line), BAD_RECORD, why, unit.attempts + 1)
                self.todo.appendleft(unit)
            else:
                self._give_up(unit, part, BAD_RECORD, why, unit.attempts + 1)
        except Exception as raised:
            self.session.stats.failed += 1
            self._fail(unit.failed(), part, _words(raised))

    def _fail(self, unit: Unit, part: Entry, why: str) -> None:
        if unit.attempts >= self.max:
            self._give_up(unit, part, HANDLER_FAILED, why, unit.attempts)
            return
        self.why = self.why or f"{self._place(unit, part)}: {why}"
        if self.single:
            notes.append(self.failed, unit)
        else:
            self.failed.append(unit)

    def _give_up(self, unit: Unit, part: Entry, reason: str, detail: str, attempts: int) -> None:
        """Split the unit, or let its only record become a dead letter."""
        if len(part.records) == 1:
            self._judge(part.lines[0], reason, detail, attempts)
            return
        # Each half gets the last try.
        self.todo.extendleft(reversed(unit.halves(self.max - 1)))
        self.noted = self.owed = True

    def _judge(self, line: int, reason: str, detail: str, attempts: int) -> None:
        raw = self.entry.raw(line)
        self.bad.append(Bad(line, reason, detail[:DETAIL_CHARS_MAX], raw, attempts))
        self.judged.add(line)
        if not self.single:
            # A handler that has stored the others skips the entry after a kill: it would be acked without its letter.
            self.noted = self.owed = True

    def _note(self, *more: Unit, begun: tuple[int, int] | None = None, wait: bool = True) -> Steps[Noted]:
        """Write what is left: what failed, ``more``, and what is still to be done."""
        verdicts = [Verdict(bad.line, bad.reason, bad.detail, bad.attempts) for bad in self.bad if bad.attempts]
        note = Note((*self.failed, *more, *self.todo), tuple(verdicts), begun)
        wait_ms = notes.wait_ms((*self.failed, *(more if wait else ())), self.session.options)
        return (yield from self.session.note(self.entry, note, wait_ms))

    def _log(self, what: str) -> None:
        key = self.session.keys[self.entry.partition]
        log.warning("inlet: %s %s will be retried: %s", key, self.entry.entry_id, what)

    def _place(self, unit: Unit, part: Entry) -> str:
        return f"line {part.lines[0]}, attempt {unit.attempts} of {self.max}"

    def _hand_back(self, unit: Unit) -> Steps[None]:
        """Let others have the entry, at once unless something of it has failed."""
        if self.noted or self.failed or not first(self.entry):
            yield from self._note(unit, wait=False)
        self.session.give_back(self.entry)

    def _end(self) -> Steps[bool]:
        """Leave the entry pending, or ack it."""
        session, entry = self.session, self.entry
        if self.failed:
            written = yield from self._note()
            if written is Noted.YES:
                self._log(f"the handler failed, {self.why}")
            elif written is Noted.FULL:
                session.say_short(entry, f"out of memory: attempts cannot be noted, so they do not count: {self.why}")
            session.stats.records += self.handled
            session.fail(entry)
            return False
        if self.noted and self.bad:
            # A refused letter must not make the last unit, begun and not ended, one that a process died of.
            yield from self._note()
        if self.noted or self.bad or not first(entry):
            yield from session.bury(entry, self.bad)
            return False
        return session.ack(entry)


def first(entry: Entry) -> bool:
    """Return whether nobody has had this entry before, so that nothing of it needs to be noted."""
    return entry.deliveries == 1 and entry.note is None


def _words(error: Exception) -> str:
    """Return an exception on one line."""
    return f"{type(error).__name__}: {words(error)}"[:DETAIL_CHARS_MAX]
