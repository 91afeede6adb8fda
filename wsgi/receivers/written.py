"""A decoded value as JSON text that any parser reads, for a message that is JSON.

What lives here: what stands for numbers that JSON does not have. What must not: text of metadata
(``wsgi.receivers.flatten``).
"""

from __future__ import annotations

import json
import re
from typing import Any

import ujson

from wsgi.receivers.flatten import text

_STRANGE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|-?Infinity|NaN', re.DOTALL)


def written(value: Any) -> str:
    """Return a string as it is, anything else as JSON; within objects and arrays, infinity and NaN are strings."""
    if type(value) not in (dict, list):
        return text(value)
    try:
        return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False, allow_nan=False)
    except (ValueError, OverflowError, TypeError, RecursionError):
        pass  # infinity, a lone surrogate, an integer of over 64 bits
    try:
        found = json.dumps(value, separators=(",", ":"))
    except (ValueError, RecursionError):
        found = text(value)  # however deep
    # Python's json reads these words, and 1e400 as infinity.
    return _STRANGE.sub(_quoted, found) if "Infinity" in found or "NaN" in found else found


def _quoted(found: re.Match[str]) -> str:
    part = found[0]
    return part if part[0] == '"' else f'"{part}"'
