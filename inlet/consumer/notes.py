"""What is known of an entry whose handling failed or was interrupted: kept in the store until the entry is acked. Pure.

What lives here: units of lines, their attempts, verdicts, and the bytes of a note. What must not: I/O, clocks.

A note is one string at ``<stream>:try:<group>:<entry ID>``: when the next attempt is due (milliseconds of the store's
clock), when the group was first seen according to ``<stream>:groups`` (``scripts.NOTE`` puts both there), and JSON::

    1760000000000 1750000000000 {"left":[[0,49,5,1],[50,99,4,0]],"bad":[[7,"bad-record","no amount",1]],"begun":[0,49]}

``left`` are the units that are to be handled, each the first and last line, the attempts so far, and the deaths among
them; ``bad`` the lines that become dead letters, with reason, detail and attempts; ``begun`` the unit being handled, or
null. The attempt of a begun unit is counted, as a death, before the handler is called: whoever finds it begun knows
that the process died. The second number tells a group from one of the same name that was forgotten: a note of the
latter is deleted by whoever finds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from inlet.consumer.options import Options

NOTE_KEEP_MS = 604_800_000
"""Milliseconds (a week) a note is kept after its entry is due. Without its note an entry is handled from the start."""


class Unit(NamedTuple):
    """Lines ``first`` to ``last`` of an entry, handled together.

    ``attempts``: how often a handler was called with them; ``deaths``: how many of these the process did not survive.
    """

    first: int
    last: int
    attempts: int = 0
    deaths: int = 0

    @property
    def lines(self) -> tuple[int, int]:
        """Return the first and last line."""
        return self.first, self.last

    def failed(self) -> Unit:
        """Return the unit with one attempt more."""
        return self._replace(attempts=self.attempts + 1)

    def begun(self) -> Unit:
        """Return the unit as it is if the process dies of it."""
        return self._replace(attempts=self.attempts + 1, deaths=self.deaths + 1)

    def halves(self, attempts: int) -> tuple[Unit, Unit]:
        """Return both halves, always the same for the same lines. Only for units of at least two lines."""
        middle = (self.first + self.last) // 2
        return Unit(self.first, middle, attempts), Unit(middle + 1, self.last, attempts)


class Verdict(NamedTuple):
    """A line that becomes a dead letter, and why."""

    line: int
    reason: str
    detail: str
    attempts: int


class Note(NamedTuple):
    """What a note says; see the module's text."""

    left: tuple[Unit, ...]
    bad: tuple[Verdict, ...] = ()
    begun: tuple[int, int] | None = None

    def leaves(self, line: int) -> bool:
        """Return whether the line is to be handled."""
        return any(unit.first <= line <= unit.last for unit in self.left)


def encode(note: Note) -> bytes:
    """Return the JSON of a note."""
    # Not ujson: a detail may hold half a character, which this escapes.
    return json.dumps(note._asdict(), separators=(",", ":")).encode()


def decode(text: bytes) -> Note | None:
    """Return the note whose JSON ``scripts.CLAIM`` gave, or None if there is none, or it is not one."""
    try:
        value: Any = json.loads(text)
        left = tuple(Unit(*map(int, row[:4])) for row in value["left"])
        bad = tuple(Verdict(int(row[0]), str(row[1]), str(row[2]), int(row[3])) for row in value["bad"])
        begun = value["begun"] and (int(value["begun"][0]), int(value["begun"][1]))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    return Note(left, bad, begun)


def wait_ms(units: Iterable[Unit], options: Options) -> int:
    """Return how long (ms) to wait after attempts of these units: doubling with each attempt, bounded."""
    waits = [_wait_ms(unit.attempts, options) for unit in units]
    return max(waits, default=0)


def _wait_ms(attempts: int, options: Options) -> int:
    if attempts >= options.attempts_max:
        # Nothing is tried again: it becomes a dead letter, or its halves get a try.
        return options.claim_idle_ms
    # The shift is bounded too, so that no number of attempts makes a number of a million digits.
    return min(options.claim_idle_ms << min(max(attempts - 1, 0), 40), options.claim_idle_ms_max)


def append(units: list[Unit], unit: Unit) -> None:
    """Append a unit of one line, joined to its neighbor of the same counts: readers of records take lines one by one.

    Not for handlers of whole entries, whose units must stay as they are.
    """
    if units and units[-1].last + 1 == unit.first and units[-1][2:] == unit[2:]:
        units[-1] = units[-1]._replace(last=unit.last)
    else:
        units.append(unit)
