"""The pipeline of every receiver: admission, body, records, append, commit, answer.

What lives here: the steps that all protocols share, each once, and their order. What must not: what a protocol's bodies
and answers look like (its receiver), which path leads here (``wsgi.receivers.application``), Falcon, Redis, what a
commit is.

How a request passes: ``Endpoint.receive`` has it admitted (``wsgi.receivers.admission``), reads the body, has the
receiver turn it into lines, and appends these to the sink's open batch. ``append`` is the last step that can fail
before the answer. The server has no status by then, only an ``Answer``: its iteration waits for the commit and then
calls ``start_response``, with the receiver's success, or with the refusal of whatever was raised on the way. PEP 3333
allows exactly that: "start_response must be called ... before the iterable yields its first body bytestring". A server
that calls the application for several requests before it iterates any answer lets them share one commit, and needs to
know nothing about it.

On a server that offers ``phased.wait`` and ``phased.watch`` (docs/design.md) nothing here blocks: an answer yields
``b""`` between slices of long work, and while its commit is in flight. On any other it blocks instead.

Metrics move once the outcome is known, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from inlet.stream.errors import InletError, RecordInvalid
from inlet.stream.rejected import Rejected, rejected
from wsgi import metrics
from wsgi.problems import Headers
from wsgi.receivers.admission import ADMITTED, OWNER, UNFINISHED, Admission, Grant
from wsgi.receivers.body import LENGTH_DIGITS_MAX, cut_short, read_body, too_large, unreadable
from wsgi.receivers.decompress import decompress
from wsgi.receivers.interfaces import NOTHING, Append, Keep, Receiver, Ticket
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections
from wsgi.receivers.receipt import level_of, wants_receipt
from wsgi.receivers.refusals import Response, count, known, problem
from wsgi.receivers.requestid import FIELD, request_id
from wsgi.receivers.rights import only_services
from wsgi.sink.durability import RECEIVED

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class _Counters(dict[str, Callable[[int], None]]):
    """Status line -> what counts an accepted request that was answered so."""

    def __init__(self, receiver: str) -> None:
        self._receiver = receiver

    def __missing__(self, status: str) -> Callable[[int], None]:
        counter = metrics.REQUESTS.labels(self._receiver, status[:3], "")
        self[status] = found = metrics.LATE.counter(counter)
        return found


class Endpoint:
    """One receiver with everything that it needs bound: ``receive`` takes its requests."""

    def __init__(
        self,
        receiver: Receiver,
        append: Append,
        admission: Admission,
        keep: Keep | None = None,
    ) -> None:
        self.name, self.methods, self.probed = receiver.name, receiver.methods, receiver.probed
        self.addressed, self._receipts, self._partial = receiver.addressed, receiver.receipts, receiver.partial
        self._keep = keep
        self._origin, self.preflight, self._key = admission
        self._read, self._slices = receiver.read, receiver.slices
        self.accepted, self._refused = receiver.accepted, receiver.refused
        self._append = append
        self._bytes_max = receiver.bytes_max
        # Content codings that a receiver undoes itself; most have none.
        self._own_codings: frozenset[str] = getattr(receiver, "codings", frozenset())
        self.counters = _Counters(receiver.name)

    def receive(self, environ: WSGIEnvironment) -> Answer:
        """Read one request and append its records. Raises nothing: the Answer has what there was to raise."""
        answer: Answer | None = environ.pop(ADMITTED, None)
        new = answer is None
        if answer is None:
            answer = Answer(self, request_id(environ), environ.get("CONTENT_TYPE", ""))
        try:
            if new and "HTTP_ORIGIN" in environ:
                answer.fields = self._origin(environ)
            query, prefer = environ.get("QUERY_STRING"), environ.get("HTTP_PREFER")
            if (query or prefer) and self._receipts:
                answer.receipt = wants_receipt(query or "", prefer or "")
            length = environ.get("CONTENT_LENGTH", "")
            size = int(length) if length.isdecimal() and len(length) <= LENGTH_DIGITS_MAX else -1
            fits = 0 <= size <= self._bytes_max
            if self._key is not None:
                answer.grant = grant = self._key(environ, self.name)
                if new and grant.meter is not None:
                    grant.meter.admit_one(size if fits else 0)
            asked = environ.get("HTTP_INLET_DURABILITY")
            level = RECEIVED if asked is None else level_of(asked)
            # PERF: the one ordinary case here, every other one in read_body (bench/micro.py: app).
            if fits:
                try:
                    body = environ["wsgi.input"].read(size)
                except Exception as error:
                    raise unreadable(error) from None
                if len(body) != size:
                    raise cut_short(len(body), size)
            else:
                meter = None if answer.grant is None else answer.grant.meter
                body = read_body(environ, self._bytes_max, None if meter is None else meter.spent)
                if meter is not None:
                    meter.body(len(body))
            answer.wait = wait = environ.get("phased.wait")
            if wait is not None:
                answer.watch = environ["phased.watch"]
            coding = environ.get("HTTP_CONTENT_ENCODING")
            if coding and coding.strip().lower() in self._own_codings:
                coding = None
            parsed = None if coding else self._read(environ, body)
            if parsed is None:
                answer.slices = self._work(answer, environ, body, coding, level)
                if wait is None:
                    answer.work()
            else:
                ticket = self._take(answer, parsed, level)
                if wait is not None and ticket is not NOTHING:
                    wait(ticket.future(answer.watch))
        except RecordInvalid as error:
            self._note_row(answer, error, body)
            answer.error = known(error, stored=False, request_id=answer.request_id)
        except Exception as error:
            answer.error = known(error, stored=False, request_id=answer.request_id)
        return answer

    def _work(
        self, answer: Answer, environ: WSGIEnvironment, body: bytes, coding: str | None, level: int
    ) -> Generator[None, None, None]:
        """Decode and read a body in slices, and append its records. Raises as the receiver does."""
        yield  # Nothing yet: the call is in everybody's turn.
        if coding:
            body = yield from decompress(body, coding, self._bytes_max)
        try:
            parsed = yield from self._slices(environ, body)
        except RecordInvalid as error:
            self._note_row(answer, error, body)
            raise
        self._take(answer, parsed, level)

    def _take(self, answer: Answer, parsed: Parsed, level: int) -> Ticket:
        """Append the records of a request as far as its key permits."""
        destination, grant = None, answer.grant
        if grant is not None:
            destination = grant.stream
            if grant.services is not None:
                parsed = only_services(parsed, grant.services, keep=self._keep is not None, partial=self._partial)
            if grant.meter is not None and len(parsed.lines) != 1:
                grant.meter.rest(len(parsed.lines))
        answer.parsed = parsed
        answer.ticket = ticket = self._append(parsed.lines, level, destination) if parsed.lines else NOTHING
        return ticket

    def _note_row(self, answer: Answer, error: RecordInvalid, body: bytes) -> None:
        if self._keep is not None:
            answer.row = rejected(error.reason, error.detail, None, body)

    def keep_rejected(self, answer: Answer) -> None:
        """Keep the records of a request that were refused one by one, where that is asked for."""
        if self._keep is None:
            return
        rejections = answer.error.rejections if isinstance(answer.error, NothingAccepted) else None
        if answer.error is None:
            rejections = answer.parsed.rejections
        stream = None if answer.grant is None else answer.grant.stream
        if rejections:
            self._keep(stream, self.name, rejections.rows, len(rejections) - len(rejections.rows))
        elif answer.row is not None:
            self._keep(stream, self.name, [answer.row])

    def before_body(self, environ: WSGIEnvironment) -> Response | None:
        """Return the refusal of a request that would be refused whatever its body is, else None. Raises nothing.

        What passes is admitted: its quotas are charged, and ``receive`` finds the Answer in the environ.
        """
        answer = Answer(self, request_id(environ), environ.get("CONTENT_TYPE", ""))
        try:
            if "HTTP_ORIGIN" in environ:
                answer.fields = self._origin(environ)
            length = environ.get("CONTENT_LENGTH", "")
            fits = length.isdecimal() and len(length) <= LENGTH_DIGITS_MAX and int(length) <= self._bytes_max
            if self._key is not None:
                grant = self._key(environ, self.name)
                environ[OWNER] = grant.key
                if grant.meter is not None:
                    grant.meter.admit_one(int(length) if fits else 0)
                    if not length:
                        environ[UNFINISHED] = grant.meter.spent
            asked = environ.get("HTTP_INLET_DURABILITY")
            if asked is not None:
                level_of(asked)
            if length and not fits:
                raise too_large(self._bytes_max)
        except Exception as error:
            answer.error = known(error, stored=False, request_id=answer.request_id)
            return answer.refusal(self)
        environ[ADMITTED] = answer
        return None

    def refused(self, error: InletError, *, receipt: bool = False, request_id: str, content_type: str = "") -> Response:
        """Render a refusal, and count it and the records in it."""
        try:
            response = self._refused(error, receipt=receipt, request_id=request_id, content_type=content_type)
        except Exception as bug:
            error = known(bug, stored=True, request_id=request_id)
            response = problem(error, request_id=request_id)
        count(self.name, error.reason)
        if isinstance(error, NothingAccepted):
            count_rejections(error.rejections)
        elif error.reason in ("invalid-record", "record-too-large"):
            metrics.RECORDS_REJECTED.labels(error.reason).inc()
        return response


class Answer:
    """The answer to one request, undecided until its first iteration; an iterable as PEP 3333 wants it."""

    __slots__ = (
        "_endpoint", "_response", "content_type", "error", "fields", "grant", "parsed", "receipt", "request_id", "row",
        "slices", "start_response", "ticket", "wait", "watch",
    )  # fmt: skip

    start_response: StartResponse
    parsed: Parsed
    watch: Any

    def __init__(self, endpoint: Endpoint, request_id: str, content_type: str) -> None:
        self._endpoint: Endpoint | None = endpoint
        self.request_id, self.content_type = request_id, content_type
        self.fields: Headers | None = None
        """Fields that the answer has besides, whatever it is."""
        self.grant: Grant | None = None
        """What the request's key permits, where keys are required."""
        self._response: Response | None = None
        self.error: InletError | None = None
        self.receipt = False
        self.row: Rejected | None = None
        """The single record, if it was refused."""
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
                found = endpoint.accepted(
                    self.parsed, ticket.level, ticket.addresses() if self.receipt or endpoint.addressed else None
                )
                if not isinstance(found, tuple):
                    self.slices = self._render(found)
                    return next(self)
                response = found
            except Exception as caught:
                self.error = known(caught, stored=True, request_id=self.request_id)
        return self._finish(endpoint, response)

    def _finish(self, endpoint: Endpoint, response: Response | None) -> bytes:
        """Start the response, ``response`` or a refusal, and return its body; account for it."""
        self._endpoint = None
        if self.ticket is not None and self.error is None:
            parsed = self.parsed
            if response is not None:
                endpoint.counters[response[0]](1)
            if parsed.unknown or parsed.rejections:
                _count_records(parsed)
                endpoint.keep_rejected(self)
        if response is None or self.error is not None:
            status, headers, body = self.refusal(endpoint)
        else:
            status, headers, body = response
            if self.fields:
                headers += self.fields
            headers.append((FIELD, self.request_id))
        self.start_response(status, headers)
        return body

    def refusal(self, endpoint: Endpoint) -> Response:
        """Return the answer to a request that was refused."""
        assert self.error is not None
        endpoint.keep_rejected(self)
        status, headers, body = endpoint.refused(
            self.error, receipt=self.receipt, request_id=self.request_id, content_type=self.content_type
        )
        return status, [*headers, *(self.fields or ()), (FIELD, self.request_id)], body

    def work(self) -> bool:
        """Do a slice of the work; return whether there is more. All of it on a server that lets nobody else run."""
        slices = self.slices
        assert slices is not None
        try:
            for _ in slices:
                if self.wait is not None:
                    return True
        except Exception as error:
            self.error = known(error, stored=self.ticket is not None, request_id=self.request_id)
        self.slices = None
        return False

    def _render(self, slices: Generator[None, None, Response]) -> Generator[None, None, None]:
        self._response = yield from slices

    def close(self) -> None:
        """End the request (PEP 3333). One that ends before it was iterated is never answered."""
        self._endpoint = None


def count_rejections(rejections: Rejections) -> None:
    """Count refused records of a bulk by reason."""
    for reason, records in rejections.counts.items():
        metrics.RECORDS_REJECTED.labels(reason).inc(records)


def _count_records(parsed: Parsed) -> None:
    if parsed.unknown:
        metrics.UNKNOWN_MEMBERS.inc(parsed.unknown)
    if parsed.rejections is not None:
        count_rejections(parsed.rejections)
