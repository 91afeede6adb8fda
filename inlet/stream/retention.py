"""Decide what of a stream may be trimmed. Pure.

What lives here: ``Retention`` and its text form, the safe ID, and ``plan``, which decides what to trim. What must not:
connections (``inlet.stream.keeper``), the environment.

Every group has acked what is below the *safe ID*: over all groups, the smallest of the oldest pending entry and of the
ID after the last delivered one. Without groups nothing has been read, so nothing is safe. Trimming never passes the
safe ID, unless ``unread`` is ``drop``.

A group created *behind* the end of the stream while entries are trimmed may miss them; existing groups never do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

RESUME_FRACTION = 0.95
"""A full stream stays full until it is below this share of its bound, so that producers do not see it flap."""
ENTRIES_MAX = 10**12
MEMORY_MAX = 2**50
AGE_MS_MAX = 3_650 * 86_400_000
"""Largest values of a retention: far above any real one, far below what overflows."""

Id = tuple[int, int]
_AGE = re.compile(r"(\d{1,9})(s|m|h|d)")
_AGE_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MEMORY = re.compile(r"(\d{1,12})(b|kb|mb|gb|tb)?")
_MEMORY_BYTES = {None: 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}


@dataclass(frozen=True)
class Retention:
    """Say what to keep: entries younger than ``age_ms``, at most ``entries``, at most ``memory_bytes`` in the store.

    None: no such bound. ``unread``: keep or drop entries beyond the bounds that some group has not acked.
    """

    age_ms: int | None = None
    entries: int | None = None
    memory_bytes: int | None = None
    unread: Literal["keep", "drop"] = "keep"


def retention(text: str, unread: str = "keep") -> Retention:
    """Read a retention such as ``age=7d,entries=1000000,memory=2gb``. Raises ValueError, which says how to fix it."""
    if unread not in ("keep", "drop"):
        raise ValueError(f"unread must be keep or drop, not {unread!r}")
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        number = _number(name, value.strip().lower())
        if number is None or name in found:
            raise ValueError(f"{part!r} must be one of age=7d, entries=1000000, memory=2gb, each at most once")
        found[name] = number
    if not found:
        raise ValueError("no bound is given; write age=7d, entries=1000000 or memory=2gb, separated by commas")
    return Retention(
        found.get("age"), found.get("entries"), found.get("memory"), "drop" if unread == "drop" else "keep"
    )


def _number(name: str, value: str) -> int | None:
    number, most = 0, 0
    if name == "age" and (age := _AGE.fullmatch(value)):
        number, most = int(age[1]) * _AGE_MS[age[2]], AGE_MS_MAX
    elif name == "entries" and re.fullmatch(r"\d{1,15}", value, re.ASCII):
        number, most = int(value), ENTRIES_MAX
    elif name == "memory" and (memory := _MEMORY.fullmatch(value)):
        number, most = int(memory[1]) * _MEMORY_BYTES[memory[2]], MEMORY_MAX
    return number if 1 <= number <= most else None


class Group(NamedTuple):
    """One consumer group. ``oldest_pending``: None if nothing is pending."""

    name: str
    last_delivered: Id
    oldest_pending: Id | None


@dataclass(frozen=True)
class Observed:
    """One stream at ``now_ms`` of the store's clock (milliseconds since 1970)."""

    now_ms: int
    length: int
    memory_bytes: int
    groups: tuple[Group, ...]


class Trim(NamedTuple):
    """One XTRIM: entries below ``below``, at most ``most`` (None: all). ``unread``: unacked entries too."""

    below: Id
    most: int | None
    unread: bool


class Plan(NamedTuple):
    """What to trim, in order, and whether unread entries alone exceed the bounds on entries or memory."""

    trims: list[Trim]
    full: bool


def safe_id(groups: Sequence[Group]) -> Id:
    """Return the ID below which every group has acked everything; (0, 0) without groups."""
    if not groups:
        return (0, 0)
    return min(group.oldest_pending or (group.last_delivered[0], group.last_delivered[1] + 1) for group in groups)


def excess(state: Observed, keep: Retention, fraction: float = 1.0) -> int:
    """Return how many entries are over the bounds on entries and memory, assuming all have the average size."""
    over = 0
    if keep.entries is not None:
        over = state.length - int(keep.entries * fraction)
    if keep.memory_bytes is not None and state.length:
        bytes_over = state.memory_bytes - int(keep.memory_bytes * fraction)
        if bytes_over > 0:
            over = max(over, -(-bytes_over * state.length // max(state.memory_bytes, 1)))
    return max(over, 0)


def plan(state: Observed, keep: Retention, was_full: bool = False) -> Plan:
    """Return what to trim, and whether new records must be refused.

    ``full`` is decided on ``state`` as given: call again after trimming. ``was_full``: the last decision.
    """
    safe = safe_id(state.groups)
    trims: list[Trim] = []
    old: Id = (state.now_ms - keep.age_ms, 0) if keep.age_ms is not None else (0, 0)
    if (below := min(old, safe)) > (0, 0):
        trims.append(Trim(below, None, False))
    over = excess(state, keep)
    if over and safe > (0, 0):
        trims.append(Trim(safe, over, False))
    if keep.unread == "drop":
        if old > safe:
            trims.append(Trim(old, None, True))
        if over:
            trims.append(Trim((state.now_ms + AGE_MS_MAX, 0), over, True))
    full = keep.unread == "keep" and excess(state, keep, RESUME_FRACTION if was_full else 1.0) > 0
    return Plan(trims, full)


def parse_id(text: bytes | str) -> Id:
    """Return an entry ID as a pair: ``b"17-0"`` -> (17, 0)."""
    first, _, second = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(first), int(second or 0)
