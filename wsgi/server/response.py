"""HTTP/1.1 responses (RFC 9112): status and headers -> head bytes, and how a body in pieces is framed. Pure.

What lives here: what a response's head looks like, and what a WSGI application may put in it (PEP 3333). What must not:
sockets, requests, when anything is written, what a refusal says (``wsgi.server.refusal``).

``Heads`` remembers finished heads: an application answers with few distinct ones, and Date changes once a second. Only
a last field of one well-known name may vary: its value goes in between.
"""

from __future__ import annotations

import re
from email.utils import formatdate

from gunicorn import SERVER

from wsgi.server.head import CLOSE, KEEP_ALIVE_10

Key = tuple[int, str, tuple[tuple[str, str], ...]]

HEADS_CACHED_MAX = 512
"""Distinct response heads remembered for the second that their Date is right."""
VARYING = "x-request-id"
"""A field whose value is another each time. Where it is the last one, spelled like this, it is not remembered."""

_STATUS = re.compile(r"[2-5][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "trailers", "upgrade")
)  # fmt: skip
"""PEP 3333 forbids them to applications: the server alone decides them. They are left out."""
_CONNECTION = {CLOSE: b"Connection: close\r\n", KEEP_ALIVE_10: b"Connection: keep-alive\r\n"}


class ResponseHead:
    """A response's head. ``raw``: status line and headers up to the empty line. ``length``: Content-Length, or -1.

    ``end``: what the server adds behind the application's headers.
    """

    __slots__ = ("bodiless", "end", "length", "raw")

    def __init__(self, key: Key, fixed: bytes) -> None:
        """Raises TypeError or ValueError where PEP 3333 or RFC 9110 forbids what the application gave."""
        mode, status, headers = key
        if not _STATUS.fullmatch(status):
            raise ValueError(f"not a status of a final response: {status!r}")
        self.bodiless = status.startswith(("204", "304"))
        self.length = -1
        lines = [f"HTTP/1.1 {status}\r\n".encode("latin-1"), fixed]
        for name, value in headers:
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"not a header: {name!r}")
            lower = name.lower()
            if lower == "content-length":
                if self.length >= 0 or not (value.isascii() and value.isdigit()):
                    raise ValueError("Content-Length is not one number")
                self.length = int(value)
            elif lower in _HOP_BY_HOP:
                continue
            if not (lower in ("date", "server") or (lower == "content-length" and status.startswith("204"))):
                lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        self.end = _CONNECTION.get(mode, b"")
        lines.append(self.end)
        self.raw = b"".join(lines)


class Heads:
    """Finished response heads, for the current second."""

    def __init__(self) -> None:
        self.plain: dict[Key, tuple[bytes, int]] = {}
        """Heads with Content-Length and a body, the empty line included; and the length."""
        self.varied: dict[Key, tuple[bytes, int, bytes]] = {}
        """The same with VARYING as the last header, which the key leaves out: what is before its value, and after."""
        self._fixed = b""
        self.tick(0.0)

    def tick(self, now: float) -> None:
        """Start a new second: ``now`` (seconds since the epoch) goes into Date (RFC 9110 section 6.6.1)."""
        self._fixed = b"Server: %s\r\nDate: %s\r\n" % (SERVER.encode(), formatdate(now, usegmt=True).encode())
        self.plain.clear()
        self.varied.clear()

    def make(self, mode: int, status: str, headers: list[tuple[str, str]]) -> ResponseHead:
        """Make the head for what the application gave; remember it if it has a body of known length."""
        key = (mode, status, tuple((name, value) for name, value in headers))
        head = ResponseHead(key, self._fixed)
        if head.length >= 0 and not head.bodiless:
            if len(self.plain) + len(self.varied) >= HEADS_CACHED_MAX:
                self.plain.clear()
                self.varied.clear()
            name, value = key[2][-1]
            if name == VARYING:
                after = b"\r\n" + head.end
                before = head.raw[: len(head.raw) - len(after) - len(value)]
                self.varied[mode, status, key[2][:-1]] = (before, head.length, after + b"\r\n")
            else:
                self.plain[key] = (head.raw + b"\r\n", head.length)
        return head

    def refusal(self, status: str, headers: list[tuple[str, str]], body: bytes, *, sends_body: bool) -> bytes:
        """Make a whole answer, after which the connection closes. Raises as ``ResponseHead`` does.

        ``sends_body`` is False for an answer to HEAD, which has the headers alone (RFC 9110 section 9.3.2).
        """
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        kept.append(("Content-Length", str(len(body))))
        if status.startswith("503") and not any(name.lower() == "retry-after" for name, _ in headers):
            kept.append(("Retry-After", "1"))
        head = ResponseHead((CLOSE, status, tuple(kept)), self._fixed)
        return head.raw + b"\r\n" + (body if sends_body else b"")


class Framing:
    """How the body of one response that goes out in pieces is delimited (RFC 9112 section 6.3)."""

    __slots__ = ("_chunked", "_left")

    def __init__(self, length: int, *, chunked: bool) -> None:
        """``length``: the Content-Length sent, or -1: chunked, or ended by the connection's end."""
        self._left = length
        self._chunked = chunked

    def frame(self, data: bytes) -> bytes:
        """Return a piece as it goes out, without what exceeds the Content-Length."""
        if self._left >= 0:
            data = data[: self._left]
            self._left -= len(data)
            return data
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    def end(self) -> bytes:
        """Return what follows the last piece. Raises ValueError if the body is shorter than its Content-Length."""
        if self._left > 0:
            raise ValueError(f"the body is {self._left} bytes shorter than its Content-Length")
        return b"0\r\n\r\n" if self._chunked else b""
