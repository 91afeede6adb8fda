"""Refusals: requests that the server answers without the application.

What lives here: the exception that carries one, and how it is rendered when nobody hands in another function. What must
not: when to refuse, or any sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

Refuse = Callable[[int, str, dict[str, Any]], tuple[str, list[tuple[str, str]], bytes]]
"""(HTTP status, detail in one sentence, environ) -> (status line such as "400 Bad Request", headers, body).

It is called once for each request that is answered without the application, or with 500 because the application raised.
``environ`` is what is known of the request. Of one whose head is valid, it is the environ (PEP 3333) without
``wsgi.input``. Otherwise it has what could be read of the head, and nothing of it is checked: REMOTE_ADDR, REMOTE_PORT,
REQUEST_METHOD, RAW_URI, PATH_INFO, QUERY_STRING, and SERVER_PROTOCOL, each "-" where it could not be read, and HTTP_*.
The server adds Date, Server, Content-Length and ``Connection: close``, and ``Retry-After: 1`` to a 503 without one."""


class HttpError(Exception):
    """Carry a refusal: ``status`` is the HTTP status (RFC 9110 section 15), ``detail`` one sentence for a person."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def bad(detail: str) -> HttpError:
    """Make a 400: the client's fault, and sending the same again cannot help."""
    return HttpError(400, detail)


def too_large(bytes_max: int) -> HttpError:
    """Make a 413: the body is over ``bytes_max``, or says that it will be."""
    return HttpError(413, f"the body is over {bytes_max} bytes")


def refuse_as_text(status: int, detail: str, environ: object = None) -> tuple[str, list[tuple[str, str]], bytes]:
    """Render a refusal as plain text; see ``Refuse``."""
    line = f"{status} {HTTPStatus(status).phrase}"
    return line, [("Content-Type", "text/plain; charset=utf-8")], f"{detail}\n".encode()
