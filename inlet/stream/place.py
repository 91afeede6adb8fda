"""Where the stream is: the store's URL and the stream's key, from the environment that producers and consumers share.

What lives here: the rules for ``REDIS_URL``, ``INLET_DATA_DIR`` and ``INLET_STREAM``, and the embedded store's socket.
What must not: connections, other settings (``wsgi.settings``), reading ``os.environ`` (callers pass it).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from inlet.stream.errors import InletError

SOCKET_NAME = "valkey.sock"
"""File name of the embedded store's socket within ``INLET_DATA_DIR``."""
SOCKET_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107
"""Bytes: what ``sun_path`` of a unix socket's address holds, less the closing NUL (unix(7))."""
STREAM_CHARS_MAX = 256
"""Characters of the stream's key: a name, not a text."""
STREAM_DEFAULT = "logs"
"""The stream's key unless ``INLET_STREAM`` names another."""
DATA_DIR_DEFAULT = "data"
"""The embedded store's directory unless ``INLET_DATA_DIR`` names another."""

_SCHEMES = ("redis", "rediss", "unix")
# redis-py takes any option from the query, and lets it win over what its caller sets: deadlines and retries among them.
_URL_OPTION = re.compile(r"db|client_name|ssl_\w+")
_STREAM = re.compile(r"[!-z|~]+")
_HOST_AND_PORT = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:/\d*)?", re.ASCII)


class PlaceError(InletError):
    """A variable that says where the stream is has a value that cannot be used."""

    reason = "settings"


class Place(NamedTuple):
    """Where the stream is: the store's URL (``redis://``, ``rediss://`` or ``unix://``) and the stream's key."""

    url: str
    stream: str


def from_environment(environ: Mapping[str, str]) -> Place:
    """Return the place that REDIS_URL, INLET_DATA_DIR and INLET_STREAM name; an empty value counts as unset.

    Raises PlaceError with the variable, its value, and how to fix it.
    """
    url = environ.get("REDIS_URL") or None
    stream = environ.get("INLET_STREAM") or STREAM_DEFAULT
    directory = Path(os.path.abspath(environ.get("INLET_DATA_DIR") or DATA_DIR_DEFAULT))
    if url is not None and (fault := url_fault(url)) is not None:
        raise PlaceError(f"REDIS_URL={redacted(url)!r} {fault}")
    if (fault := stream_fault(stream)) is not None:
        raise PlaceError(f"INLET_STREAM={stream!r} {fault}")
    if url is None and (fault := data_dir_fault(directory)) is not None:
        raise PlaceError(f"INLET_DATA_DIR={str(directory)!r} {fault}")
    return Place(url or embedded_url(directory), stream)


def embedded_url(data_dir: Path) -> str:
    """Return the ``unix://`` URL of the embedded store's socket in ``data_dir``, its path percent-encoded."""
    return "unix://" + quote(str(data_dir / SOCKET_NAME))


def redacted(url: str) -> str:
    """Return ``url`` without user, password and query, even if it is not a valid URL: for logs and errors."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    if scheme == "unix" and rest.startswith("/"):
        return scheme + separator + rest.partition("?")[0]
    userinfo, at, address = rest.rpartition("@")
    address, question, _ = address.partition("?")
    # Without an "@" this may be a password whose host was forgotten; without a scheme, anything.
    shown = _HOST_AND_PORT.fullmatch(address) and (separator or at or ":" in address)
    hidden = "***@" if userinfo or at else ""
    return scheme + separator + hidden + (address if shown else "***") + ("?***" if question else "")


def stream_fault(stream: str) -> str | None:
    """Return what is wrong with a stream's name and how to fix it, or None."""
    if len(stream) > STREAM_CHARS_MAX or not _STREAM.fullmatch(stream):
        return f"must be 1 to {STREAM_CHARS_MAX} printable ASCII characters without spaces or braces; try 'logs'"
    return None


def data_dir_fault(data_dir: Path) -> str | None:
    """Return why the embedded store's socket cannot be in ``data_dir`` and how to fix it, or None."""
    length = len(os.fsencode(data_dir / SOCKET_NAME))
    if length > SOCKET_PATH_BYTES_MAX:
        return (
            f"makes the path of the store's socket {length} bytes long; name a directory that keeps"
            f" /{SOCKET_NAME} within {SOCKET_PATH_BYTES_MAX} bytes"
        )
    return None


def url_fault(url: str) -> str | None:
    """Return what is wrong with a REDIS_URL and how to fix it, or None."""
    # urlsplit would drop some of these silently.
    if not url.isprintable() or " " in url:
        return "holds a space or a control character; write %20 and the like"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL; write redis://HOST:6379/0, and percent-encode the password"
    if parts.scheme not in _SCHEMES or not url.partition(":")[2].startswith("//"):
        return "must begin with redis://, rediss:// or unix://; write redis://HOST:6379/0"
    if parts.fragment:
        return "holds a '#'; write %23"
    if parts.scheme == "unix":
        if parts.hostname or len(parts.path) < 2:
            return "must name an absolute path; write unix:///PATH/TO/SOCKET"
    elif not parts.hostname or port == 0:
        return "names no host, or port 0; write redis://HOST:6379/0"
    elif not re.fullmatch(r"(/\d{0,9})?", parts.path, re.ASCII):
        return "names a database that is not a number; write redis://HOST:6379/0, and percent-encode the password"
    options = parse_qsl(parts.query, keep_blank_values=True)
    if not all(_URL_OPTION.fullmatch(name) for name, _ in options):
        return "has an option other than db, client_name and ssl_*; take it out (deadlines are INLET_*_TIMEOUT_MS)"
    if any(name == "db" and not re.fullmatch(r"\d{1,9}", value, re.ASCII) for name, value in options):
        return "names a database that is not a number; write ?db=0"
    return None
