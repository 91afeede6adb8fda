"""Request heads (RFC 9110, RFC 9112): bytes -> environ template, and what they say about the body. Pure.

What lives here: when a head is complete, and the order in which its rules apply. What must not: sockets, clocks, the
WSGI application, how a response is written (``wsgi.server.response``).

Clients repeat their heads byte for byte, so ``Site`` parses a head once: a head that is byte-identical to one that
passed every check is the same head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsgi.server.fields import FieldRules, add_fields, split_fields
from wsgi.server.refusal import HttpError, bad
from wsgi.server.target import set_host, set_target, split_request_line

HEAD_END = b"\r\n\r\n"
HEADS_CACHED_MAX = 512
"""Heads that one ``Site`` remembers; at most HEAD_CACHED_BYTES_MAX each, so a few MB a worker. Full: start anew."""
HEAD_CACHED_BYTES_MAX = 2_048
"""Bytes of a head that is remembered. Longer ones are rare, and would let a client fill the memory."""
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
        self.heads: dict[bytes, Head] = {}

    def head(self, raw: bytes) -> Head:
        """Return the parsed head; ``raw`` ends with the empty line. Raises HttpError."""
        head = self.heads.get(raw)
        if head is None:
            self.check_start(raw)
            head = Head(raw, self)
            if len(raw) <= HEAD_CACHED_BYTES_MAX:
                if len(self.heads) >= HEADS_CACHED_MAX:
                    self.heads.clear()
                self.heads[raw] = head
        return head

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
