"""Header fields: the lines of a head into the environ. Pure.

What lives here: what is a field (RFC 9112 section 5), what Content-Length and Transfer-Encoding may look like, and
gunicorn's rules for underscores, schemes and repeated fields. What must not: what a field means for the message
(``wsgi.server.head``), sockets, clocks.

``FieldRules.quick`` takes ordinary fields and refuses nothing; ``check_lines``, ``split_fields`` and ``add_fields``
take all that is valid, and say what is wrong with the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from wsgi.server.names import KEYS, environ_key
from wsgi.server.refusal import HttpError, bad

LENGTH_MAX = 2**64 - 1
"""Content-Length that is a number of bytes at all. A larger one is 413 at once, whatever the limit on bodies."""
LENGTH_DIGITS_MAX = len(str(LENGTH_MAX))
"""Digits of a Content-Length, less leading zeros, that are read as a number."""

_CONTROLS = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIGITS = re.compile(r"0*([0-9]*)")
_SINGLETONS = frozenset(("HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"))


class FieldRules:
    """gunicorn's settings about fields, for peers of one degree of trust (``forwarded_allow_ips``)."""

    def __init__(self, cfg: Any, *, trusted: bool) -> None:
        self.header_map: str = cfg.header_map
        self.scheme_headers: dict[str, str] = dict(cfg.secure_scheme_headers) if trusted else {}
        self.forwarder_headers = frozenset(cfg.forwarder_headers) if trusted else frozenset()
        self.fields_max: int = cfg.limit_request_fields or 100
        self.field_bytes_max: int = cfg.limit_request_field_size or 8190
        self._schemes = {environ_key(name): value for name, value in self.scheme_headers.items() if "_" not in name}
        self.keys = {name: key for name, key in KEYS.items() if key not in self._schemes}

    def quick(self, environ: dict[str, Any], lines: list[str]) -> bool:
        """Add ordinary fields to the environ; return whether they all are, and are the first of their names.

        ``lines`` have no control characters, tabs included. If it is False, the environ is of no use.
        """
        keys, expected = self.keys, len(environ) + len(lines)
        rare = False
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                return False
            try:
                environ[keys[name]] = value.strip(" ")
            except KeyError:
                if "_" in name or _TOKEN.fullmatch(name) is None:
                    return False
                environ[environ_key(name.upper())] = value.strip(" ")
                rare = True
        return len(environ) == expected and (not rare or not self._schemes or self._quick_scheme(environ))

    def _quick_scheme(self, environ: dict[str, Any]) -> bool:
        """Set the scheme that trusted proxies report; return whether they agree."""
        said = {environ[key] == value for key, value in self._schemes.items() if key in environ}
        if said:
            environ["wsgi.url_scheme"] = "https" if True in said else "http"
        return len(said) < 2


def check_lines(raw: bytes, rules: FieldRules) -> None:
    """Refuse a complete head for its line ends, its controls, or too many or too long fields. Raises HttpError."""
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise bad("a line ends with CR LF, and neither stands alone")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise bad("a header folded over two lines is obsolete (RFC 9112 section 5.2)")
    if len(raw.translate(None, _CONTROLS)) != len(raw):
        raise bad("a control character in the head")
    if lines - 2 > rules.fields_max:
        raise HttpError(431, f"over {rules.fields_max} header fields")
    if len(raw) > rules.field_bytes_max and max(map(len, raw.split(b"\r\n")[1:])) > rules.field_bytes_max:
        raise HttpError(431, f"a header field is over {rules.field_bytes_max} bytes")


def split_fields(raw: bytes) -> list[tuple[str, str]]:
    """Return name (in capitals) and value of each field of a head that passed ``check_lines``. Raises HttpError."""
    return list(_framed(map(_split_field, raw[:-4].decode("latin-1").split("\r\n")[1:])))


def _split_field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or (name not in KEYS and _TOKEN.fullmatch(name) is None):
        raise bad("a header is not NAME: VALUE (RFC 9112 section 5)")
    return name.upper(), value.strip(" \t")


def _framed(fields: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield fields; refuse those that leave open where the body ends (RFC 9112 section 6.3). Raises HttpError."""
    has_length = False
    codings: list[str] = []
    for upper, value in fields:
        if upper == "CONTENT-LENGTH":
            if has_length or codings:
                raise bad("Content-Length appears twice, or beside Transfer-Encoding (RFC 9112 section 6.3)")
            has_length = True
            content_length(value)
        elif upper == "TRANSFER-ENCODING":
            if has_length or not value:
                raise bad("Transfer-Encoding is empty, or beside Content-Length (RFC 9112 section 6.3)")
            codings += [coding.strip(" \t").lower() for coding in value.split(",")]
        yield upper, value
    if codings and (codings[-1] != "chunked" or "chunked" in codings[:-1]):
        raise bad("chunked is not the last coding, or appears twice (RFC 9112 section 6.1)")


def content_length(value: str) -> int:
    """Return a Content-Length as a number of bytes (RFC 9110 section 8.6). Raises HttpError (400, 413)."""
    match = _DIGITS.match(value)
    assert match is not None
    digits = match[1]
    # Not int() of any number of digits: its time grows with their square.
    number = int(digits or "0") if len(digits) <= LENGTH_DIGITS_MAX else LENGTH_MAX + 1
    if number > LENGTH_MAX:
        raise HttpError(413, "Content-Length is over every bound")
    if not value or match.end() != len(value):
        raise bad("Content-Length is not a number")
    return number


def add_fields(environ: dict[str, Any], fields: list[tuple[str, str]], rules: FieldRules) -> None:
    """Add fields to the environ as gunicorn does: repeated ones joined by a comma. Raises HttpError (400)."""
    scheme = None
    for upper, value in fields:
        if "_" in upper and not (upper in rules.forwarder_headers or "*" in rules.forwarder_headers):
            if rules.header_map == "drop":
                continue
            if rules.header_map != "dangerous":
                raise bad("an underscore in a header's name")
        if upper in rules.scheme_headers:
            said = "https" if value == rules.scheme_headers[upper] else "http"
            if scheme not in (None, said):
                raise bad("two headers contradict each other about the scheme")
            scheme = environ["wsgi.url_scheme"] = said
        if upper == "SCRIPT_NAME" and upper in rules.forwarder_headers:
            environ["SCRIPT_NAME"] = value
        key = environ_key(upper)
        if key in environ:
            if key in _SINGLETONS:
                raise bad(f"the header {upper.title()} appears twice")
            environ[key] += "," + value
        else:
            environ[key] = value
