"""Header fields of a request as receivers read them, from the form that a WSGI environ has them in.

What lives here: a media type without its parameters, and text that was UTF-8. What must not: which values are taken.
"""

from __future__ import annotations


def bare_type(content_type: str) -> str:
    """Return the media type of a Content-Type in lower case, without parameters (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def utf8(text: str) -> str:
    """Return a header field, or a path, as UTF-8: PEP 3333 decodes both as Latin-1. What is no UTF-8 is U+FFFD."""
    return text if text.isascii() else text.encode("latin-1", "replace").decode(errors="replace")
