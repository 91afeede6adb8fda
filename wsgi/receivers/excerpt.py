"""An excerpt of a decoded JSON value: the beginning of its text, written anew, whatever the value's size.

What lives here: a writer that stops after so many bytes. What must not: JSON from a client
(``wsgi.receivers.jsontext``), lines to store (``inlet.stream.record``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_END = object()


def excerpt(value: Any, bytes_max: int) -> tuple[bytes, bool]:
    """Return at most ``bytes_max`` bytes of a value's compact JSON text in UTF-8, and whether this is all of it.

    The work is bounded by ``bytes_max``: an element of eight megabytes costs no more than one of four kilobytes. What
    is no JSON stays visible: a lone surrogate as its three bytes, an infinite number as ``Infinity``.
    """
    pieces: list[bytes] = []
    left = bytes_max
    open_values: list[Iterator[Any]] = [iter((value,))]
    while open_values:
        item = next(open_values[-1], _END)
        if item is _END:
            open_values.pop()
        elif type(item) is dict:
            open_values.append(_object(item))
        elif type(item) is list:
            open_values.append(_array(item))
        else:
            piece = item if type(item) is bytes else _scalar(item, left)
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                return b"".join(pieces)[:bytes_max], False
    return b"".join(pieces), True


def _scalar(item: object, left: int) -> bytes:
    """The text of a string, a number, a boolean or null; a longer string is cut, to more bytes than are ``left``."""
    if type(item) is str:
        item = item[: left + 1]
    return json.dumps(item, ensure_ascii=False).encode(errors="surrogatepass")


def _object(members: dict[str, Any]) -> Iterator[Any]:
    """The tokens of an object, as bytes, and the values within it."""
    before = b"{"
    for name, value in members.items():
        yield before
        yield name
        yield b":"
        yield value
        before = b","
    yield b"}" if members else b"{}"


def _array(values: list[Any]) -> Iterator[Any]:
    before = b"["
    for value in values:
        yield before
        yield value
        before = b","
    yield b"]" if values else b"[]"
