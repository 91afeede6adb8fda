"""Bodies as they arrive, in any number of reads: of a known length, or chunked (RFC 9112 sections 6 and 7.1). Pure.

What lives here: two decoders with one interface. After ``feed`` returned True, ``stream`` holds the body, positioned at
its start, ``size`` its length in bytes, and ``left`` what is behind it: bytes, and the offset from which they count.
Where it returned False and ``more`` is True, ``feed(b"")`` goes on with what it has. What must not: sockets, clocks,
heads.
"""

from __future__ import annotations

import re
from io import BytesIO

from wsgi.server.refusal import bad, too_large

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Asks a client that waits for it to send its body (RFC 9110 section 10.1.1)."""
CHUNK_LINE_BYTES_MAX = 256
"""Bytes of a chunk-size line, extensions and leading zeros included. No known client sends longer ones."""
TRAILER_BYTES_MAX = 8_192
"""Bytes of all trailers of one body, as long as one header may be. They are checked and ignored."""
LINES_PER_FEED = 128
"""Lines that one ``feed`` reads, 0.2 ms of work: a body of one-byte chunks has a line for every three bytes."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]+)(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
"""chunk-size [ chunk-ext ], with the "bad" whitespace that RFC 9112 section 7.1.1 asks recipients to parse."""
_TRAILER = re.compile(rb"(" + _TOKEN + rb"):[\t\x20-\x7e\x80-\xff]*")
_NO_TRAILERS = frozenset((b"content-length", b"transfer-encoding", b"host"))
"""Fields for framing and routing, which RFC 9110 section 6.5.1 forbids in trailers."""


class SizedBody:
    """A body of ``size`` bytes (Content-Length). Its pieces are kept as they came, and joined once."""

    more = False
    __slots__ = ("_pieces", "_wanted", "left", "size", "stream")

    def __init__(self, size: int) -> None:
        self.size = self._wanted = size
        self._pieces: list[bytes] = []
        self.left = (b"", 0)
        self.stream = BytesIO()

    def feed(self, data: bytes, at: int = 0) -> bool:
        """Take the bytes of ``data`` from ``at`` on; return True once the body is complete. Never raises."""
        piece = data[at : at + self._wanted]
        self._pieces.append(piece)
        self._wanted -= len(piece)
        if self._wanted:
            return False
        self.left = (data, at + len(piece))
        pieces, self._pieces = self._pieces, []
        self.stream = BytesIO(b"".join(pieces))
        return True


_DATA, _DATA_END, _SIZE, _TRAILERS, _DONE = range(5)


class ChunkedBody:
    """A body with ``Transfer-Encoding: chunked`` and at most ``bytes_max`` bytes; trailers are checked and dropped."""

    __slots__ = ("_at", "_bytes_max", "_chunk", "_data", "_step", "_trailer_bytes", "left", "more", "size", "stream")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data, self._at = b"", 0
        self._chunk = 0
        self._step = _SIZE
        self._trailer_bytes = 0
        self.more = False
        self.left = (b"", 0)
        self.size = 0
        self.stream = BytesIO()

    def feed(self, data: bytes, at: int = 0) -> bool:
        """Take the bytes of ``data`` from ``at`` on, and read LINES_PER_FEED lines; return True once it is complete.

        Raises HttpError (400: bad framing, 413: too large).
        """
        if self._at == len(self._data):
            self._data, self._at = data, at
        elif data:  # What is left is a part of one line, or at most as much as one read brings.
            self._data, self._at = self._data[self._at :] + data[at:], 0
        data, at = self._data, self._at
        for _ in range(LINES_PER_FEED):
            if self._step == _DATA:
                piece = data[at : at + self._chunk]
                self.stream.write(piece)
                at += len(piece)
                self._chunk -= len(piece)
                if self._chunk:
                    return self._stop(at, more=False)
                self._step = _DATA_END
            end = self._line_end(data, at)
            if end < 0:
                return self._stop(at, more=False)
            self._take_line(data[at:end])
            at = end + 2
            if self._step == _DONE:
                self.left, self._data, self.more = (data, at), b"", False
                self.stream.seek(0)
                return True
        return self._stop(at, more=True)

    def _stop(self, at: int, *, more: bool) -> bool:
        self._at, self.more = at, more
        if at == len(self._data):
            self._data, self._at = b"", 0  # No need to hold what was read.
        return False

    def _line_end(self, data: bytes, at: int) -> int:
        """Return where the line at ``at`` ends, or -1 if its end has not arrived."""
        bound = (0, 0, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX)[self._step]
        end = data.find(b"\n", at, at + bound + 2)
        if end < 0:
            if len(data) - at >= bound + 2:
                raise bad("a line of the chunked body is too long, or no CR LF ends a chunk")
            return -1
        if end == at or data[end - 1] != 0x0D:
            raise bad("a line of the chunked body ends with LF alone")
        return end - 1

    def _take_line(self, line: bytes) -> None:
        if self._step == _DATA_END:
            if line:
                raise bad("a chunk is longer than its size")
            self._step = _SIZE
        elif self._step == _SIZE:
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise bad("a chunk's first line is not a hexadecimal size and valid extensions")
            self._chunk = int(match[1], 16)
            self.size += self._chunk
            if self.size > self._bytes_max:
                raise too_large(self._bytes_max)
            self._step = _DATA if self._chunk else _TRAILERS
        elif line:
            self._trailer_bytes += len(line)
            match = _TRAILER.fullmatch(line)
            if self._trailer_bytes > TRAILER_BYTES_MAX or match is None:
                raise bad("the trailers are malformed, or too long")
            if match[1].lower() in _NO_TRAILERS:
                raise bad(f"{match[1].decode().title()} may not be a trailer (RFC 9110 section 6.5.1)")
        else:
            self._step = _DONE


Body = SizedBody | ChunkedBody


def body_of(length: int, bytes_max: int) -> Body:
    """Return what decodes a body of ``length`` bytes, or of up to ``bytes_max`` where it is -1: chunked.

    Raises HttpError (413) if it is longer than that.
    """
    if length > bytes_max:
        raise too_large(bytes_max)
    return ChunkedBody(bytes_max) if length < 0 else SizedBody(length)
