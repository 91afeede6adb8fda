"""The application of ``bench.stages``: Inlet's own request, cut off after the stage that BENCH_STAGE names.

What lives here: the cuts. What must not: measuring. Every stage does all that the ones before it do, and answers 202.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import ujson

from bench.micro import store_nothing
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder
from wsgi.receivers.admission import OPEN
from wsgi.receivers.application import Application
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import QUEUED, Native
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import INGEST, create_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

STATUS = "202 Accepted"
HEADERS = [("content-type", "application/json"), ("content-length", str(len(QUEUED)))]
MEMBERS = "event_id", "timestamp", "service", "message", "metadata"

Work = Callable[[dict[str, Any], bytes], object]


def _server(environ: dict[str, Any], body: bytes) -> None:
    """The body is read, and that is all."""


def _loads(environ: dict[str, Any], body: bytes) -> Any:
    return ujson.loads(body)


def _dumps(environ: dict[str, Any], body: bytes) -> bytes:
    value = ujson.loads(body)
    return ujson.dumps([value[name] for name in MEMBERS], False, False, False).encode()


_encode = encoder(RecordLimits())


def _checked(environ: dict[str, Any], body: bytes) -> bytes:
    return _encode(ujson.loads(body))


NATIVE = Native(PayloadLimits(), RecordLimits())
WORK: dict[str, Work] = {
    "server": _server,
    "loads": _loads,
    "dumps": _dumps,
    "checked": _checked,
    "read": NATIVE.read,
}


class Stage:
    """Answers every POST after ``work``; all else is the real application's."""

    def __init__(self, work: Work, real: WSGIApplication) -> None:
        self._work, self._real = work, real

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "POST":
            return self._real(environ, start_response)
        self._work(environ, environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        start_response(STATUS, HEADERS)
        return [QUEUED]


def _unstored() -> Application:
    return create_app(
        receivers={INGEST: NATIVE},
        append=store_nothing,
        admission=OPEN,
        operator=Operator(lambda: None),
    )


_stage = os.environ["BENCH_STAGE"]
application: Any = _unstored() if _stage == "unstored" else Stage(WORK[_stage], _unstored())
