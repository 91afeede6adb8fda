"""A long JSON text without its long parts: what is nested to a certain depth is cut out and named by a mark.

What lives here: finding those parts, many short neighbors as one. What must not: OTLP, what a part holds.

A JSON decoder works in one step, 20 MiB in 0.2 s and, where all of it is brackets, in a second and 1 GB. So each value
that begins at a certain depth is replaced by a number, the mark, that no client can know, and only the skeleton that is
left is decoded; the parts are decoded one by one. A number may stand where an array or an object may, and nowhere else,
so replacing one by the other does not change whether a text is JSON. Where the text is none, brackets and quotes may be
found in the wrong places, but then either the skeleton or a part is no JSON either: putting the parts back in gives the
text, letter by letter. A part that nobody asks for, in a member that OTLP does not know, is never decoded.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Iterator
from itertools import accumulate
from typing import Any

from inlet.stream.record import LOADS_ERRORS
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.structure import NOT_BRACKETS, TO_BRACES, quoted_parts

PART_BYTES = 65_536
"""Bytes of neighbors that become one part; a longer value is a part alone."""
SKELETON_BYTES_MAX = 524_288
"""Bytes of a skeleton: decoded in some 5 ms at worst."""
GAP_BYTES_MAX = 64
"""Bytes between two neighbors: a comma, and blanks."""
HITS = 2_048
"""Values that are found between two yields."""

DEPTH_MAX = 65_536
"""Brackets within each other, parts included: more than ujson decodes, for what is too deep is a part alone."""

_BRACKET = re.compile(rb"[\[\]{}]")
_MARK = (secrets.randbits(128) | 1 << 128) << 32
_STEP = {ord("{"): 1, ord("}"): -1}


def words(error: Exception) -> str:
    """Say what is wrong with a text, ``error`` being one of LOADS_ERRORS. Quotes nothing of the text."""
    if jsontext.has_long_number(error):
        return "a number has too many digits"
    message = str(error)[:100]
    if isinstance(error, UnicodeError) or "UTF-8" in message or not message.isascii():
        return "not UTF-8"
    return "arrays and objects nest too deep" if "depth" in message else message


def is_own(said: str) -> bool:
    """Return whether what ``words`` said is the fault of one value, and the text around it can be read without it."""
    return said in ("a number has too many digits", "not UTF-8", "arrays and objects nest too deep")


def _values(depths: list[int], outer: int) -> Iterator[tuple[int, int]]:
    """Return the brackets that open and close each value within the depth ``outer``, by their number.

    ``depths``: before each bracket of a chunk, and behind the last. -1 for a bracket in another chunk.
    """
    last = len(depths) - 1
    if depths[0] > outer:
        yield -1, depths.index(outer) - 1
    at = depths.index(outer)
    while at < last:
        # Next comes a bracket of a value, or the one that closes what holds the values.
        try:
            after = depths.index(outer, at + 1)
        except ValueError:
            if depths[at + 1] > outer:
                yield at, -1
            return
        if depths[at + 1] > outer:
            yield at, after - 1
        at = after


class Skeleton:
    """A text, what its skeleton decodes to, and its parts."""

    def __init__(
        self, text: bytes, values_max: int, start: int = 0, stop: int | None = None, *, single: bool = False
    ) -> None:
        """``text[start:stop]`` is the JSON text; ``values_max``: how many values may be cut out; ``single``: each
        value is a part alone.
        """
        self.single = single
        self._values_left = values_max
        self.text, self._start = text, start
        self._stop = len(text) if stop is None else stop
        self.value: Any = None
        self._spans: dict[int, tuple[int, int]] = {}
        self._pieces: list[bytes] = []
        self._size, self._copied = 0, start

    def part(self, value: Any) -> tuple[int, int] | None:
        """Return where the part that ``value`` stands for begins and ends; None if it is no mark."""
        return self._spans.get(value) if type(value) is int else None

    def decode(self, depth: int) -> Generator[None, None, None]:
        """Decode the text but for what is ``depth`` brackets deep. Raises ClientError."""
        text, now, begin, outer = self.text, 0, -1, depth - 1
        run: tuple[int, int] | None = None
        for offset, parts, inside in quoted_parts(text, self._start):
            if offset >= self._stop:
                break
            first = int(not inside)
            parts[first::2] = map(bytes, map(len, parts[first::2]))
            chunk = b"\0".join(parts)  # strings are NULs, so that offsets stay
            if offset + len(chunk) > self._stop:
                chunk = chunk[: self._stop - offset]
            marks = chunk.translate(TO_BRACES, NOT_BRACKETS)
            depths = list(accumulate(map(_STEP.__getitem__, marks), initial=now))
            if min(depths) < 0 or max(depths) > DEPTH_MAX:
                raise (yield from jsontext.explain(text, "unbalanced or too deep brackets"))
            now = depths[-1]
            if outer in depths:
                at = [offset + found.start() for found in _BRACKET.finditer(chunk)]
                for count, (opened, closed) in enumerate(_values(depths, outer)):
                    if opened >= 0:
                        begin = at[opened]
                    if closed >= 0:
                        self._values_left -= 1
                        end = at[closed] + 1
                        if run is not None and self._joins(run, begin, end):
                            run = (run[0], end)
                        else:
                            self._cut(run)
                            run = (begin, end)
                    if count % HITS == HITS - 1:
                        yield
            if self._values_left < 0:
                raise ClientError("payload-too-large", "the body has too many log records, or too many other values")
            yield
        if now:
            raise (yield from jsontext.explain(text, "it ends within an array or an object"))
        self._cut(run)
        self._add(text[self._copied : self._stop])
        try:
            self.value = jsontext.strict(b"".join(self._pieces))
        except LOADS_ERRORS as error:
            message = words(error)
        else:
            return
        raise (yield from jsontext.explain(text, message))

    def _joins(self, run: tuple[int, int], begin: int, end: int) -> bool:
        if self.single or end - run[0] > PART_BYTES or begin - run[1] > GAP_BYTES_MAX:
            return False
        return self.text[run[1] : begin].strip(jsontext.BLANK) == b","

    def _cut(self, run: tuple[int, int] | None) -> None:
        """Put a mark in place of a run."""
        if run is None:
            return
        name = _MARK + len(self._spans)
        self._add(self.text[self._copied : run[0]])
        self._add(b" %d " % name)  # apart from digits before and behind it
        self._spans[name] = run
        self._copied = run[1]

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > SKELETON_BYTES_MAX:
            detail = f"what the body holds besides its log records takes over {SKELETON_BYTES_MAX} bytes"
            raise ClientError("payload-too-large", detail)
        self._pieces.append(piece)
