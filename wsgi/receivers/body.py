"""The body of a request, read to its end and no further: every case but a plain Content-Length within its bound.

What lives here: lengths, chunked bodies, and what is wrong with either. What must not: content codings
(``wsgi.receivers.decompress``), what a body holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsgi.problems import ClientError

LENGTH_DIGITS_MAX = 18
"""A Content-Length of more digits is over every bound; int() of a longer one costs time."""


def read_body(environ: dict[str, Any], bytes_max: int, spent: Callable[[int], object] | None = None) -> bytes:
    """Return the whole body (PEP 3333 ``wsgi.input``), at most ``bytes_max`` bytes.

    ``spent`` is called with what was read of a chunked body that is refused here.

    Raises ClientError: ``length-required`` without Content-Length or chunked coding (RFC 9110 section 15.5.12),
    ``payload-too-large`` over the bound, before a byte is read where the length is given, ``malformed-payload`` where
    the body is cut short or its framing is broken.
    """
    length = environ.get("CONTENT_LENGTH")
    if length:
        if not length.isdecimal():
            raise ClientError("malformed-payload", "Content-Length is not a number")
        length = length.lstrip("0") or "0"
        if len(length) > LENGTH_DIGITS_MAX or int(length) > bytes_max:
            raise too_large(bytes_max)
    # wsgi.input_terminated: the server ends the stream where the body ends (chunked coding, RFC 9112 section 7.1).
    elif not (environ.get("HTTP_TRANSFER_ENCODING") and environ.get("wsgi.input_terminated")):
        raise ClientError("length-required", "send Content-Length, or Transfer-Encoding: chunked")
    bound = int(length) if length else bytes_max + 1
    read = environ["wsgi.input"].read
    pieces: list[bytes] = []
    size = 0
    try:
        while size < bound and (piece := read(bound - size)):
            pieces.append(piece)
            size += len(piece)
    except Exception as error:
        # Servers raise what they like here: gunicorn's own exceptions derive from none of the usual ones.
        if spent is not None and not length:
            spent(size)
        raise unreadable(error) from None
    if length and size < bound:
        raise cut_short(size, bound)
    if size > bytes_max:
        if spent is not None:
            spent(size)
        raise too_large(bytes_max)
    return b"".join(pieces)


def too_large(bytes_max: int) -> ClientError:
    """Return the error of a body over its bound, as it came or decoded."""
    return ClientError("payload-too-large", f"the body is over {bytes_max} bytes, or would be when decoded")


def cut_short(size: int, expected: int) -> ClientError:
    """Return the error of a body that ended before its Content-Length."""
    return ClientError("malformed-payload", f"the body ended after {size} of {expected} bytes")


def unreadable(error: Exception) -> ClientError:
    """Return the error of a body whose stream raised; ``error`` is the server's, so only its kind is named."""
    return ClientError("malformed-payload", f"the body cannot be read: {type(error).__name__}")
