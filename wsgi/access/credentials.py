"""The credential of a request, in each form in which a client sends one.

What lives here: where a key may stand in a request, and reading it there. What must not: which keys there are
(``wsgi.access.keys``). Nothing here raises, whatever the request holds.

    Authorization: Bearer KEY                     OpenTelemetry, Vector, Fluent Bit, fetch (RFC 6750)
    Authorization: Basic base64(ANY USER:KEY)     Loki and Grafana clients, curl -u (RFC 7617)
    Authorization: Splunk KEY                     Splunk HEC clients
    Authorization: ApiKey KEY                     Elasticsearch clients that were given one string
    Authorization: ApiKey base64(ANYTHING:KEY)    Elasticsearch clients that were given an id and a key; Beats
    X-Api-Key: KEY
    DD-API-KEY: KEY                               Datadog
    ?key=KEY                                      navigator.sendBeacon, which sends no fields of its own

A scheme is matched whatever its case (RFC 9110 section 11.1). A request that has several credentials must have the same
key in each: which of two keys pays for a request must not be a guess (RFC 6750 section 2 forbids it).
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

VALUE_CHARS_MAX = 1_024
"""Characters of a header field or a query parameter with a credential: a key takes 83, 164 in Basic with a user."""
PLACES_MAX = 4
"""Credentials of one request: one of each place. A query with hundreds is not read to its end."""

_KEY = re.compile(r"inlet_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)

Credential = tuple[str, str]
"""The id and the secret of a key, both of the right form."""
Found = tuple[str, str]
"""Where a credential stands, and its text there: a field's name in the environ, or ``?``."""


def found_in(environ: Mapping[str, Any]) -> list[Found]:
    """Return every credential of a WSGI environ, in a fixed order, as it was sent."""
    found = [
        (name, environ[name]) for name in ("HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_DD_API_KEY") if name in environ
    ]
    query = environ.get("QUERY_STRING")
    if query and "key=" in query:
        for pair in query.split("&"):
            if pair.startswith("key="):
                found.append(("?", pair[4:]))
                if len(found) > PLACES_MAX:
                    break
    return found


def parse(found: Found) -> Credential | None:
    """Return the id and the secret, or None where the text is not a key of the right form."""
    place, text = found
    if len(text) > VALUE_CHARS_MAX:
        return None
    if place == "HTTP_AUTHORIZATION":
        return _authorization(text)
    return _key(unquote_plus(text) if place == "?" else text.strip(" \t"))


def _authorization(text: str) -> Credential | None:
    scheme, _, value = text.strip(" \t").partition(" ")
    scheme, value = scheme.lower(), value.strip(" ")
    if scheme in ("bearer", "splunk"):
        return _key(value)
    if scheme == "basic":
        return _key(_second(value))
    if scheme == "apikey":
        return _key(value) or _key(_second(value))
    return None


def _second(value: str) -> str:
    """Return what stands behind the first colon of base64 text; empty if it is none (RFC 7617 section 2)."""
    try:
        # A ValueError: text that is not ASCII.
        decoded = b64decode(value, validate=True)
    except (Error, ValueError):
        return ""
    return decoded.partition(b":")[2].decode("latin-1")


def _key(text: str) -> Credential | None:
    match = _KEY.fullmatch(text)
    return (match[1], match[2]) if match else None
