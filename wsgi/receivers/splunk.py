"""The receiver of Splunk's HTTP Event Collector (HEC): ``/services/collector`` and the paths below it.

What lives here: its paths, how a body of each is read, and which answer it gets. What must not: what an event becomes
(``wsgi.receivers.splunk_events``), codes and words (``wsgi.receivers.splunk_answers``).

Decisions (docs/receivers/splunk.md says why):
- A request in which some events are refused is 400 with the number of the first, and all others are stored: those
  behind it too, since the clients drop the whole request at a 400.
- An acknowledgment is given with a channel, unless the records are stored only after the answer.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import falcon
import ujson

from inlet.stream.errors import InletError
from inlet.stream.record import LOADS_ERRORS
from wsgi.receivers import documents, splunk_answers
from wsgi.receivers.bulk import MALFORMED_RECORD
from wsgi.receivers.foreign import ForeignReceiver, Lines
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.parsed import NothingAccepted, Parsed
from wsgi.receivers.refusals import Response
from wsgi.receivers.resources import Operator, Resource, put
from wsgi.receivers.slices import SLICE_SECONDS, finish
from wsgi.receivers.splunk_answers import AckIds, HecError
from wsgi.receivers.splunk_events import Events, RawLabels
from wsgi.sink.durability import RECEIVED

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi.receivers.interfaces import Addresses

ROOT = "/services/collector"
SHORT_BYTES_MAX = 131_072
"""Bytes of a body that is read in one step."""
SHORT_EVENTS_MAX = 128
"""Events of a body that is read in one step: two milliseconds of them."""
CHANNEL_CHARS_MAX = 256
"""Characters of a channel: a UUID has 36."""
PARAMETERS_MAX = 64
"""Parameters of a query that are read: a raw request has six."""
ACKS_BYTES_MAX = 524_288
"""Bytes of a question for acknowledgments: 30,000 ackIds, which a client gets in as many requests."""
ACKS_AT_ONCE = 256
"""ackIds that are looked at in one step."""
UTF8_BYTES_MAX = 4
"""Bytes of a character."""


class _Hec(ForeignReceiver):
    """What the paths that take events share."""

    name = "splunk"

    def __init__(self, bounds: Bounds, acks: AckIds) -> None:
        super().__init__(bounds)
        self._acks = acks

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return the success, with an ackId where there is a channel; or what was wrong with the first bad event."""
        if parsed.rejections:
            return splunk_answers.partly(parsed.rejections)
        channel = parsed.context
        return splunk_answers.stored(self._acks.give(channel) if channel and level != RECEIVED else None)

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return the refusal in HEC's codes."""
        return splunk_answers.refusal(error, request_id)


class SplunkEvents(_Hec):
    """Takes events as JSON: objects one after the other, whatever is between them, or an array of them."""

    def __init__(self, bounds: Bounds, acks: AckIds) -> None:
        super().__init__(bounds, acks)
        self._events = Events(bounds.record, keep_rejected=bounds.keep_rejected)

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a body into lines; return None if that may take long. Raises HecError, NothingAccepted, ClientError."""
        # A longer batch would be read twice, up to the bound and then in slices.
        if len(body) > SHORT_BYTES_MAX or body.count(b'"event"') > SHORT_EVENTS_MAX:
            return None
        channel = channel_of(environ)
        _check_data(body)
        lines, take = self._lines(), self._take
        for document in documents.read(body):
            if document is None:
                continue
            if lines.read >= SHORT_EVENTS_MAX:
                return None
            take(lines, document)
        return _whole(lines, channel)

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do the same for any body, yielding about once in a millisecond of work."""
        channel = channel_of(environ)
        _check_data(body)
        lines, take = self._lines(), self._take
        due = monotonic() + SLICE_SECONDS
        for document in documents.read(body):
            if document is not None:
                take(lines, document)
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
        return _whole(lines, channel)

    def _take(self, lines: Lines, document: documents.Document) -> None:
        if document.fault:
            lines.reject(MALFORMED_RECORD, document.fault, document.text)
        else:
            self._events.take(lines, document.value)


class SplunkRaw(_Hec):
    """Takes text: each line that is not blank is an event, and the query says what they share."""

    def __init__(self, bounds: Bounds, acks: AckIds) -> None:
        super().__init__(bounds, acks)
        self._line_bytes_max = bounds.record.message_chars_max * UTF8_BYTES_MAX + UTF8_BYTES_MAX

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a body into lines; return None if that may take long. Raises HecError, ClientError."""
        if len(body) > SHORT_BYTES_MAX or body.count(b"\n") > SHORT_EVENTS_MAX:
            return None
        return finish(self.slices(environ, body))

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do the same for any body, yielding about once in a millisecond of work."""
        channel, labels = channel_of(environ), RawLabels(parameters_of(environ))
        lines, take, most = self._lines(), labels.take, self._line_bytes_max
        due = monotonic() + SLICE_SECONDS
        for line in documents.text_lines(body):
            if line is not None:
                take(lines, line[:most].removesuffix(b"\r").decode("utf-8", "replace"))
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
        if not lines.read:
            raise no_data()
        return lines.parsed(channel)


class SplunkAcks(_Hec):
    """Says which ackIds are acknowledged: all that were given to this channel."""

    partial = True

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Leave every body to ``slices``: this is asked for once in seconds."""
        return None

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Read the ids; the answer is the context. Raises HecError."""
        channel = channel_of(environ)
        if not channel:
            raise HecError(splunk_answers.CHANNEL_MISSING, "name the channel in X-Splunk-Request-Channel or ?channel=")
        try:
            value = ujson.loads(body) if len(body) <= ACKS_BYTES_MAX else None
        except LOADS_ERRORS:
            value = None
        yield
        acks = value.get("acks") if type(value) is dict else None
        if type(acks) is not list:
            detail = f'send {{"acks":[1,2]}}, of at most {ACKS_BYTES_MAX} bytes'
            raise HecError(splunk_answers.INVALID_DATA, detail)
        found: dict[str, bool] = {}
        for at in range(0, len(acks), ACKS_AT_ONCE):
            for ack_id in acks[at : at + ACKS_AT_ONCE]:
                if type(ack_id) is not int or not 0 <= ack_id < 1 << 64:
                    raise HecError(splunk_answers.INVALID_DATA, "an ackId is an integer of 64 bits")
                found[str(ack_id)] = self._acks.knows(channel, ack_id)
            yield
        return Parsed([], None, 0, ujson.dumps({"acks": found}).encode())

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return what ``slices`` found."""
        return splunk_answers.found(parsed.context)


class SplunkHealth(Resource):
    """``GET /services/collector/health``: whether records can be stored now. Needs no key, as Splunk's needs none."""

    def __init__(self, operator: Operator) -> None:
        self._readiness = operator.readiness

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return 200 with code 17, or 503 with code 18."""
        error = self._readiness()
        if error is None:
            put(resp, splunk_answers.said(200, splunk_answers.HEALTHY))
        else:
            put(resp, splunk_answers.unhealthy(error))

    on_head = on_get


def mount(bounds: Bounds) -> Mount:
    """Mount every path of HEC."""
    acks = AckIds()
    events, raw = SplunkEvents(bounds, acks), SplunkRaw(bounds, acks)
    receivers = dict.fromkeys((ROOT, f"{ROOT}/event", f"{ROOT}/event/1.0"), events)
    return Mount(
        {**receivers, f"{ROOT}/raw": raw, f"{ROOT}/raw/1.0": raw, f"{ROOT}/ack": SplunkAcks(bounds, acks)},
        {f"{ROOT}/health": SplunkHealth, f"{ROOT}/health/1.0": SplunkHealth},
    )


def no_data() -> HecError:
    """Return the error of a body without an event."""
    return HecError(splunk_answers.NO_DATA, "the body is empty")


def parameters_of(environ: WSGIEnvironment) -> dict[str, str]:
    """Return the parameters of the query, the first of each name. Raises HecError where there are too many."""
    query = environ.get("QUERY_STRING", "")
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, errors="replace", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        detail = f"the query has more than {PARAMETERS_MAX} parameters"
        raise HecError(splunk_answers.INVALID_DATA, detail) from None
    return dict(reversed(pairs))


def channel_of(environ: WSGIEnvironment) -> str:
    """Return the request's channel, of the header field or of the query; empty if it has none. Raises HecError."""
    channel: str = environ.get("HTTP_X_SPLUNK_REQUEST_CHANNEL", "")
    if not channel and "channel=" in environ.get("QUERY_STRING", ""):
        channel = parameters_of(environ).get("channel", "")
    if len(channel) > CHANNEL_CHARS_MAX:
        raise HecError(splunk_answers.CHANNEL_INVALID, f"a channel has at most {CHANNEL_CHARS_MAX} characters")
    return channel.strip().lower()


def _check_data(body: bytes) -> None:
    """Raise HecError where a body is empty, or blank and short; a long one is invalid data."""
    if len(body) <= SHORT_BYTES_MAX and (not body or body.isspace()):
        raise no_data()


def _whole(lines: Lines, channel: str) -> Parsed:
    """What a body of events holds, once all of it is read."""
    if not lines.lines:
        if not lines.rejections:
            raise HecError(splunk_answers.NO_DATA, "the body holds no event")
        raise NothingAccepted("no event of the request is valid", lines.rejections)
    return lines.parsed(channel)
