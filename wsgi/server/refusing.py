"""Refusing a request: what is known of it, the answer, and its line in the access log.

What lives here: ``refusal``, and the reading of a head that cannot be served. What must not: when to refuse, how an
answer looks (``wsgi.server.refusal``), sockets.

A head that was refused has no environ, but its sender will ask what became of it. So as much as can be read is read,
for whoever renders the answer and for the access log. It is not checked, and decides nothing.
"""

from __future__ import annotations

import re
from typing import Any

from wsgi.server.head import NoHead
from wsgi.server.names import environ_key
from wsgi.server.refusal import HttpError, refuse_as_text
from wsgi.server.states import BODY, HEAD
from wsgi.server.target import METHODS, unquote

UNKNOWN = "-"
"""Stands for a part of the request line that could not be read, as in access logs."""
READ_BYTES_MAX = 16_384
"""Bytes of a refused head that are read: ordinary heads are far shorter, and a flood of long ones costs no more."""
FIELDS_READ_MAX = 100
"""Fields of a refused head that are read: as many as gunicorn takes by default."""
TARGET_CHARS_MAX = 1_024
"""Characters of a target that was too long, or not complete: a line of the log should stay one that people read."""

_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_LINE = re.compile(rf"({_TCHAR}{{1,32}}) (.+) (HTTP/[0-9]\.[0-9])")
_BEGINNING = re.compile(r"([A-Z-]{3,32}) (/[^ ]*)")
"""A request line that is too long, cut short, or of no version. Other bytes may be a body, which nobody may log."""
_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+")


def refusal(connection: Any, error: HttpError) -> bytes:
    """Return the whole answer, rendered as text if the function that was handed in fails. Never raises.

    ``connection``: the ``Connection`` whose request it is, in the state in which the fault was found. An answer to HEAD
    has no body, though its head is not parsed.
    """
    server, exchange = connection.server, connection.exchange
    server.log.debug("refused: %d: %s", error.status, error.detail)
    head = exchange.head
    sends_body = head.sends_body and not (head is NoHead and connection.inbox.starts_with(b"HEAD "))
    environ = known(connection)
    answer: bytes
    try:
        status, headers, body = server.refuse(error.status, error.detail, environ)
        answer = server.heads.refusal(status, headers, body, sends_body=sends_body)
    except Exception:
        server.log.exception("Error rendering a refusal")
        status, headers, body = refuse_as_text(error.status, error.detail)
        answer = server.heads.refusal(status, headers, body, sends_body=sends_body)
    if server.observer is not None:
        try:
            began = exchange.began or _began(connection)
            server.observer.refused(environ, status, headers, len(body) if sends_body else 0, began)
        except Exception:
            server.log.exception("Error in the access log")
    return answer


def _began(connection: Any) -> float:
    """Return when the request, or its body, began to arrive (s, monotonic)."""
    if connection.state == BODY:
        began = connection.started
    else:
        began = connection.since if connection.state == HEAD else connection.server.clock
    return float(began)


def known(connection: Any) -> dict[str, Any]:
    """Return what is known of the request that is being refused, as keys of an environ; see ``Refuse``."""
    head, inbox = connection.exchange.head, connection.inbox
    environ: dict[str, Any]
    if (whole := connection.environ or head.template or head.environ) is not None:
        environ = whole.copy()
    elif head is not NoHead:  # The application has the environ, and failed.
        environ = _line(head.method, head.uri, "HTTP/1.0" if head.http10 else "HTTP/1.1")
    else:
        environ = read(bytes(inbox.partial or inbox.data[inbox.at : inbox.at + READ_BYTES_MAX]))
    environ["REMOTE_ADDR"] = connection.remote_addr
    environ["REMOTE_PORT"] = connection.remote_port
    return environ


def read(raw: bytes) -> dict[str, Any]:
    """Return what a head says that may be incomplete, or none at all. Never raises."""
    first, *lines = raw[:READ_BYTES_MAX].decode("latin-1").split("\n")
    match = _LINE.fullmatch(first.rstrip("\r"))
    if match is not None:
        environ = _line(match[1], match[2], match[3])
    elif (match := _BEGINNING.match(first.rstrip("\r"))) is not None and match[1] in METHODS:
        environ = _line(match[1], match[2], UNKNOWN)
    else:
        return _line(UNKNOWN, UNKNOWN, UNKNOWN)
    del lines[-1:]  # It is not complete.
    for line in lines[:FIELDS_READ_MAX]:
        name, colon, value = line.rstrip("\r").partition(":")
        if not name:
            break
        if colon and _NAME.fullmatch(name) is not None:
            key, value = environ_key(name.upper()), value.strip(" \t")
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _line(method: str, target: str, version: str) -> dict[str, Any]:
    if len(target) > TARGET_CHARS_MAX:
        target = target[:TARGET_CHARS_MAX] + "..."
    path, _, query = target.partition("?")
    return {
        "REQUEST_METHOD": method, "RAW_URI": target, "PATH_INFO": unquote(path), "QUERY_STRING": query,
        "SERVER_PROTOCOL": version,
    }  # fmt: skip
