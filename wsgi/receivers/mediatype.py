"""Media types of a body (RFC 9110 section 8.3): JSON, NDJSON, or one that is not taken.

What lives here: the types that work, and their parameters. What must not: bodies.
"""

from __future__ import annotations

import re

from wsgi.problems import ClientError
from wsgi.receivers.headerfields import bare_type

CONTENT_TYPE_CHARS_MAX = 256
"""Longer ones are not parsed."""
NDJSON = frozenset({"application/x-ndjson", "application/jsonl", "application/jsonlines"})
"""Media types of one record a line."""
ACCEPTED = "application/json, application/x-ndjson, application/jsonl, application/jsonlines, text/plain"
"""What the header Accept of a 415 lists (RFC 9110 section 12.5.1)."""

_TYPES = (
    "Content-Type must be application/json (an object is one record, an array a bulk), or "
    "application/x-ndjson, application/jsonl or application/jsonlines (one record a line)"
)
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})
_PARAMETER = re.compile(r';\s*([^=;\s]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)')


def is_ndjson(content_type: str) -> bool:
    """Return whether a Content-Type means NDJSON, else JSON; raise ClientError (``unsupported-media-type``)."""
    if len(content_type) > CONTENT_TYPE_CHARS_MAX:
        raise _unsupported(_TYPES)
    media_type = bare_type(content_type)
    for name, value in _PARAMETER.findall(content_type):
        if name.lower() == "charset" and value.strip('"').lower() not in _UTF8:
            raise _unsupported("send UTF-8: the charset must be utf-8, or left out")
    if media_type in NDJSON:
        return True
    if media_type in ("", "application/json", "text/plain") or re.fullmatch(r"[^/]+/[^/]+\+json", media_type):
        return False
    if media_type == "application/x-www-form-urlencoded":
        raise _unsupported(f"with curl, add -H 'Content-Type: application/json'. {_TYPES}")
    raise _unsupported(_TYPES)


def _unsupported(detail: str) -> ClientError:
    return ClientError("unsupported-media-type", detail)
