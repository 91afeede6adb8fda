"""Early answers: what the application says to a request whose body has not all arrived.

What lives here: the call of ``before_body``, and its answer as bytes. What must not: when it is called
(``wsgi.server.connection``), or what it decides.

An application object may have an attribute ``before_body``: a callable that takes the environ, in which
``wsgi.input`` is empty, and returns None, to have the body received and the application called as usual, or
``(status, headers, body)`` of the answer: the first two as for ``start_response`` (PEP 3333), and bytes. It must not
block, and must not raise. So a body that nobody wants is neither asked for (``100 Continue``) nor kept.

A chunked body counts as not all there, so the application may be asked, and then called, in one turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsgi.server.refusal import HttpError
from wsgi.server.shared import ServerState

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


def early_of(server: ServerState, app: Any) -> Early | None:
    """Return what asks ``app``, or None if it has no ``before_body``."""
    ask = getattr(app, "before_body", None)
    return Early(server, ask) if callable(ask) else None
