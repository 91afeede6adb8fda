"""The pipeline of every receiver: body, records, append, commit, answer; and the front door of the application.

What lives here: the steps that all protocols share, each once, and their order. What must not: what a protocol's bodies
and answers look like (its receiver), Falcon, Redis, what a commit is.

How a request passes: ``Endpoint.receive`` reads the body, has the receiver turn it into lines, and appends these to the
sink's open batch. ``append`` is the last step that can fail before the answer. The server has no status by then, only
an ``Answer``: its first iteration waits for the commit and then calls ``start_response``, with the receiver's success,
or with the refusal of whatever was raised on the way. PEP 3333 allows exactly that:
"start_response must be called ... before the iterable yields its first body bytestring". A server that calls the
application for several requests before it iterates any answer lets them share one commit, and needs to know nothing
about it.

Metrics move once the outcome is known, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from inlet.stream.errors import InletError
from wsgi import metrics
from wsgi.problems import SERVER_REASONS, ClientError, Refused, SinkError
from wsgi.receivers.body import LENGTH_DIGITS_MAX, cut_short, read_body, unreadable
from wsgi.receivers.decompress import decompress
from wsgi.receivers.receipt import wants_receipt
from wsgi.receivers.refusals import NO_RECEIVER, Response, count, known, problem
from wsgi.sink.durability import LEVELS, NAMES, RECEIVED

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

UNCOUNTED_MAX = 64
"""Requests answered 202 that may be missing in the metrics while others of the same worker are still unanswered."""


class Rejection(NamedTuple):
    """One record of a bulk that was refused. ``event_id`` is None where there is none that can be named."""

    index: int  # type: ignore[assignment]  # tuple.index is not wanted here; the name is the wire contract's
    event_id: str | None
    reason: str
    detail: str


class Parsed(NamedTuple):
    """What a body holds: at least one line."""

    lines: list[bytes]
    rejections: Sequence[Rejection]
    """In the order of the bulk."""
    unknown: int
    """Members of the valid records that the contract does not know."""
    context: Any
    """Whatever else the receiver needs for its answer."""


class NothingAccepted(ClientError):
    """A bulk in which no record is valid. ``rejections``: one a record, in order."""

    def __init__(self, detail: str, rejections: Sequence[Rejection]) -> None:
        super().__init__("nothing-accepted", detail)
        self.rejections = rejections


class Ticket(Protocol):
    """A request's place in the sink's batch."""

    level: int
    """What its 202 will promise (``wsgi.sink.durability``)."""

    def commit(self) -> None:
        """Return once the records are as safe as that; raise SinkError where they may not be."""

    def addresses(self) -> list[tuple[str, int]]:
        """Return (entry ID, line) of each record; the ID is empty at the level ``received``."""


Append = Callable[[list[bytes], int], Ticket]
"""The sink's: lines and level to a ticket. Never waits; raises SinkError with nothing kept."""
Addresses = list[tuple[str, int]]


class Receiver(Protocol):
    """One wire protocol: a request to lines, and an outcome to that protocol's own answer."""

    name: str
    """Label of its metrics."""

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed:
        """Turn a request, whose ``body`` is whole and decoded, into lines.

        Raises InletError with a reason of ``wsgi.problems``; NothingAccepted for a bulk without a valid record.
        Keeps nothing, and leaves nothing that can fail to the answer.
        """

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return the answer once the records are stored; ``addresses`` where a receipt was asked for."""

    def refused(self, error: InletError, *, receipt: bool) -> Response:
        """Return the answer where nothing was stored, or nobody knows; ``error.reason`` is one of PROBLEMS."""


class Endpoint:
    """One receiver with everything that it needs bound: ``receive`` takes its requests."""

    def __init__(self, receiver: Receiver, append: Append, *, payload_bytes_max: int) -> None:
        self.name = receiver.name
        self._read, self.accepted, self._refused = receiver.read, receiver.accepted, receiver.refused
        self._append = append
        self._bytes_max = payload_bytes_max
        self._count_202 = metrics.REQUESTS.labels(receiver.name, "202", "").inc
        # Without a lock: threads that lose an update only delay the count, until UNCOUNTED_MAX.
        self.open = 0  # requests that were appended and whose answer is not out
        self.uncounted = 0  # requests answered 202 that are not in the metrics yet

    def receive(self, environ: WSGIEnvironment) -> Answer:
        """Read one request and append its records. Raises nothing: the Answer has what there was to raise."""
        answer = Answer(self)
        try:
            query, prefer = environ.get("QUERY_STRING"), environ.get("HTTP_PREFER")
            if query or prefer:
                answer.receipt = wants_receipt(query or "", prefer or "")
            asked = environ.get("HTTP_INLET_DURABILITY")
            level = RECEIVED if asked is None else _level(asked)
            length = environ.get("CONTENT_LENGTH", "")
            size = int(length) if length.isdecimal() and len(length) <= LENGTH_DIGITS_MAX else -1
            # PERF: the one ordinary case here, every other one in read_body (bench/micro.py: app).
            if 0 <= size <= self._bytes_max:
                try:
                    body = environ["wsgi.input"].read(size)
                except Exception as error:
                    raise unreadable(error) from None
                if len(body) != size:
                    raise cut_short(len(body), size)
            else:
                body = read_body(environ, self._bytes_max)
            coding = environ.get("HTTP_CONTENT_ENCODING")
            if coding:
                body = decompress(body, coding, self._bytes_max)
            answer.parsed = parsed = self._read(environ, body)
            answer.ticket = self._append(parsed.lines, level)
            self.open += 1
        except Exception as error:
            answer.error = known(error, stored=False)
        return answer

    def refused(self, error: InletError, *, receipt: bool) -> Response:
        """Render a refusal, and count it and the records in it."""
        try:
            response = self._refused(error, receipt=receipt)
        except Exception as bug:
            error = known(bug, stored=True)
            response = problem(error)
        count(self.name, error.reason)
        if isinstance(error, NothingAccepted):
            count_rejections(error.rejections)
        elif error.reason in ("invalid-record", "record-too-large"):
            metrics.RECORDS_REJECTED.labels(error.reason).inc()
        return response

    def settled(self) -> None:
        """Note that an appended request got its answer, or never will; add up what was answered 202."""
        self.open -= 1
        if self.uncounted and (self.open <= 0 or self.uncounted >= UNCOUNTED_MAX):
            requests, self.uncounted = self.uncounted, 0
            self._count_202(requests)


class Answer:
    """The answer to one request, undecided until its first iteration; an iterable as PEP 3333 wants it."""

    __slots__ = ("_endpoint", "error", "parsed", "receipt", "start_response", "ticket")

    start_response: StartResponse
    parsed: Parsed

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint: Endpoint | None = endpoint
        self.error: InletError | None = None
        self.receipt = False
        self.ticket: Ticket | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Wait for the commit, call ``start_response`` with the outcome, and return the body."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            raise StopIteration
        error, ticket = self.error, self.ticket
        if ticket is not None:
            try:
                ticket.commit()
                parsed = self.parsed
                status, headers, body = endpoint.accepted(
                    parsed, ticket.level, ticket.addresses() if self.receipt else None
                )
                endpoint.uncounted += 1
                if parsed.unknown or parsed.rejections:
                    _count_records(parsed)
            except Exception as caught:
                error = known(caught, stored=True)
            endpoint.settled()
        if error is not None:
            status, headers, body = endpoint.refused(error, receipt=self.receipt)
        self.start_response(status, headers)
        return body

    def close(self) -> None:
        """End the request (PEP 3333). One that ends before it was iterated is never answered."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None and self.ticket is not None:
            endpoint.settled()


def nothing() -> None:
    """Start nothing: for an application beside whose requests nothing runs."""


class Application:
    """The WSGI application: receivers' own paths straight to their endpoints, all others to ``routes``.

    ``routes`` answers every path; what it leaves in the environ under ANSWER is answered in place of its own. PERF:
    routing by Falcon costs a fifth of a request (bench/micro.py: app, app through Falcon), so a POST to an exact path
    of ``endpoints`` goes without.
    """

    ANSWER = "inlet.answer"
    """Environ key: the Answer that a route left."""

    def __init__(
        self, routes: WSGIApplication, endpoints: Mapping[str, Endpoint], start: Callable[[], object] = nothing
    ) -> None:
        self.start = start
        """Starts what runs beside the requests. Call it once in each worker process, after the fork."""
        self._routes = routes
        self._direct = {path: endpoint.receive for path, endpoint in endpoints.items()}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        receive = self._direct.get(environ["PATH_INFO"])
        if receive is None or environ["REQUEST_METHOD"] != "POST":
            return self._route(environ, start_response)
        answer = receive(environ)
        answer.start_response = start_response
        return answer

    def _route(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        held: list[Any] = []

        def hold(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
            held[:] = [status, headers]
            return _no_write

        body = self._routes(environ, hold)
        answer: Answer | None = environ.pop(self.ANSWER, None)
        if answer is None:
            start_response(*held)
            return body
        answer.start_response = start_response
        return answer


def refuse_for_server(status: int, detail: str) -> Response:
    """Render, and count, a refusal by the server itself: a request that no application saw.

    ``status`` is a key of SERVER_REASONS, any other counts as a bug; ``detail`` is one sentence.
    """
    reason = SERVER_REASONS.get(status, "internal")
    count(NO_RECEIVER, reason)
    return problem(SinkError(reason, detail) if status == 503 else Refused(reason, detail))


def count_rejections(rejections: Sequence[Rejection]) -> None:
    """Count refused records of a bulk by reason."""
    counts: dict[str, int] = {}
    for rejection in rejections:
        counts[rejection.reason] = counts.get(rejection.reason, 0) + 1
    for reason, records in counts.items():
        metrics.RECORDS_REJECTED.labels(reason).inc(records)


def _count_records(parsed: Parsed) -> None:
    if parsed.unknown:
        metrics.UNKNOWN_MEMBERS.inc(parsed.unknown)
    count_rejections(parsed.rejections)


def _level(asked: str) -> int:
    """The level that the header Inlet-Durability asks for."""
    level = LEVELS.get(asked.strip().lower())
    if level is None:
        raise ClientError("unknown-durability", f"Inlet-Durability must be one of {', '.join(NAMES)}")
    return level


def _no_write(data: bytes) -> object:
    raise NotImplementedError("PEP 3333's write() is not offered: return an iterable")
