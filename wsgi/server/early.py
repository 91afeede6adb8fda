"""Early answers: what the application says to a request whose body has not all arrived.

What lives here: the call of ``before_body``, its answer as bytes, and what it leaves in the environ. What must not:
when it is called (``wsgi.server.connection``), what it decides, the account of memory (``wsgi.server.held``).

An application object may have an attribute ``before_body``: a callable that takes the environ, in which
``wsgi.input`` is empty, and returns None, to have the body received and the application called as usual, or
``(status, headers, body)`` of the answer: the first two as for ``start_response`` (PEP 3333), and bytes. It must not
block, and must not raise. So a body that nobody wants is neither asked for (``100 Continue``) nor kept.

A chunked body counts as not all there, so the application may be asked, and then called, in one turn.

The environ is the dict that the application is called with later. ``before_body`` may leave in it what it likes, and
for the server OWNER and UNFINISHED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsgi.server.refusal import HttpError
from wsgi.server.shared import ServerState

OWNER = "phased.owner"
"""Environ key: whom the body belongs to, anything hashable. One owner's bodies may fill half of the memory for them."""
UNFINISHED = "phased.unfinished"
"""Environ key: a callable. It is called once, with the bytes of the body that had arrived (framing included), if the
request does not reach the application after all. It must not block, and must not raise."""

BeforeBody = Callable[[dict[str, Any]], tuple[str, list[tuple[str, str]], bytes] | None]


class Early:
    """Ask the application. ``ask``: its ``before_body``."""

    def __init__(self, server: ServerState, ask: BeforeBody) -> None:
        self._server, self._ask = server, ask

    def answer(self, environ: dict[str, Any], *, sends_body: bool) -> bytes | None:
        """Return the whole answer, after which the connection closes; None to go on. Raises HttpError (500)."""
        server = self._server
        observer, began = server.observer, server.clock
        try:
            response = self._ask(environ)
            if response is None:
                hash(environ.get(OWNER))
                return None
            status, headers, body = response
            answer = server.heads.refusal(status, headers, body, sends_body=sends_body)
            if observer is not None:
                observer.called(environ)
                observer.answered(environ, status, headers, len(body) if sends_body else 0, began)
        except Exception:
            server.log.exception("Error in before_body of %s %s", environ["REQUEST_METHOD"], environ["RAW_URI"])
            raise HttpError(500, "the application failed; the error is logged") from None
        return answer


def abandon(connection: Any) -> None:
    """Forget the request of a ``Connection`` that will not reach the application, and tell it so. Never raises."""
    server = connection.server
    server.held.free(connection, server.clock)
    environ, connection.environ, connection.body = connection.environ, None, None
    note = None if environ is None else environ.get(UNFINISHED)
    if note is not None:
        try:
            note(connection.received)
        except Exception:
            server.log.exception("Error in %s of %s %s", UNFINISHED, environ["REQUEST_METHOD"], environ["RAW_URI"])


def early_of(server: ServerState, app: Any) -> Early | None:
    """Return what asks ``app``, or None if it has no ``before_body``."""
    ask = getattr(app, "before_body", None)
    return Early(server, ask) if callable(ask) else None
