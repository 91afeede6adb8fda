"""The parser of request heads before it went line by line: httptools (llhttp, no lenient flag), and checks around it.

What lives here: the reference that ``tests/server/test_head_differential.py`` holds ``wsgi.server.head`` to: as it was,
less the cache of whole heads. What must not: anything that the product imports, or changes that make the two agree.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools

from wsgi.server.refusal import HttpError, bad

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    r"(?P<host>\[(?P<six>[0-9A-Fa-f:.]+)\]"
    r"|\[v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]"
    r"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)"
    r"(?::(?P<port>[0-9]*))?"
)
"""uri-host [":" port] of RFC 9110 section 7.2: an IPv6 literal, a future literal, or a name (or IPv4 address)."""


def split_request_line(raw: bytes) -> tuple[str, bytes, bool]:
    """Return method, target, and whether it is HTTP/1.0, from a head's first line. Raises HttpError (400, 505).

    A minor version over 1 is served as HTTP/1.1 (RFC 9110 section 2.5).
    """
    match = _REQUEST_LINE.fullmatch(raw[: raw.index(b"\r")])
    if match is None:
        raise bad("the request line is not METHOD SP TARGET SP HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise HttpError(505, "the versions are HTTP/1.1 and HTTP/1.0")
    return method.decode(), target, minor == b"0"


def split_authority(authority: str) -> tuple[str, str] | None:
    """Split host[:port] into the two, "" where there is none; None if it breaks the grammar of RFC 3986."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    if match["six"] is not None:
        try:
            ipaddress.IPv6Address(match["six"])
        except ValueError:
            return None
    return match["host"], match["port"] or ""


def set_target(environ: dict[str, Any], target: bytes, method: str) -> None:
    """Set PATH_INFO and QUERY_STRING (PEP 3333) from one of the forms of RFC 9112 section 3.2. Raises HttpError.

    ``OPTIONS *`` has the path "".
    """
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            authority = absolute[1].decode("latin-1")
            named = split_authority(authority)
            if named is None or not named[0]:
                raise bad("the target names no valid host")
            if "HTTP_HOST" in environ:
                environ["HTTP_HOST"] = authority
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        elif target == b"*" and method == "OPTIONS":
            target = b""
        elif method == "CONNECT":
            raise HttpError(501, "CONNECT is a proxy's method")
        else:
            raise bad("the target is neither a path nor an absolute URI")
    if b"#" in target:
        raise bad("a fragment in the target")
    path, _, query = target.partition(b"?")
    script = environ["SCRIPT_NAME"].encode("latin-1")
    if not path.startswith(script):
        raise HttpError(500, "the path does not start with SCRIPT_NAME")
    path = path[len(script) :]
    environ["PATH_INFO"] = (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1")
    environ["QUERY_STRING"] = query.decode("latin-1")


def set_host(environ: dict[str, Any], *, http10: bool, unix: bool) -> None:
    """Check Host; on a Unix socket, which has neither, take SERVER_NAME and SERVER_PORT from it. Raises HttpError."""
    host = environ.get("HTTP_HOST")
    if host is None:
        if not http10:
            raise bad("HTTP/1.1 needs a Host header (RFC 9112 section 3.2)")
        return
    named = split_authority(host)
    if named is None:
        raise bad("the Host header is not host[:port] (RFC 3986 section 3.2)")
    if unix:
        environ["SERVER_NAME"] = named[0] or "localhost"
        environ["SERVER_PORT"] = named[1] or ("443" if environ["wsgi.url_scheme"] == "https" else "80")


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


LENGTH_DIGITS_MAX = 18
"""Digits of a Content-Length that is read as a number. More are over every bound; int() of them costs time."""

KEEP_ALIVE, CLOSE, KEEP_ALIVE_10 = 0, 1, 2
"""What follows the answer: the next request (HTTP/1.1), the end, or the next request (HTTP/1.0, which says so)."""


def check_start(raw: bytes | bytearray, seen: int, line_max: int, head_max: int) -> None:
    """Refuse a head, complete or not, that cannot become valid. Raises HttpError (400, 414, 431).

    ``seen``: how many of its bytes passed before. The fault that comes first in the bytes is the one that is raised, so
    the answer is the same however the bytes were split.
    """
    size = len(raw)
    bare = raw.find(b"\n", seen)
    while bare > 0 and raw[bare - 1] == 0x0D:
        bare = raw.find(b"\n", bare + 1)
    if bare < 0:
        bare = size
    if line_max + 1 < size and raw.find(b"\r\n", 0, line_max + 2) < 0 and line_max < min(bare, head_max):
        raise HttpError(414, f"the request line is over {line_max} bytes")
    if bare < min(size, head_max):
        raise bad("a line of the head ends with LF alone")
    if size > head_max:
        raise HttpError(431, f"the head is over {head_max} bytes")


class Site:
    """What all connections of one listener have in common, for peers of one degree of trust.

    ``environ``: the part of the environ that no request changes. ``trusted``: whether the peer is one of
    ``forwarded_allow_ips``. ``fast_bytes_max``: bytes of a body that may take the shortcut of ``Head.total``.
    """

    def __init__(
        self,
        environ: Mapping[str, Any],
        cfg: Any,
        *,
        trusted: bool,
        unix: bool,
        fast_bytes_max: int,
        head_bytes_max: int,
    ) -> None:
        self.environ = dict(environ)
        self.unix = unix
        self.fast_bytes_max = fast_bytes_max
        self.head_bytes_max = head_bytes_max
        self.line_bytes_max: int = cfg.limit_request_line or 8190
        self.rules = FieldRules(cfg, trusted=trusted)

    def head(self, raw: bytes) -> Head:
        """Return the parsed head; ``raw`` ends with the empty line. Raises HttpError."""
        self.check_start(raw)
        return Head(raw, self)

    def check_start(self, raw: bytes | bytearray, seen: int = 0) -> None:
        """Refuse what cannot become a valid head under this listener's limits; see the function."""
        check_start(raw, seen, self.line_bytes_max, self.head_bytes_max)


class Head:
    """One request's head. ``length`` is the body's (bytes; -1: chunked).

    ``total``: bytes of head and body together where one read that starts with ``raw`` and is as long holds the whole
    request, and nothing else must be decided; else -1.

    ``environ`` is a template: copy it and set REMOTE_ADDR, REMOTE_PORT and wsgi.input. Raises HttpError.
    """

    __slots__ = ("environ", "expects", "length", "mode", "raw", "sends_body", "size", "total")

    def __init__(self, raw: bytes, site: Site) -> None:
        self.raw, self.size = raw, len(raw)
        method, target, http10 = split_request_line(raw)
        environ: dict[str, Any] = site.environ.copy()
        environ["REQUEST_METHOD"] = method
        environ["SERVER_PROTOCOL"] = "HTTP/1.0" if http10 else "HTTP/1.1"
        environ["RAW_URI"] = target.decode("latin-1")
        add_fields(environ, split_fields(raw, site.rules), site.rules)
        set_target(environ, target, method)
        set_host(environ, http10=http10, unix=site.unix)
        self.length = body_length(environ, http10=http10)
        self.total = self.size + self.length if 0 <= self.length <= site.fast_bytes_max else -1
        self.mode = mode_after(environ.get("HTTP_CONNECTION"), http10=http10)
        self.expects = expects_continue(environ, http10=http10)
        self.sends_body = method != "HEAD"
        self.environ = environ


class NoHead:
    """Stands for "no head parsed yet": no bytes match it, and an answer has a body."""

    raw, total, mode, sends_body = b"", -1, CLOSE, True


def body_length(environ: Mapping[str, Any], *, http10: bool) -> int:
    """Return the bytes of the body, -1 if it is chunked (RFC 9112 section 6). Raises HttpError (400, 501)."""
    length, coding = environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if length is not None:
            raise bad("Content-Length beside Transfer-Encoding (RFC 9112 section 6.3)")
        if http10:
            raise bad("Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1)")
        codings = [part.strip(" \t").lower() for part in coding.split(",")]
        if codings.count("chunked") > 1 or "" in codings or ("chunked" in codings and codings[-1] != "chunked"):
            raise bad("chunked is not the last coding, or appears twice (RFC 9112 section 6.1)")
        if codings != ["chunked"]:
            raise HttpError(501, "the only transfer coding is chunked")
        return -1
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()):
        raise bad("Content-Length is not a number")
    return int(length) if len(length.lstrip("0")) <= LENGTH_DIGITS_MAX else 10**LENGTH_DIGITS_MAX


def mode_after(connection: str | None, *, http10: bool) -> int:
    """Return what follows the answer, by the Connection header (RFC 9112 section 9.3)."""
    options = [part.strip(" \t") for part in connection.lower().split(",")] if connection else []
    if "close" in options:
        return CLOSE
    if http10:
        return KEEP_ALIVE_10 if "keep-alive" in options else CLOSE
    return KEEP_ALIVE


def expects_continue(environ: Mapping[str, Any], *, http10: bool) -> bool:
    """Return whether the client waits for 100 Continue (RFC 9110 section 10.1.1). Raises HttpError (417)."""
    expectation = environ.get("HTTP_EXPECT")
    if expectation is None or http10:
        return False
    if expectation.lower() != "100-continue":
        raise HttpError(417, "the only expectation is 100-continue")
    return True
