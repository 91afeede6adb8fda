"""HTTP/1.1 requests (RFC 9110, RFC 9112): head bytes -> environ template, chunked bytes -> body. Pure.

What lives here: every rule that decides whether bytes are a request, and the answer where they are not. What must not:
sockets, clocks, the WSGI application, how a response is written (``wsgi.response``).

The native parser is httptools (llhttp, no lenient flag). What llhttp leaves open is checked here before and after it
(see docs/design.md for the table). Speed comes from ``Site.heads``: clients repeat their heads byte for byte, so a head
is parsed once, and a head that is byte-identical to one that passed every check is the same head.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_END = b"\r\n\r\n"
HEADS_CACHED_MAX = 512
"""Heads that one ``Site`` remembers; at most HEAD_CACHED_BYTES_MAX each, so a few MB a worker. Full: start anew."""
HEAD_CACHED_BYTES_MAX = 2_048
"""Longer heads are parsed each time: they are rare, and would let a client fill the memory."""
NAMES_CACHED_MAX = 1_024
"""Header names whose environ key is remembered, process-wide."""
LENGTH_DIGITS_MAX = 18
"""A Content-Length of more digits is over every bound; int() of a longer one costs time."""
CHUNK_LINE_BYTES_MAX = 256
"""A chunk-size line, extensions included: sizes need 8 digits, and no known client sends long extensions."""
CHUNK_SIZE_DIGITS_MAX = 8
"""Hexadecimal digits of one chunk's size: 4 GiB, far over any ``payload_bytes_max``."""
TRAILER_BYTES_MAX = 8_192
"""All trailers of one body together, as long as one header may be. They are checked and ignored."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)([^#]*)", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]*")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_CONTROLS = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_SINGLETONS = frozenset(("HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"))
KEEP_ALIVE, CLOSE, KEEP_ALIVE_10 = 0, 1, 2
"""What follows the answer: the next request (HTTP/1.1), the end, or the next request (HTTP/1.0, which says so)."""


class HttpError(Exception):
    """Not a request this server takes. ``status`` and ``reason`` go into the answer; ``detail`` is one sentence."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail


def bad(detail: str) -> HttpError:
    """400: the client's fault, and sending it again cannot help."""
    return HttpError(400, "bad-request", detail)


def too_large(bytes_max: int) -> HttpError:
    """413: the body is, or is said to be, over its bound."""
    return HttpError(413, "payload-too-large", f"the body is over {bytes_max} bytes")


class Site:
    """What all connections of one listener have in common, for peers of one degree of trust.

    ``environ``: the part of the environ that no request changes. ``trusted``: whether the peer is one of
    ``forwarded_allow_ips``, so that ``scheme_headers`` and ``forwarder_headers`` mean something. ``fast_bytes_max``:
    the largest body (bytes) that may take the short cut of ``Head.total``.
    """

    def __init__(self, environ: Mapping[str, Any], cfg: Any, *, trusted: bool, unix: bool, fast_bytes_max: int) -> None:
        self.environ = dict(environ)
        self.unix = unix
        self.fast_bytes_max = fast_bytes_max
        self.header_map: str = cfg.header_map
        self.scheme_headers: dict[str, str] = dict(cfg.secure_scheme_headers) if trusted else {}
        self.forwarder_headers = frozenset(cfg.forwarder_headers) if trusted else frozenset()
        self.line_bytes_max: int = cfg.limit_request_line or 8190
        self.fields_max: int = cfg.limit_request_fields or 100
        self.field_bytes_max: int = cfg.limit_request_field_size or 8190
        self.heads: dict[bytes, Head] = {}

    def head(self, raw: bytes) -> Head:
        """The parsed head; ``raw`` ends with the empty line. Raises HttpError."""
        head = self.heads.get(raw)
        if head is None:
            head = Head(raw, self)
            if len(raw) <= HEAD_CACHED_BYTES_MAX:
                if len(self.heads) >= HEADS_CACHED_MAX:
                    self.heads.clear()
                self.heads[raw] = head
        return head


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


class Head:
    """One request's head. ``length`` is the body's (bytes; -1: chunked).

    ``total``: bytes of head and body together where one read that starts with ``raw`` and is as long holds the whole
    request, and nothing else has to be decided; else -1.

    ``environ`` is a template: copy it and set REMOTE_ADDR, REMOTE_PORT and wsgi.input. Raises HttpError.
    """

    __slots__ = ("environ", "expects", "length", "mode", "raw", "sends_body", "size", "total")

    def __init__(self, raw: bytes, site: Site) -> None:
        self.raw, self.size = raw, len(raw)
        method, target, http10 = _request_line(raw, site)
        environ: dict[str, Any] = site.environ.copy()
        environ["REQUEST_METHOD"] = method
        environ["SERVER_PROTOCOL"] = "HTTP/1.0" if http10 else "HTTP/1.1"
        environ["RAW_URI"] = target.decode("latin-1")
        _add_fields(environ, _fields(raw, site), site)
        _set_target(environ, target, method)
        _set_host(environ, site, http10=http10)
        self.length = _length(environ, http10=http10)
        self.total = self.size + self.length if 0 <= self.length <= site.fast_bytes_max else -1
        self.mode = _mode(environ.get("HTTP_CONNECTION"), http10=http10)
        self.expects = _expects(environ, http10=http10)
        self.sends_body = method != "HEAD"
        self.environ = environ


def _request_line(raw: bytes, site: Site) -> tuple[str, bytes, bool]:
    line = raw[: raw.index(b"\r")]
    if len(line) > site.line_bytes_max:
        raise HttpError(414, "uri-too-long", f"the request line is over {site.line_bytes_max} bytes")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise bad("the request line is not METHOD SP TARGET SP HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != b"1" or minor > b"1":
        raise HttpError(505, "version-not-supported", "the versions are HTTP/1.1 and HTTP/1.0")
    return method.decode(), target, minor == b"0"


def _fields(raw: bytes, site: Site) -> list[tuple[bytes, bytes]]:
    """The header fields, through llhttp, and with what it would let pass refused first."""
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") != lines or raw.count(b"\r") != lines:
        raise bad("a line ends with CR LF, and neither stands alone")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise bad("a header folded over two lines is obsolete (RFC 9112 section 5.2)")
    if len(raw.translate(None, _CONTROLS)) != len(raw):
        raise bad("a control character in the head")
    if lines - 2 > site.fields_max:
        raise HttpError(431, "headers-too-large", f"over {site.fields_max} header fields")
    if len(raw) > site.field_bytes_max and max(map(len, raw.split(b"\r\n")[1:])) > site.field_bytes_max:
        raise HttpError(431, "headers-too-large", f"a header field is over {site.field_bytes_max} bytes")
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # An upgrade is an offer; a server that knows none goes on as if it had not been made (RFC 9110 7.8).
    except httptools.HttpParserInvalidMethodError:
        raise HttpError(501, "not-implemented", "the method is not one that this server knows") from None
    except httptools.HttpParserError as error:
        if "overflow" in str(error):
            raise HttpError(413, "payload-too-large", "Content-Length is over every bound") from None
        raise bad(f"the head is malformed: {error}") from None
    if not collector.complete or len(collector.fields) != lines - 2:
        raise bad("the head is malformed")
    return collector.fields


_keys: dict[bytes, tuple[str, str]] = {}


def _names(name: bytes) -> tuple[str, str]:
    """A header name (a token, as llhttp checked) in capitals, and its environ key."""
    names = _keys.get(name)
    if names is None:
        upper = name.decode("ascii").upper()
        mapped = upper.replace("-", "_")
        names = upper, mapped if upper in ("CONTENT-TYPE", "CONTENT-LENGTH") else "HTTP_" + mapped
        if len(_keys) >= NAMES_CACHED_MAX:
            _keys.clear()
        _keys[name] = names
    return names


def _add_fields(environ: dict[str, Any], fields: list[tuple[bytes, bytes]], site: Site) -> None:
    """Fields into the environ, as gunicorn does it: repeated ones joined, underscores and schemes by its settings."""
    scheme = None
    for name, raw_value in fields:
        value = raw_value.decode("latin-1").strip(" \t")
        upper, key = _names(name)
        if "_" in upper and not (upper in site.forwarder_headers or "*" in site.forwarder_headers):
            if site.header_map == "drop":
                continue
            if site.header_map != "dangerous":
                raise bad("an underscore in a header's name")
        if upper in site.scheme_headers:
            said = "https" if value == site.scheme_headers[upper] else "http"
            if scheme not in (None, said):
                raise bad("two headers contradict each other about the scheme")
            scheme = environ["wsgi.url_scheme"] = said
        if upper == "SCRIPT_NAME" and upper in site.forwarder_headers:
            environ["SCRIPT_NAME"] = value
        if key in environ:
            if key in _SINGLETONS:
                raise bad(f"the header {upper.title()} stands twice")
            environ[key] += "," + value
        else:
            environ[key] = value


def _set_target(environ: dict[str, Any], target: bytes, method: str) -> None:
    """PATH_INFO and QUERY_STRING (PEP 3333): origin-form, absolute-form, or ``OPTIONS *`` (RFC 9112 section 3.2)."""
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            if b"@" in absolute[1] or not _HOST.fullmatch(absolute[1]):
                raise bad("the target names no valid host")
            if "HTTP_HOST" in environ:
                environ["HTTP_HOST"] = absolute[1].decode("latin-1")
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        elif target == b"*" and method == "OPTIONS":
            target = b""
        elif method == "CONNECT":
            raise HttpError(501, "not-implemented", "CONNECT is a proxy's method")
        else:
            raise bad("the target is neither a path nor an absolute URI")
    if b"#" in target:
        raise bad("a fragment in the target")
    path, _, query = target.partition(b"?")
    script = environ["SCRIPT_NAME"].encode("latin-1")
    if not path.startswith(script):
        raise HttpError(500, "internal", "the path does not start with SCRIPT_NAME")
    path = path[len(script) :]
    environ["PATH_INFO"] = (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1")
    environ["QUERY_STRING"] = query.decode("latin-1")


def _set_host(environ: dict[str, Any], site: Site, *, http10: bool) -> None:
    host = environ.get("HTTP_HOST")
    if host is None:
        if not http10:
            raise bad("HTTP/1.1 needs a Host header (RFC 9112 section 3.2)")
        return
    if not _HOST.fullmatch(host.encode("latin-1")):
        raise bad("the Host header is not a host")
    if site.unix:
        # A unix socket has no name or port of its own: what the client calls the server is the best there is.
        name, colon, port = host.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = host, ""
        environ["SERVER_NAME"] = name or "localhost"
        environ["SERVER_PORT"] = port or ("443" if environ["wsgi.url_scheme"] == "https" else "80")


def _length(environ: dict[str, Any], *, http10: bool) -> int:
    """Bytes of the body; -1 where it is chunked."""
    length, coding = environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if length is not None:
            raise bad("Content-Length beside Transfer-Encoding (RFC 9112 section 6.3)")
        if http10:
            raise bad("Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1)")
        codings = [part.strip(" \t").lower() for part in coding.split(",")]
        if codings.count("chunked") > 1 or "" in codings or ("chunked" in codings and codings[-1] != "chunked"):
            raise bad("chunked is not the last coding, or stands twice (RFC 9112 section 6.1)")
        if codings != ["chunked"]:
            raise HttpError(501, "not-implemented", "the only transfer coding is chunked")
        return -1
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()):
        raise bad("Content-Length is not a number")
    return int(length) if len(length.lstrip("0")) <= LENGTH_DIGITS_MAX else 10**LENGTH_DIGITS_MAX


def _mode(connection: str | None, *, http10: bool) -> int:
    options = [part.strip(" \t") for part in connection.lower().split(",")] if connection else []
    if "close" in options:
        return CLOSE
    if http10:
        return KEEP_ALIVE_10 if "keep-alive" in options else CLOSE
    return KEEP_ALIVE


def _expects(environ: dict[str, Any], *, http10: bool) -> bool:
    """Whether the client waits for 100 Continue (RFC 9110 section 10.1.1)."""
    expectation = environ.get("HTTP_EXPECT")
    if expectation is None or http10:
        return False
    if expectation.lower() != "100-continue":
        raise HttpError(417, "expectation-failed", "the only expectation is 100-continue")
    return True


_DATA, _DATA_END, _SIZE, _TRAILERS, _DONE = range(5)


class ChunkedBody:
    """Decodes ``Transfer-Encoding: chunked`` (RFC 9112 section 7.1) as it arrives; trailers are checked and dropped.

    After ``feed`` returned True, ``stream`` holds the body, positioned at its start, and ``rest`` the bytes behind it.
    """

    __slots__ = ("_bytes_max", "_left", "_step", "_trailer_bytes", "rest", "size", "stream")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._left = 0
        self._step = _SIZE
        self._trailer_bytes = 0
        self.rest = b""
        self.size = 0
        self.stream = io.BytesIO()

    def feed(self, data: bytes) -> bool:
        """Take bytes; True once the body is complete. Raises HttpError: bad framing (400), over the bound (413)."""
        if self.rest:
            data, self.rest = self.rest + data, b""
        at = 0
        while self._step != _DONE:
            if self._step == _DATA:
                piece = data[at : at + self._left]
                self.stream.write(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    return False
                self._step = _DATA_END
            end = self._line_end(data, at)
            if end < 0:
                self.rest = data[at:]
                return False
            self._take_line(data[at:end])
            at = end + 2
        self.rest = data[at:]
        self.stream.seek(0)
        return True

    def _line_end(self, data: bytes, at: int) -> int:
        """Where the line at ``at`` ends, or -1 where its end has not arrived."""
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
            if match is None or len(match[1]) > CHUNK_SIZE_DIGITS_MAX:
                raise bad("a chunk's size is not a hexadecimal number")
            self._left = int(match[1], 16)
            self.size += self._left
            if self.size > self._bytes_max:
                raise too_large(self._bytes_max)
            self._step = _DATA if self._left else _TRAILERS
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > TRAILER_BYTES_MAX or not _TRAILER.fullmatch(line):
                raise bad("the trailers are malformed, or too long")
        else:
            self._step = _DONE
