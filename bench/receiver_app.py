"""The application of the stages of ``bench.receivers``: a receiver, cut off after the stage that BENCH_STAGE names.

What lives here: the cuts, as ``<receiver>:<stage>``. What must not: measuring. Every stage does all that the ones
before it do, and answers with its protocol's status of success.
"""

from __future__ import annotations

import http
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import cramjam
import ujson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench.shippers import ELASTIC, LOKI, OTLP, PATHS, STATUS
from inlet.stream.limits import RecordLimits
from wsgi.receivers.admission import OPEN
from wsgi.receivers.application import Application
from wsgi.receivers.catalog import mount
from wsgi.receivers.foreign import Foreign
from wsgi.receivers.interfaces import Addresses, Ticket
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.receivers.slices import finish

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LINE = b'["","","","",{}]'


class _Address(NamedTuple):
    entry_id: str = "1-0"
    line: int = 0
    duplicate: bool = False


class _Stored:
    """The Ticket of records that are stored nowhere: its commit is done."""

    level = 1

    def __init__(self, lines: list[bytes]) -> None:
        self._count = len(lines)

    def future(self, watch: object) -> None:
        """There is nothing to wait for."""

    def begin(self, watch: object) -> None:
        """It is done."""

    def commit(self) -> None:
        """It is done."""

    def addresses(self) -> Addresses:
        """Return one for each record."""
        return [_ADDRESS] * self._count


_ADDRESS = _Address()


def store_nothing(lines: list[bytes], level: int, destination: bytes | None = None) -> Ticket:
    """Append nothing; return a ticket whose commit is done."""
    return _Stored(lines)


Work = Callable[[dict[str, Any], bytes], object]


def _server(environ: dict[str, Any], body: bytes) -> None:
    """The body is read, and that is all."""


def _otlp(environ: dict[str, Any], body: bytes) -> object:
    return ExportLogsServiceRequest.FromString(body)


def _elastic(environ: dict[str, Any], body: bytes) -> object:
    return [ujson.loads(line) for line in body.split(b"\n") if line]


def _loki(environ: dict[str, Any], body: bytes) -> object:
    return cramjam.snappy.decompress_raw(body)


DECODE: dict[str, Work] = {OTLP: _otlp, ELASTIC: _elastic, LOKI: _loki}


def _no_line(foreign: Foreign, *parts: object) -> bytes:
    """Stand in for the encoding of a record."""
    return LINE


class Cut:
    """Answers every POST after ``work``; all else is the real application's."""

    def __init__(self, work: Work, status: int, real: WSGIApplication) -> None:
        self._work, self._real = work, real
        self._status = f"{status} {http.HTTPStatus(status).phrase}"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "POST":
            return self._real(environ, start_response)
        self._work(environ, environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        start_response(self._status, [("content-length", "0")])
        return []


def make(protocol: str, stage: str) -> Any:
    """Return the application of a stage."""
    mounted = mount((protocol,), Bounds(PayloadLimits(), RecordLimits()))
    whole: Application = create_app(
        receivers=mounted.receivers,
        append=store_nothing,
        admission=OPEN,
        operator=Operator(lambda: None),
        pages=mounted.pages,
    )
    if stage == "unstored":
        return whole
    receiver = mounted.receivers[PATHS[protocol]]
    if stage == "map":
        Foreign.line = _no_line  # type: ignore[method-assign, assignment]

    def read(environ: dict[str, Any], body: bytes) -> object:
        return receiver.read(environ, body) or finish(receiver.slices(environ, body))

    work = {"server": _server, "decode": DECODE[protocol]}.get(stage, read)
    return Cut(work, STATUS[protocol], whole)


if "BENCH_STAGE" in os.environ:  # else it is imported for its parts
    application = make(*os.environ["BENCH_STAGE"].split(":"))
