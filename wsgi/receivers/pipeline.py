"""The pipeline of every receiver: body, records, append, commit, answer; and the front door of the application.

What lives here: the steps that all protocols share, each once, and their order. What must not: what a protocol's bodies
and answers look like (its receiver), Falcon, Redis, what a commit is.

How a request passes: ``Endpoint.receive`` reads the body, has the receiver turn it into lines, and appends these to the
sink's open batch. ``append`` is the last step that can fail before the answer. The server has no status by then, only
an ``Answer``: its iteration waits for the commit and then calls ``start_response``, with the receiver's success, or
with the refusal of whatever was raised on the way. PEP 3333 allows exactly that: "start_response must be called ...
before the iterable yields its first body bytestring". A server that calls the application for several requests before
it iterates any answer lets them share one commit, and needs to know nothing about it.

On a server that offers ``phased.wait`` and ``phased.watch`` (docs/design.md) nothing here blocks: an answer yields
``b""`` between slices of long work, and while its commit is in flight. On any other it blocks instead.

Metrics move once the outcome is known, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from inlet.stream.errors import InletError
from wsgi import metrics
from wsgi.problems import SERVER_REASONS, ClientError, Refused, SinkError
from wsgi.receivers.body import LENGTH_DIGITS_MAX, cut_short, read_body, unreadable
from wsgi.receivers.decompress import decompress
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections
from wsgi.receivers.receipt import wants_receipt
from wsgi.receivers.refusals import NO_RECEIVER, Response, count, known, problem
from wsgi.sink.durability import LEVELS, NAMES, RECEIVED

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class Ticket(Protocol):
    """A request's place in the sink's batch."""

    level: int
    """What its 202 will promise (``wsgi.sink.durability``)."""

    def future(self, watch: Any) -> Any:
        """Return a future to wait for, of all requests that will share a commit. Waiting for it begins the commit."""

    def begin(self, watch: Any) -> Any:
        """Begin the commit, or go on with it, without waiting; ``watch`` is the server's ``phased.watch``.

        Returns a future to wait for; or None once the outcome is known, so that ``commit`` returns at once.
        """

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

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a request, whose ``body`` is whole and not encoded, into lines; return None if that may take long.

        Raises InletError with a reason of ``wsgi.problems``; NothingAccepted for a bulk without a valid record.
        Keeps nothing, and leaves nothing that can fail to the answer.
        """

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do the same for any body, yielding about once in a millisecond of work. Raises as ``read``."""

    def accepted(
        self, parsed: Parsed, level: int, addresses: Addresses | None
    ) -> Response | Generator[None, None, Response]:
        """Return the answer once the records are stored, in slices if it is long; ``addresses`` for a receipt."""

    def refused(self, error: InletError, *, receipt: bool) -> Response:
        """Return the answer where nothing was stored, or nobody knows; ``error.reason`` is one of PROBLEMS."""


class Endpoint:
    """One receiver with everything that it needs bound: ``receive`` takes its requests."""

    def __init__(self, receiver: Receiver, append: Append, *, payload_bytes_max: int) -> None:
        self.name = receiver.name
        self._read, self._slices = receiver.read, receiver.slices
        self.accepted, self._refused = receiver.accepted, receiver.refused
        self._append = append
        self._bytes_max = payload_bytes_max
        self.count_202 = metrics.LATE.counter(metrics.REQUESTS.labels(receiver.name, "202", ""))

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
            answer.wait = wait = environ.get("phased.wait")
            if wait is not None:
                answer.watch = environ["phased.watch"]
            coding = environ.get("HTTP_CONTENT_ENCODING")
            parsed = None if coding else self._read(environ, body)
            if parsed is None:
                answer.slices = self._work(answer, environ, body, coding, level)
                if wait is None:
                    answer.work()
            else:
                answer.parsed = parsed
                answer.ticket = ticket = self._append(parsed.lines, level)
                if wait is not None:
                    wait(ticket.future(answer.watch))
        except Exception as error:
            answer.error = known(error, stored=False)
        return answer

    def _work(
        self, answer: Answer, environ: WSGIEnvironment, body: bytes, coding: str | None, level: int
    ) -> Generator[None, None, None]:
        """Decode and read a body in slices, and append its records. Raises as the receiver does."""
        yield  # Nothing yet: the call is in everybody's turn.
        if coding:
            body = yield from decompress(body, coding, self._bytes_max)
        answer.parsed = parsed = yield from self._slices(environ, body)
        answer.ticket = self._append(parsed.lines, level)

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


class Answer:
    """The answer to one request, undecided until its first iteration; an iterable as PEP 3333 wants it."""

    __slots__ = (
        "_endpoint", "_response", "error", "parsed", "receipt", "slices", "start_response", "ticket", "wait", "watch",
    )  # fmt: skip

    start_response: StartResponse
    parsed: Parsed
    watch: Any

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint: Endpoint | None = endpoint
        self._response: Response | None = None
        self.error: InletError | None = None
        self.receipt = False
        self.ticket: Ticket | None = None
        self.wait: Callable[[Any], None] | None = None
        self.slices: Generator[None, None, None] | None = None
        """Long work that must be done first: reading the body, later rendering the answer."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return ``b""`` while there is work or a commit is in flight; then start the response and return its body."""
        endpoint = self._endpoint
        if endpoint is None:
            raise StopIteration
        if self.slices is not None and self.work():
            return b""
        response, ticket = self._response, self.ticket
        if ticket is not None and response is None and self.error is None:
            try:
                if self.wait is not None and (future := ticket.begin(self.watch)) is not None:
                    self.wait(future)
                    return b""
                ticket.commit()
                found = endpoint.accepted(self.parsed, ticket.level, ticket.addresses() if self.receipt else None)
                if not isinstance(found, tuple):
                    self.slices = self._render(found)
                    return next(self)
                response = found
            except Exception as caught:
                self.error = known(caught, stored=True)
        return self._finish(endpoint, response)

    def _finish(self, endpoint: Endpoint, response: Response | None) -> bytes:
        """Start the response, ``response`` or a refusal, and return its body; account for it."""
        self._endpoint = None
        if self.ticket is not None and self.error is None:
            endpoint.count_202(1)
            parsed = self.parsed
            if parsed.unknown or parsed.rejections:
                _count_records(parsed)
        if response is None or self.error is not None:
            assert self.error is not None
            response = endpoint.refused(self.error, receipt=self.receipt)
        status, headers, body = response
        self.start_response(status, headers)
        return body

    def work(self) -> bool:
        """Do a slice of the work; return whether there is more. All of it on a server that lets nobody else run."""
        slices = self.slices
        assert slices is not None
        try:
            for _ in slices:
                if self.wait is not None:
                    return True
        except Exception as error:
            self.error = known(error, stored=self.ticket is not None)
        self.slices = None
        return False

    def _render(self, slices: Generator[None, None, Response]) -> Generator[None, None, None]:
        self._response = yield from slices

    def close(self) -> None:
        """End the request (PEP 3333). One that ends before it was iterated is never answered."""
        self._endpoint = None


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


def count_rejections(rejections: Rejections) -> None:
    """Count refused records of a bulk by reason."""
    for reason, records in rejections.counts.items():
        metrics.RECORDS_REJECTED.labels(reason).inc(records)


def _count_records(parsed: Parsed) -> None:
    if parsed.unknown:
        metrics.UNKNOWN_MEMBERS.inc(parsed.unknown)
    if parsed.rejections is not None:
        count_rejections(parsed.rejections)


def _level(asked: str) -> int:
    """The level that the header Inlet-Durability asks for."""
    level = LEVELS.get(asked.strip().lower())
    if level is None:
        raise ClientError("unknown-durability", f"Inlet-Durability must be one of {', '.join(NAMES)}")
    return level


def _no_write(data: bytes) -> object:
    raise NotImplementedError("PEP 3333's write() is not offered: return an iterable")
