"""Header fields: the lines of a head into the environ. Pure.

What lives here: what is a field (RFC 9112 section 5), and gunicorn's rules for underscores, schemes and repeated
fields. What must not: what a field means for the message (``wsgi.server.head``), sockets, clocks.

The parser is httptools (llhttp, no lenient flag); what it leaves open is checked before and after it.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from wsgi.server.refusal import HttpError, bad

NAMES_CACHED_MAX = 1_024
"""Header names whose environ key is remembered, process-wide. Full: all are forgotten."""

_CONTROLS = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_SPACE_BEFORE_LINE_END = re.compile(rb"[ \t]+\r\n")
_SINGLETONS = frozenset(("HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"))


class FieldRules:
    """gunicorn's settings about fields, for peers of one degree of trust (``forwarded_allow_ips``)."""

    def __init__(self, cfg: Any, *, trusted: bool) -> None:
        self.header_map: str = cfg.header_map
        self.scheme_headers: dict[str, str] = dict(cfg.secure_scheme_headers) if trusted else {}
        self.forwarder_headers = frozenset(cfg.forwarder_headers) if trusted else frozenset()
        self.fields_max: int = cfg.limit_request_fields or 100
        self.field_bytes_max: int = cfg.limit_request_field_size or 8190


class _Collector:
    """The callbacks of httptools."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def split_fields(raw: bytes, rules: FieldRules) -> list[tuple[bytes, bytes]]:
    """Return the (name, value) pairs of a complete head, whose request line is valid. Raises HttpError."""
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
    return _parse(raw, lines - 2)


def _parse(raw: bytes, count: int) -> list[tuple[bytes, bytes]]:
    """Let llhttp parse ``raw``, less what is legal but refused by it: HTTP/1.2 and later, a tab before a line's end."""
    end = raw.index(b"\r")
    if raw[end - 1] > 0x31:
        raw = raw[: end - 1] + b"1" + raw[end:]
    if b"\t\r\n" in raw:
        raw = _SPACE_BEFORE_LINE_END.sub(b"\r\n", raw)
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # An upgrade is an offer; a server that knows none goes on as if it had not been made (RFC 9110 7.8).
    except httptools.HttpParserInvalidMethodError:
        raise HttpError(501, "the method is not one that this server knows") from None
    except httptools.HttpParserError as error:
        if "overflow" in str(error):
            raise HttpError(413, "Content-Length is over every bound") from None
        raise bad(f"the head is malformed: {error}") from None
    if not collector.complete or len(collector.fields) != count:
        raise bad("the head is malformed")
    return collector.fields


_keys: dict[bytes, tuple[str, str]] = {}


def _names(name: bytes) -> tuple[str, str]:
    """Return a header's name (a token, as llhttp checked) in capitals, and its environ key."""
    names = _keys.get(name)
    if names is None:
        upper = name.decode("ascii").upper()
        mapped = upper.replace("-", "_")
        names = upper, mapped if upper in ("CONTENT-TYPE", "CONTENT-LENGTH") else "HTTP_" + mapped
        if len(_keys) >= NAMES_CACHED_MAX:
            _keys.clear()
        _keys[name] = names
    return names


def add_fields(environ: dict[str, Any], fields: list[tuple[bytes, bytes]], rules: FieldRules) -> None:
    """Add fields to the environ as gunicorn does: repeated ones joined by a comma. Raises HttpError (400)."""
    scheme = None
    for name, raw_value in fields:
        value = raw_value.decode("latin-1").strip(" \t")
        upper, key = _names(name)
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
        if key in environ:
            if key in _SINGLETONS:
                raise bad(f"the header {upper.title()} appears twice")
            environ[key] += "," + value
        else:
            environ[key] = value
