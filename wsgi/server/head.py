"""Request heads (RFC 9110, RFC 9112): bytes -> environ, and what they say about the body. Pure.

What lives here: when a head is complete, and the order in which its rules apply. What must not: sockets, clocks, the
WSGI application, how a response is written (``wsgi.server.response``).

There are two ways through. The quick one takes the heads that clients ordinarily send, line by line, and refuses
nothing: what is not ordinary goes the exact way, which takes everything that is valid and says what is wrong with the
rest. A head is only ever compared with the one before it on the same connection: nothing is remembered for a listener,
so no client can flush what others profit from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsgi.server.fields import LENGTH_DIGITS_MAX, FieldRules, add_fields, check_lines, content_length, split_fields
from wsgi.server.refusal import HttpError, bad
from wsgi.server.target import (
    RequestLine,
    check_request,
    ordinary_request_line,
    set_host,
    set_target,
    split_request_line,
)

HEAD_END = b"\r\n\r\n"
HEAD_KEPT_BYTES_MAX = 2_048
"""Bytes of a head that its connection keeps, to compare the next one with. Longer ones are rare, and 16,384 idle
connections that keep one each would fill the memory."""

KEEP_ALIVE, CLOSE, KEEP_ALIVE_10 = 0, 1, 2
"""What follows the answer: the next request (HTTP/1.1), the end, or the next request (HTTP/1.0, which says so)."""

_GO_ON = frozenset((None, "keep-alive", "Keep-Alive"))
"""Connection headers of HTTP/1.1, None among them, after which the connection goes on."""
_DECIDES = frozenset(("HTTP_HOST", "HTTP_CONNECTION", "HTTP_EXPECT", "HTTP_TRANSFER_ENCODING"))
"""Fields that decide more than their own key of the environ."""
_MARKED = bytes(0x0A if byte < 0x20 or byte == 0x7F else byte for byte in range(256))
"""Makes each control, tabs included, the end of a line: so lines put together again differ from the head."""


def check_start(raw: bytes | bytearray, seen: int, line_max: int, head_max: int) -> None:
    """Refuse a head, complete or not, that cannot become valid. Raises HttpError (400, 414, 431).

    ``seen``: how many of its bytes passed before. The fault that comes first in the bytes is the one that is raised, so
    the answer is the same however the bytes were split.
    """
    size = bare = len(raw)
    if raw.count(b"\n", seen) != raw.count(b"\r\n", max(seen - 1, 0)):
        bare = raw.find(b"\n", seen)
        while bare > 0 and raw[bare - 1] == 0x0D:
            bare = raw.find(b"\n", bare + 1)
    if line_max + 1 < size and raw.find(b"\r\n", 0, line_max + 2) < 0 and line_max < min(bare, head_max):
        raise HttpError(414, f"the request line is over {line_max} bytes")
    if bare < min(size, head_max):
        raise bad("a line of the head ends with LF alone")
    if size > head_max:
        raise HttpError(431, f"the head is over {head_max} bytes")


class NoHead:
    """Stands for "no head parsed yet": no bytes match it, and an answer has a body."""

    raw, size, total, length, mode, expects, sends_body = b"", 0, -1, 0, CLOSE, False, True
    method, uri, http10 = "", "", False
    line: RequestLine | None = None
    lines: list[str] | None = None
    host: str | None = None
    template: dict[str, Any] | None = None
    environ: dict[str, Any] | None = None


class Head:
    """One request's head. ``length`` is the body's (bytes; -1: chunked). ``uri``: the target as it was sent.

    ``raw``: its bytes, b"" if they are too many to be kept (``size`` is their number). ``total``: bytes of head and
    body together where one read that starts with ``raw`` and is as long holds the whole request, and nothing else must
    be decided; else -1. ``template``: the environ without REMOTE_ADDR, REMOTE_PORT and wsgi.input; never handed out,
    only copied. A head has one if it is kept.

    ``line``, ``lines``, ``host``: what the next head of the connection need not have parsed again. Raises HttpError.
    """

    __slots__ = (
        "environ", "expects", "host", "http10", "length", "line", "lines", "method", "mode", "raw", "sends_body",
        "size", "template", "total", "uri",
    )  # fmt: skip

    def __init__(self, raw: bytes, environ: dict[str, Any], line: RequestLine | None, *, http10: bool) -> None:
        self.size = size = len(raw)
        self.raw = raw if size <= HEAD_KEPT_BYTES_MAX else b""
        self.environ: dict[str, Any] | None = environ
        self.template: dict[str, Any] | None = None
        self.lines: list[str] | None = None
        self.line = line
        self.host: str | None = environ.get("HTTP_HOST")
        self.method = method = environ["REQUEST_METHOD"]
        self.uri: str = environ["RAW_URI"]
        self.http10 = http10
        self.sends_body = method != "HEAD"
        self.total = -1
        length = environ.get("CONTENT_LENGTH", "0")
        if "HTTP_TRANSFER_ENCODING" in environ or len(length) >= LENGTH_DIGITS_MAX or not length.isdecimal():
            self.length = body_length(environ, http10=http10)
        else:
            self.length = int(length)
        connection = environ.get("HTTP_CONNECTION")
        if http10 or connection not in _GO_ON:
            self.mode = mode_after(connection, http10=http10)
        else:
            self.mode = KEEP_ALIVE
        self.expects = "HTTP_EXPECT" in environ and expects_continue(environ, http10=http10)

    def take(self) -> dict[str, Any]:
        """Return an environ that the caller may change; once, unless there is a template."""
        if self.template is not None:
            return self.template.copy()
        environ, self.environ = self.environ, None
        assert environ is not None, "the environ was taken, and there is no template"
        return environ

    def keep(self, lines: list[str], fast_bytes_max: int) -> None:
        """Keep ``lines`` and the environ, for a head that is the same or nearly so; see ``change``."""
        self.environ, self.template, self.lines = None, self.environ, lines
        self._count(fast_bytes_max)

    def _count(self, fast_bytes_max: int) -> None:
        self.total = self.size + self.length if 0 <= self.length <= fast_bytes_max else -1

    def change(self, raw: bytes, lines: list[str], keys: dict[str, str], fast_bytes_max: int) -> bool:
        """Become the next head of the connection, where it has the same fields and few of them say something else.

        Return whether it does; if not, this head has no template any more. ``keys``: of ``FieldRules``.

        PERF: of ten fields, four differ each time in real traffic; the others are only compared (bench/heads.py).
        """
        template, before = self.template, self.lines
        self.template = None
        if template is None or before is None or len(lines) != len(before) or lines[0] != before[0]:
            return False
        for line, old in zip(lines, before, strict=True):
            if line == old:
                continue
            name, colon, value = line.partition(":")
            key = keys.get(name)
            # The same name at the same place: so none is there twice that was not before.
            if key is None or key in _DECIDES or not colon or not old.startswith(line[: len(name) + 1]):
                return False
            template[key] = value = value.strip(" ")
            if key == "CONTENT_LENGTH":
                if not (value.isascii() and value.isdecimal()) or len(value) >= LENGTH_DIGITS_MAX:
                    return False
                self.length = int(value)
        self.raw, self.size, self.lines, self.template = raw, len(raw), lines, template
        self._count(fast_bytes_max)
        return True


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
        # A head that is no longer than any of the three limits exceeds none of them.
        self._quick_bytes_max = min(head_bytes_max, self.line_bytes_max, self.rules.field_bytes_max)

    def head(self, raw: bytes, last: Head | type[NoHead]) -> Head:
        """Return the parsed head; ``raw`` ends with the first empty line. Raises HttpError.

        ``last``: the head before it on the same connection; it may be the answer.
        """
        if raw == last.raw and isinstance(last, Head) and last.template is not None:
            return last
        return self._quick(raw, last) or self._exact(raw)

    def check_start(self, raw: bytes | bytearray, seen: int = 0) -> None:
        """Refuse what cannot become a valid head under this listener's limits; see the function."""
        check_start(raw, seen, self.line_bytes_max, self.head_bytes_max)

    def _quick(self, raw: bytes, last: Head | type[NoHead]) -> Head | None:
        """Return the parsed head if it is an ordinary one, else None.

        PERF: a quarter of what the exact way costs where heads differ (bench/heads.py).
        """
        if len(raw) > self._quick_bytes_max:
            return None
        lines = raw.translate(_MARKED, b"\r").decode("latin-1").split("\n")
        if "\r\n".join(lines).encode("latin-1") != raw or len(lines) > self.rules.fields_max + 3:
            return None  # A control character, a CR or LF that stands alone, or too many fields.
        kept = len(raw) <= HEAD_KEPT_BYTES_MAX
        if kept and isinstance(last, Head) and last.change(raw, lines, self.rules.keys, self.fast_bytes_max):
            return last
        line = last.line
        if line is None or line.text != lines[0]:
            line = ordinary_request_line(lines[0], self.environ["SCRIPT_NAME"])
            if line is None:
                return None
        environ: dict[str, Any] = self.environ.copy()
        _, environ["REQUEST_METHOD"], environ["RAW_URI"], environ["SERVER_PROTOCOL"], path, query, http10 = line
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query
        if not self.rules.quick(environ, lines[1:-2]):
            return None
        host = environ.get("HTTP_HOST")
        try:
            if host is None or host != last.host or self.unix:
                set_host(environ, http10=http10, unix=self.unix)
            head = Head(raw, environ, line, http10=http10)
        except HttpError:
            return None
        if kept:
            head.keep(lines, self.fast_bytes_max)
        return head

    def _exact(self, raw: bytes) -> Head:
        """Return the parsed head. Raises HttpError."""
        self.check_start(raw)
        method, target, http10 = split_request_line(raw)
        check_lines(raw, self.rules)
        check_request(method, target)
        environ: dict[str, Any] = self.environ.copy()
        environ["REQUEST_METHOD"] = method
        environ["SERVER_PROTOCOL"] = "HTTP/1.0" if http10 else "HTTP/1.1"
        environ["RAW_URI"] = target.decode("latin-1")
        add_fields(environ, split_fields(raw), self.rules)
        set_target(environ, target, method)
        set_host(environ, http10=http10, unix=self.unix)
        return Head(raw, environ, None, http10=http10)


def body_length(environ: Mapping[str, Any], *, http10: bool) -> int:
    """Return the bytes of the body, -1 if it is chunked (RFC 9112 section 6). Raises HttpError (400, 413, 501)."""
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
    return content_length(length)


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
