"""What the tests of the receivers share: an application over a small sink in memory, one request, and its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

from inlet.stream.errors import InletError
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder
from wsgi import metrics
from wsgi.problems import PROBLEMS, SinkError
from wsgi.receivers.admission import OPEN, Admission
from wsgi.receivers.application import Application
from wsgi.receivers.body import read_body
from wsgi.receivers.decompress import decompress
from wsgi.receivers.interfaces import Ticket
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejection, Rejections
from wsgi.receivers.pipeline import Endpoint
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import INGEST, create_app, create_routes
from wsgi.receivers.slices import finish
from wsgi.sink.durability import STORED

Headers = list[tuple[str, str]]
NDJSON = "application/x-ndjson"
LIMITS = PayloadLimits()
encode = encoder(RecordLimits())


def record(event_id: str = "e-1", **members: Any) -> dict[str, Any]:
    """A valid record, with ``members`` in place of or beside its own."""
    own = {"event_id": event_id, "timestamp": "2026-01-31T23:59:59Z", "service": "api", "message": "m", "metadata": {}}
    return {**own, **members}


def body_of(value: object) -> bytes:
    """Compact JSON, in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode()


ONE = body_of(record())
LINE = encode(record())


class MemoryAddress(NamedTuple):
    """Where a record is stored."""

    entry_id: str
    line: int
    duplicate: bool = False


class MemoryTicket:
    """A request's place in a MemorySink."""

    def __init__(self, sink: MemorySink, lines: list[bytes], level: int) -> None:
        self._sink, self._lines, self.level = sink, lines, max(level, STORED)

    def future(self, watch: object) -> Future[None]:
        """Return a future that is done."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def begin(self, watch: object) -> object | None:
        """Say that the outcome is known."""
        return None

    def commit(self) -> None:
        """Store the lines, or raise what the sink is to raise."""
        self._sink.order.append("commit")
        if self._sink.commit_error is not None:
            raise self._sink.commit_error()
        self._sink.stored += self._lines

    def addresses(self) -> list[MemoryAddress]:
        """One entry for all."""
        return [MemoryAddress("1-0", line) for line in range(len(self._lines))]


@dataclass
class MemorySink:
    """A sink without a store: what it was given, and what it is to raise."""

    appended: list[tuple[list[bytes], int]] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    append_error: Callable[[], Exception] | None = None
    commit_error: Callable[[], Exception] | None = None
    not_ready: SinkError | None = None

    def append(self, lines: list[bytes], level: int, destination: bytes | None = None) -> Ticket:
        """Keep the lines, or raise."""
        self.order.append("append")
        if self.append_error is not None:
            raise self.append_error()
        self.appended.append((lines, level))
        return MemoryTicket(self, lines, level)


@dataclass
class Reply:
    """What a server was told for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def application(
    sink: MemorySink, *, direct: bool = True, limits: PayloadLimits = LIMITS, admission: Admission = OPEN
) -> Application:
    """Inlet's application over ``sink``; not ``direct``: every request is routed by Falcon."""
    native, operator = Native(limits, RecordLimits()), Operator(lambda: sink.not_ready)
    if direct:
        return create_app(
            receivers={INGEST: native}, append=sink.append, admission=admission, operator=operator
        )  # fmt: skip
    endpoint = Endpoint(native, sink.append, admission)
    return Application(create_routes({INGEST: endpoint}, operator), {})


def environ(body: bytes = b"", path: str = INGEST, method: str = "POST", **more: Any) -> dict[str, Any]:
    """An environ as the phased server makes it; ``more`` in capitals, None to leave one out."""
    made = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)), "HTTP_HOST": "localhost", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body), "wsgi.errors": None, "wsgi.multithread": False, "wsgi.multiprocess": True,
        "wsgi.run_once": False, **more,
    }  # fmt: skip
    return {name: value for name, value in made.items() if value is not None or name == "wsgi.errors"}


class Told:
    """A server's ``start_response`` that keeps what it was told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, Headers]] = []

    def __call__(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        self.answers.append((status, headers))
        return lambda data: None


def ask(app: Any, env: dict[str, Any]) -> Reply:
    """One request, whole: called, iterated, closed."""
    told = Told()
    result = app(env, told)
    body = b"".join(result)
    if hasattr(result, "close"):
        result.close()
    ((status, headers),) = told.answers
    assert len({name.lower() for name, _ in headers}) == len(headers)
    return Reply(int(status.split()[0]), dict(headers), body)


def refused(reply: Reply, reason: str) -> dict[str, Any]:
    """Check a problem document; return it."""
    row = PROBLEMS[reason]
    problem: dict[str, Any] = reply.json
    assert (reply.status, problem["reason"]) == (row.status, reason), problem
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["content-length"] == str(len(reply.body))
    assert (problem["status"], problem["title"], problem["retryable"]) == (row.status, row.title, row.retryable)
    assert problem["type"] == f"urn:inlet:problem:{reason}"
    assert problem["detail"].isprintable()
    return problem


RECEIVERS_OWN = ("inlet_requests", "inlet_records_rejected", "inlet_unknown_members")
"""Metrics that receivers move. The others belong to the sink, whose threads of earlier tests may still run."""


def counted() -> dict[str, float]:
    """Every sample of the receivers' metrics that is not zero, as the exposition names it."""
    lines = [line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")]
    samples = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    own = {name: value for name, value in samples.items() if name.startswith(RECEIVERS_OWN)}
    return {name: value for name, value in own.items() if value and "_created" not in name}


def moved(before: dict[str, float]) -> dict[str, float]:
    """What was counted since ``before``."""
    return {name: value - before.get(name, 0) for name, value in counted().items() if value != before.get(name, 0)}


class Read(NamedTuple):
    """What a body holds: a Parsed, its rejections as a list of those that have words."""

    lines: list[bytes]
    rejections: list[Rejection]
    unknown: int
    context: Any


Parse = Callable[..., Read]
Outcome = tuple[list[bytes], list[Rejection], InletError | None]


def seen(parsed: Parsed) -> Read:
    """A Parsed as a Read."""
    rejections = parsed.rejections
    assert rejections is None or rejections
    return Read(parsed.lines, rejections.kept if rejections else [], parsed.unknown, parsed.context)


def account(read: Callable[[], Parsed | None]) -> tuple[object, ...] | None:
    """Everything that reading a body came to, an error included, so that two ways can be compared."""
    try:
        parsed = read()
    except NothingAccepted as error:
        return type(error), error.reason, error.detail, told(error.rejections)
    except InletError as error:
        return type(error), error.reason, error.detail
    return parsed and (parsed.lines, told(parsed.rejections), parsed.unknown, parsed.context)


def told(rejections: Rejections | None) -> tuple[object, ...] | None:
    """All that a Rejections holds."""
    return None if rejections is None else (rejections.kept, rejections.counts, list(rejections.indexes))


def parser(limits: PayloadLimits = LIMITS, record_limits: RecordLimits | None = None) -> Parse:
    """The way of a body through the pipeline to the native receiver: its bound, its coding, its records.

    Whatever can be read at once is read in slices as well, and must come to the same.
    """
    native = Native(limits, record_limits or RecordLimits())

    def parse(body: bytes, content_type: str | None, coding: str | None) -> Read:
        env = environ(body, CONTENT_TYPE=content_type)
        body = read_body(env, limits.payload_bytes_max)
        if coding:
            body = finish(decompress(body, coding, limits.payload_bytes_max))
        at_once = account(lambda: native.read(env, body))
        assert at_once is None or at_once == account(lambda: finish(native.slices(env, body)))
        return seen(finish(native.slices(env, body)))

    return parse


parse = parser()


def parse_with(**bounds: int) -> Parse:
    """``parse`` with these bounds on a body."""
    return parser(PayloadLimits(**bounds))


def outcome(body: bytes, content_type: str | None, coding: str | None = None, parse: Parse = parse) -> Outcome:
    """Lines, rejections, and the error if one was raised. Any that is not Inlet's fails the test."""
    try:
        read = parse(body, content_type, coding)
    except NothingAccepted as error:
        return [], error.rejections.kept, error
    except InletError as error:
        return [], [], error
    return read.lines, read.rejections, None


def refusal(reason: str, body: bytes, content_type: str | None = None, coding: str | None = None, **bounds: int) -> str:
    """The detail that ``body`` is refused with, for exactly this reason."""
    _, _, error = outcome(body, content_type, coding, parse_with(**bounds))
    assert error is not None, "was accepted"
    assert (error.reason, error.reason in PROBLEMS) == (reason, True), error.detail
    assert error.detail.isascii()
    assert error.detail.isprintable()
    return error.detail
