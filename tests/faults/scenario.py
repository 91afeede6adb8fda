"""A fault scenario: load, a fault in the middle of it, its end, recovery, and the oracle's verdict.

What lives here: the order of these steps, and what every scenario must show. What must not: a single fault.

Four things must hold in every scenario: each record that was answered 202 is there; each record that is there was sent;
it is what was sent, byte for byte; and the system accepts and delivers again afterwards.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.faults.aftermath import accepts, delivered
from tests.faults.load import TIMEOUT, Answer, summary
from tests.faults.oracle import Verdict
from tests.faults.rig import Rig
from tests.support import wait_until

WARM_ANSWERS = 60
"""202s before the fault: load flows."""
RECOVERED_ANSWERS = 40
"""202s to requests sent after the fault's end: load flows again."""
ANSWERED_MIN = 60
"""Records answered 202 in a scenario: fewer prove nothing."""
REFUSED_MIN = 5
"""Records refused in a scenario: what must not be stored has to be tried too."""
SEEN_SECONDS = 60.0
"""How long a fault may take to show in the answers: generous, since machines are shared."""
RECOVERY_SECONDS = 60.0
"""How long recovery may take; the row has what it took."""
LOG_CHARS = 3_000
"""How much of the server's log a failure quotes."""
STATUSES = frozenset((0, 202, 408, 422, 429, 503))
"""Every status that the load of ``load`` may get, whatever happens to the store; 0 is a connection that ended."""

Seen = Callable[[Rig, list[Answer]], bool]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the table. ``inject(rig)``: a context manager, the fault lasts while it is open."""

    name: str
    inject: Callable[[Rig], AbstractContextManager[None]]
    seen: Seen
    """Whether the fault shows in the answers since its start: so a scenario without a fault fails."""
    levels: Sequence[str] = ("stored",)
    loses: Sequence[str] = ()
    """Levels that do not promise to keep what was answered 202 over this fault."""
    must_lose: Sequence[str] = ()
    """Of these, the levels where losing something is what shows that the fault is real."""
    hold_seconds: float = 0.3
    """How long the fault goes on after it is seen."""
    rig: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the Rig."""
    impossible: Callable[[], str] = lambda: ""
    """Why this machine cannot run it; empty if it can."""
    seen_seconds: float = SEEN_SECONDS
    """How long the fault may take to show."""
    recovery_seconds: float = RECOVERY_SECONDS
    """How long recovery may take."""
    recovers: bool = True
    """Whether load flows again afterwards; after TERM only once the server is started again."""


@dataclass(frozen=True)
class Row:
    """A scenario's outcome. Seconds."""

    name: str
    level: str
    answers: str
    recovered: float | None
    slowest: float
    verdict: Verdict
    wrong: str
    delivered: int | None = None
    """Records that a consumer group got afterwards, all that the stream held; None where none was asked to read."""


class Passage(NamedTuple):
    """Load that went through a fault: the answers since its start, and the first 202's seconds after its end."""

    during: list[Answer]
    recovered: float | None


def run(fault: Fault, level: str) -> Row:
    """Run one scenario on a rig of its own. Raises AssertionError as ``lead`` does."""
    with Rig(level, **fault.rig) as rig, explained(rig):
        return through(fault, rig)


def through(fault: Fault, rig: Rig) -> Row:
    """Lead the load through a fault, then ask the oracle, and a consumer group. Raises AssertionError as ``lead``."""
    passage = lead(fault, rig)
    if not fault.recovers:
        rig.start_server()
    accepts(rig)
    verdict = rig.verdict()
    with rig.reader() as client:
        count, undelivered = delivered(rig.reader_url, client, *rig.streams)
    assert verdict.lost or rig.level not in fault.must_lose, "nothing was lost: the fault was none"
    return Row(
        name=fault.name,
        level=rig.level,
        answers=summary(passage.during) or "every request answered 202",
        recovered=passage.recovered,
        slowest=max(answer.seconds for answer in passage.during),
        verdict=verdict,
        wrong="; ".join(
            text
            for text in (
                wrong(verdict, passage.during, rig.server.log(), may_lose=rig.level in fault.loses),
                undelivered,
                too_little(verdict, rig.load.answers),
            )
            if text
        ),
        delivered=count,
    )


def lead(fault: Fault, rig: Rig, *, calm_seconds: float = 0.0) -> Passage:
    """Lead ``rig.load`` through a fault, and ``calm_seconds`` more. Starts and stops it.

    Raises AssertionError where load did not flow, the fault did not show, or it did not recover.
    """
    load = rig.load
    load.start()
    wait_until(lambda: len(load.accepted()) >= WARM_ANSWERS, "load flows")
    began = time.time()
    with fault.inject(rig):
        wait_until(lambda: fault.seen(rig, load.since(began)), f"{fault.name} shows in the answers", fault.seen_seconds)
        time.sleep(fault.hold_seconds)
    undone = time.time()
    if fault.recovers:
        wait_until(lambda: len(load.accepted(undone)) >= RECOVERED_ANSWERS, "load flows again", fault.recovery_seconds)
    time.sleep(calm_seconds)
    load.stop()
    back = min((answer.ended for answer in load.accepted(undone)), default=None)
    return Passage(load.since(began), None if back is None else back - undone)


@contextlib.contextmanager
def explained(rig: Rig) -> Iterator[None]:
    """Add to a failure the answers that the clients got and what the server logged."""
    try:
        yield
    except AssertionError as error:
        answers = summary(rig.load.since(0.0)) or "202"
        raise AssertionError(f"{error}\nanswers: {answers}\nlog: {rig.server.log()[-LOG_CHARS:]}") from error


def wrong(verdict: Verdict, answers: list[Answer], log: str, *, may_lose: bool) -> str:
    """Everything that no fault excuses, in words; empty if nothing."""
    faults = [verdict.faults(may_lose=may_lose)]
    statuses = {answer.status for answer in answers} - STATUSES
    if statuses:
        faults.append(f"undocumented statuses {sorted(statuses)}")
    if any(answer.reason == TIMEOUT for answer in answers):
        faults.append("a client got no answer at all")
    if "Traceback" in log:
        faults.append("a traceback in the log:\n" + log[log.index("Traceback") :][:2_000])
    return "; ".join(fault for fault in faults if fault)


def too_little(verdict: Verdict, answers: list[Answer]) -> str:
    """Why the scenario proves nothing, in words; empty if it does."""
    refused = sum(len(answer.refused) for answer in answers)
    few = {"answered 202": (verdict.answered, ANSWERED_MIN), "refused": (refused, REFUSED_MIN)}
    return ", ".join(
        f"only {number} records {what}, where {least} are needed"
        for what, (number, least) in few.items()
        if number < least
    )


def reported(*reasons: str) -> Seen:
    """A client was given one of these reasons (problem documents' slugs, or how a connection ended)."""
    return lambda rig, answers: any(answer.reason in reasons for answer in answers)


def delayed(seconds: float) -> Seen:
    """A client waited this long for its 202."""
    return lambda rig, answers: any(answer.status == 202 and answer.seconds >= seconds for answer in answers)


def anything(rig: Rig, answers: list[Answer]) -> bool:
    """The clients need not notice: ``inject`` itself has waited for what it did."""
    return bool(answers)
