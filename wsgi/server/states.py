"""The states of a connection, and what moves it from one to another.

What lives here: the table. ``wsgi.server.connection`` changes its state only through it, so a move that is not in the
table raises KeyError, which is a bug. What must not: what is done on a move. tests/server/test_states.py draws the
diagram in docs/design.md from this table, and checks that each move happens.
"""

from __future__ import annotations

from typing import NamedTuple

IDLE, HEAD, BODY, BUSY, STREAM, CLOSING, LEFT, GONE = range(8)
"""Plain integers, since each request compares and changes them: an enum's members cost five times as much."""

NAMES = ("IDLE", "HEAD", "BODY", "BUSY", "STREAM", "CLOSING", "LEFT", "GONE")
MEANINGS = (
    "nothing of a request has arrived",
    "part of a head has arrived",
    "part of a body has arrived",
    "a request waits for a turn, or is in it; what arrives behind it waits, bounded",
    "part of the answer is with the client; the rest follows as the client reads",
    "the last answer is sent; what still arrives is dropped, so that the client reads the answer and not a reset",
    "the client left while its request waits for a turn; the request is still called, and its answer dropped",
    "the connection is over",
)
"""By state."""


class Transition(NamedTuple):
    """One row: ``before`` and ``after`` are states, ``event`` says what happened."""

    before: int
    event: str
    after: int


TRANSITIONS = (
    Transition(IDLE, "bytes arrive", BUSY),
    Transition(BUSY, "the head is incomplete", HEAD),
    Transition(HEAD, "the head is complete", BUSY),
    Transition(BUSY, "the body is incomplete", BODY),
    Transition(BODY, "the body is complete", BUSY),
    Transition(BUSY, "part of the answer is sent", STREAM),
    Transition(STREAM, "part of the answer is sent", STREAM),
    Transition(BUSY, "answered", IDLE),
    Transition(STREAM, "answered", IDLE),
    Transition(BUSY, "answered, more has arrived", BUSY),
    Transition(STREAM, "answered, more has arrived", BUSY),
    Transition(HEAD, "refused", CLOSING),
    Transition(BODY, "refused", CLOSING),
    Transition(BUSY, "refused", CLOSING),
    Transition(BUSY, "answered for the last time", CLOSING),
    Transition(STREAM, "answered for the last time", CLOSING),
    Transition(IDLE, "the connection ends", GONE),
    Transition(HEAD, "the connection ends", GONE),
    Transition(BODY, "the connection ends", GONE),
    Transition(STREAM, "the connection ends", GONE),
    Transition(CLOSING, "the connection ends", GONE),
    Transition(BUSY, "the connection ends", LEFT),
    Transition(LEFT, "answered or dropped", GONE),
)


def moves(event: str) -> dict[int, int]:
    """Return the moves of one event: state before -> state after. Raises ValueError for an unknown event."""
    found = {row.before: row.after for row in TRANSITIONS if row.event == event}
    if not found:
        raise ValueError(f"no such event: {event!r}")
    return found


ARRIVED = moves("bytes arrive")
HEAD_BEGUN = moves("the head is incomplete")
HEAD_ENDED = moves("the head is complete")
BODY_BEGUN = moves("the body is incomplete")
BODY_ENDED = moves("the body is complete")
PART_SENT = moves("part of the answer is sent")
ANSWERED = moves("answered")
ANSWERED_NEXT = moves("answered, more has arrived")
ANSWERED_LAST = moves("answered for the last time")
REFUSED = moves("refused")
ENDED = moves("the connection ends")
DROPPED = moves("answered or dropped")
