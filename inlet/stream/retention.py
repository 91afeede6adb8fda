"""What to keep of a stream, and what holds it back. Pure.

What lives here: ``Retention`` and its text form, and the words for what holds a stream back. What must not: what may be
trimmed (``inlet.stream.trimming``), connections, the environment.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

GROUP_CHARS_MAX = 64
"""Characters of a group's name that a message quotes: whoever may write to the store chooses it."""
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


class Hold(NamedTuple):
    """What keeps the oldest entries of a stream from being trimmed.

    ``nobody``: no group has read the stream. ``behind``: ``group`` is the one that has acked the least. ``missing``:
    ``group`` is remembered, and the store does not have it. ``unknown``: the keeper that says so is of another version.
    """

    kind: Literal["nobody", "behind", "missing", "unknown"]
    group: str = ""

    def words(self) -> str:
        """Return what to report: a clause that names the group, with nothing of it unescaped."""
        name = ascii(self.group[:GROUP_CHARS_MAX])
        if self.kind == "missing":
            plain = self.group.isascii() and self.group.isprintable() and len(self.group) <= GROUP_CHARS_MAX
            word = shlex.quote(self.group) if plain else "GROUP"
            return f"group {name} is missing from the store: start its consumer, or run `inlet groups forget {word}`"
        if self.kind == "behind":
            return f"group {name} has acked the least"
        return "no group has read the stream" if self.kind == "nobody" else "see `inlet lag`"


def hold(kind: bytes, group: bytes) -> Hold:
    """Return the Hold of the script's reply (``inlet.stream.trimming``)."""
    words = {b"nobody": "nobody", b"behind": "behind", b"missing": "missing"}
    return Hold(cast(Any, words.get(kind, "unknown")), group.decode(errors="replace"))


def read_marker(marker: bytes) -> Hold:
    """Return what the value of ``<stream>:full`` says: a kind, a space and a group. Earlier versions wrote a number."""
    kind, _, group = marker.partition(b" ")
    return hold(kind, group)


def parse_id(text: bytes | str) -> Id:
    """Return an entry ID as a pair: ``b"17-0"`` -> (17, 0)."""
    first, _, second = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(first), int(second or 0)
