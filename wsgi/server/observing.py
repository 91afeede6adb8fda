"""What others see of a request: gunicorn's access log, and its pre_request and post_request hooks.

What lives here: gunicorn's view of a request and a response. What must not: anything that changes either. A worker that
has neither log nor hooks has no ``Observer``, and pays nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any


class Observer:
    """Call the access log and the hooks. Each argument may be None.

    ``access(response, request, environ, duration)`` is ``Logger.access``; ``pre_request(request)`` and
    ``post_request(request, environ, response)`` are the hooks without their first argument, the worker.
    """

    def __init__(
        self,
        access: Callable[..., object] | None,
        pre_request: Callable[..., object] | None,
        post_request: Callable[..., object] | None,
    ) -> None:
        self._access, self._pre_request, self._post_request = access, pre_request, post_request

    def called(self, environ: dict[str, Any]) -> None:
        """Note that the application is about to be called."""
        if self._pre_request is not None:
            self._pre_request(_request(environ))

    def answered(
        self, environ: dict[str, Any], status: str, headers: list[tuple[str, str]], sent: int, began: float
    ) -> None:
        """Note a complete response. ``sent``: bytes of its body; ``began``: when it was called (s, monotonic)."""
        response = _response(status, headers, sent)
        request = _request(environ)
        self._log(response, request, environ, began)
        if self._post_request is not None:
            self._post_request(request, environ, response)

    def refused(
        self, environ: dict[str, Any], status: str, headers: list[tuple[str, str]], sent: int, began: float
    ) -> None:
        """Note an answer of the server's own, of a request that no hook has seen. Arguments as for ``answered``."""
        self._log(_response(status, headers, sent), _request(environ), environ, began)

    def _log(self, response: SimpleNamespace, request: SimpleNamespace, environ: dict[str, Any], began: float) -> None:
        if self._access is not None:
            self._access(response, request, environ, timedelta(seconds=time.monotonic() - began))


def _response(status: str, headers: list[tuple[str, str]], sent: int) -> SimpleNamespace:
    """Return what access logs and hooks of gunicorn read of a response."""
    return SimpleNamespace(status=status, status_code=int(status[:3]), sent=sent, headers=headers)


def _request(environ: dict[str, Any]) -> SimpleNamespace:
    """Return what access logs and hooks of gunicorn read of a request."""
    minor = environ["SERVER_PROTOCOL"][-1]
    headers = [(key[5:].replace("_", "-"), value) for key, value in environ.items() if key.startswith("HTTP_")]
    return SimpleNamespace(
        method=environ["REQUEST_METHOD"], uri=environ["RAW_URI"], path=environ["PATH_INFO"],
        query=environ["QUERY_STRING"], version=(1, int(minor) if minor.isdecimal() else 1), headers=headers,
    )  # fmt: skip
