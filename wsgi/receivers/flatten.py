"""Decoded JSON of any shape as the flat metadata of a record: string to string, with dots between names.

What lives here: the rules of docs/protocol.md, "How a foreign record becomes a record". What must not: bounds
(``wsgi.receivers.foreign``), which members are not metadata.
"""

from __future__ import annotations

from typing import Any

import ujson

DEPTH_MAX = 32
"""Objects within each other that become names; what is deeper is written as JSON."""
PREFIX_CHARS_MAX = 256
"""Characters of the names around a value; with more, an object is written as JSON: 1 MiB of values in an object with a
name of 1 MiB would otherwise become terabytes."""
PAIRS_MAX = 65_536
"""Pairs of one record, at least: as many as a record can have at most, so that what is cut is known to be cut."""

_PLAIN = frozenset((str, float, bool, type(None)))


def text(value: Any) -> str:
    """Return a value as text: a string as it is, anything else as JSON writes it."""
    if type(value) is str:
        return value
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "null"
    if type(value) is int:
        return number(value)
    try:
        return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False)
    except (ValueError, OverflowError, TypeError, RecursionError):
        # No JSON: infinity, a lone surrogate, an integer of over 64 bits.
        return _slow(value)


def number(value: int) -> str:
    """Return an integer's digits; those of a longer one than Python converts (4,300) in hex."""
    try:
        return str(value)
    except ValueError:
        return hex(value)


def flatten(
    value: dict[str, Any],
    prefix: str,
    into: dict[str, str],
    depth: int = 1,
    pairs_max: int = PAIRS_MAX,
    numbers: dict[str, int] | None = None,
) -> None:
    """Add the members of ``value`` to ``into``, each name behind ``prefix``. Overwrites nothing: a name that is taken,
    as that of ``{"a.b": 1, "a": {"b": 2}}`` the second time, gets ``#2`` behind it, or another free number.

    Stops where there are more than ``pairs_max`` pairs. ``numbers``: as in ``put``, if more is added to ``into``.
    """
    if numbers is None:
        numbers = {}
    for name, member in value.items():
        if len(into) > pairs_max:
            break
        kind = type(member)
        if kind is dict and member and depth < DEPTH_MAX and len(prefix) + len(name) < PREFIX_CHARS_MAX:
            flatten(member, f"{prefix}{name}.", into, depth + 1, pairs_max, numbers)
            continue
        put(into, prefix + name, member if kind is str else text(member), numbers)


def put(into: dict[str, str], name: str, value: str, numbers: dict[str, int] | None = None) -> None:
    """Add one pair under a name that is free.

    ``numbers``: the number to try next behind each name that was taken, for one ``into`` and kept with it. Without it,
    the same name a hundred times would take five thousand tries; names that all differ do not need it.
    """
    if name in into:
        count = 2 if numbers is None else numbers.get(name, 2)
        while (free := f"{name}#{count}") in into:
            count += 1
        if numbers is not None:
            numbers[name] = count + 1
        name = free
    into[name] = value


class _Written(str):
    """Text that is JSON already."""

    __slots__ = ()


def _slow(value: Any) -> str:
    """JSON of what ujson does not write, however deep: a recursion would end where Python's limit is."""
    written: list[str] = []
    left: list[Any] = [value]
    while left:
        item = left.pop()
        if type(item) is dict:
            left.append(_Written("}"))
            for name, member in reversed(item.items()):
                left += (member, _Written(f",{_scalar(name)}:"))
            left.append(_Written(left.pop()[1:] if item else ""))
            written.append("{")
        elif type(item) is list:
            left.append(_Written("]"))
            for member in reversed(item):
                left += (member, _Written(","))
            left.append(_Written(left.pop()[1:] if item else ""))
            written.append("[")
        else:
            written.append(item if type(item) is _Written else _scalar(item))
    return "".join(written)


def _scalar(value: Any) -> str:
    """JSON of a value that holds no others; what is no number in JSON either is written as Python's ``json`` does."""
    if type(value) is int:
        return number(value)
    if type(value) is float and value - value != 0:
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), "NaN")
    return ujson.dumps(value if type(value) in _PLAIN else str(value), escape_forward_slashes=False)
