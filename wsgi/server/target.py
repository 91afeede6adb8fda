"""The request line and the authority: method, target, version, and host[:port]. Pure.

What lives here: RFC 9112 section 3 and the authority of RFC 3986 section 3.2, into the environ. What must not: header
fields in general (``wsgi.server.fields``), sockets, clocks.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from wsgi.server.refusal import HttpError, bad

METHODS = frozenset((
    "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH",
    "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK",
    "UNLOCK", "UNSUBSCRIBE",
))  # fmt: skip
"""The methods that an application gets to see: those of the IANA registry that are in use, and a few older ones."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_TARGET = re.compile(rb"[/*].*|[A-Za-z]+://[A-Za-z0-9!$%&'()*+,\-.:;=@_~\[\]]*(?:[/?].*)?")
"""The start of each form of a target but CONNECT's; what follows depends on the form."""
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


class RequestLine(NamedTuple):
    """What a request line whose target is a path says. ``text``: the line itself; ``target`` as it was sent."""

    text: str
    method: str
    target: str
    version: str
    path: str
    query: str
    http10: bool


def ordinary_request_line(text: str, script: str) -> RequestLine | None:
    """Return what a line without control characters says if it is an ordinary one, else None. ``script``: SCRIPT_NAME.

    It takes less than ``split_request_line``, ``check_request`` and ``set_target`` together, and nothing that they
    would not.
    """
    parts = text.split(" ")
    if len(parts) != 3:
        return None
    method, target, version = parts
    http10 = version == "HTTP/1.0"
    if not (http10 or version == "HTTP/1.1") or method not in METHODS or not target.startswith("/"):
        return None
    path, _, query = target.partition("?")
    if "#" in target or not target.isascii() or not path.startswith(script):
        return None
    return RequestLine(text, method, target, version, unquote(path[len(script) :]), query, http10)


def check_request(method: str, target: bytes) -> None:
    """Refuse a method that is not served, and a target of no form. Raises HttpError (400, 501)."""
    if method not in METHODS:
        raise HttpError(501, "the method is not one that this server knows")
    if method != "CONNECT" and _TARGET.fullmatch(target) is None:
        raise bad("the target is neither a path nor an absolute URI")


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
    environ["PATH_INFO"] = unquote(path[len(script) :].decode("latin-1"))
    environ["QUERY_STRING"] = query.decode("latin-1")


def unquote(path: str) -> str:
    """Decode the percent-encoded bytes of a path (RFC 3986 section 2.1), as PEP 3333 wants them: as Latin-1."""
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path


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
