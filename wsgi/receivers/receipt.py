"""What a request asks for: a receipt, by its query or ``Prefer`` (RFC 7240), and a level, by ``Inlet-Durability``.

What lives here: the ways to ask. What must not: what a receipt looks like, what a level means.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from wsgi.problems import ClientError
from wsgi.sink.durability import LEVELS, NAMES

# Possessive, and a quote that nothing closes takes the rest: every character is looked at once.
_PREFERENCES = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++', re.DOTALL)
_PREFERENCE = re.compile(
    r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+"
    r'(?:=[ \t]*+([!#$%&\'*+\-.^_`|~0-9A-Za-z]++|"(?:[^"\\]|\\.)*+"))?[ \t]*+(?:;.*)?',
    re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def level_of(asked: str) -> int:
    """Return the level that ``Inlet-Durability`` asks for. Raises ClientError ``unknown-durability``."""
    level = LEVELS.get(asked.strip().lower())
    if level is None:
        raise ClientError("unknown-durability", f"Inlet-Durability must be one of {', '.join(NAMES)}")
    return level


def wants_receipt(query: str, prefer: str) -> bool:
    """Return whether the query holds ``receipt=1``, or ``Prefer`` says ``return=representation``."""
    if query and ("receipt", "1") in parse_qsl(query):
        return True
    return bool(prefer) and preferences(prefer).get("return") == "representation"


def preferences(prefer: str) -> dict[str, str]:
    """Return the preferences of a ``Prefer`` field (RFC 7240 section 2): name to value, both in lower case.

    Of a name given twice, also in another field, the first counts. Parameters are dropped; what does not parse is
    ignored, as section 2 asks for preferences that are not understood.
    """
    found: dict[str, str] = {}
    for text in _PREFERENCES.findall(prefer):
        preference = _PREFERENCE.fullmatch(text)
        if preference is not None:
            value = preference[2] or ""
            if value.startswith('"'):
                value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
            found.setdefault(preference[1].lower(), value.lower())
    return found
