"""Request ids: taken from ``X-Request-Id`` where it is sane, else made.

What lives here: what is sane, and how one is made. What must not: where ids are written (the pipeline, the log).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

FIELD = "x-request-id"
"""Header field of every answer; always the last one, so that a server can keep what comes before it."""
REQUEST_ID_CHARS_MAX = 128
"""Characters of an id that is taken: longer than any that proxies make, and short enough for every log line."""

# No quote, no space, no control character: it stands as it is in a header, in JSON and in a log line.
_SANE = re.compile(rf"[A-Za-z0-9._~+/=:@-]{{1,{REQUEST_ID_CHARS_MAX}}}")
_is_sane = _SANE.fullmatch


def _maker() -> Callable[[], str]:
    """Return what makes ids of this process: 64 random bits, and a count. They are unique, not secret.

    PERF: no step of it is in Python (bench/micro.py: app).
    """
    return map(f"{os.urandom(8).hex()}-%x".__mod__, itertools.count(1)).__next__


def _start_anew() -> None:
    """In a forked child: make no id that the parent makes."""
    global _make
    _make = _maker()


_make = _maker()
os.register_at_fork(after_in_child=_start_anew)


def request_id(environ: WSGIEnvironment | None = None) -> str:
    """Return the id of a request; without ``environ``, of one that no application saw."""
    given = environ.get("HTTP_X_REQUEST_ID") if environ is not None else None
    return given if given is not None and _is_sane(given) else _make()
