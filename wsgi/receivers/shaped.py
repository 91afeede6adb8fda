"""The machine of the receivers for JSON of any shape: a body's values become records one by one, in slices.

What lives here: reading at once or in slices, records that are refused one by one, and the two answers. What must not:
where the parts of a record stand (``wsgi.receivers.mapped`` and its presets), how a body is split
(``wsgi.receivers.documents``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import ujson

from inlet.stream.errors import InletError, RecordInvalid
from inlet.stream.faults import kind
from inlet.stream.rejected import TEXT_BYTES_MAX
from wsgi.problems import ClientError
from wsgi.receivers.bulk import MALFORMED_RECORD
from wsgi.receivers.documents import Document
from wsgi.receivers.excerpt import excerpt
from wsgi.receivers.foreign import ForeignReceiver, Lines
from wsgi.receivers.headerfields import bare_type
from wsgi.receivers.interfaces import Addresses
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.parsed import NothingAccepted, Parsed, Rejections
from wsgi.receivers.refusals import Response, problem
from wsgi.receivers.slices import SLICE_SECONDS
from wsgi.sink.durability import NAMES

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

SHORT_BYTES_MAX = 32_768
"""Bytes of a body that may be read in one step, if that takes a millisecond."""
FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
"""Media types that no receiver of JSON takes."""
ACCEPTED = "application/json, application/x-ndjson, application/msgpack, text/plain"
"""What the header Accept of a 415 lists (RFC 9110 section 12.5.1)."""

Documents = Iterator[Document | None]
Take = Callable[[Lines, Any], None]
"""Takes one value of a body: as a record, or as a rejection."""


class Reading(NamedTuple):
    """How one request is read."""

    documents: Documents
    take: Take
    status: str = "202 Accepted"
    """Status line of its success."""


Begin = Callable[["WSGIEnvironment", bytes], Reading]
"""From a request and its body; raises ClientError."""


class Shaped(ForeignReceiver):
    """A receiver of JSON. Holds no state: safe between threads."""

    def __init__(self, name: str, bounds: Bounds, begin: Begin, *, probed: bool = False, partial: bool = False) -> None:
        self.name, self.probed, self.partial = name, probed, partial
        super().__init__(bounds)
        self._begin = begin

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Read a short body at once; return None where that takes longer than a slice. Raises as ``slices``."""
        if len(body) > SHORT_BYTES_MAX:
            return None
        work = self.slices(environ, body)
        try:
            next(work)
        except StopIteration as done:
            found: Parsed = done.value
            return found
        work.close()
        return None

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Read any body; ``context`` of what is returned: the status line of the success.

        Raises ClientError (``unsupported-media-type``, ``bad-request``, ``malformed-payload``, ``payload-too-large``),
        and NothingAccepted where there is no valid record, unless this is ``partial``.
        """
        reading, lines = self._begin(environ, body), self._lines()
        take, due = reading.take, monotonic() + SLICE_SECONDS
        for found in reading.documents:
            if found is not None:
                if found.fault:
                    lines.reject(MALFORMED_RECORD, found.fault, found.text)
                else:
                    try:
                        take(lines, found.value)
                    except RecursionError:
                        lines.reject(MALFORMED_RECORD, "arrays and objects nest too deep", b"")
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
        if not lines.lines and not self.partial:
            detail = "no record of the request is valid" if lines.read else "the request holds no record"
            raise NothingAccepted(detail, lines.rejections or Rejections())
        return lines.parsed(reading.status)

    def accepted(self, parsed: Parsed, level: int, addresses: Addresses | None) -> Response:
        """Return the counts, and the first rejections."""
        rejections = parsed.rejections
        answer = {"status": "queued", "accepted": len(parsed.lines), "rejected": len(rejections or ())}
        body = ujson.dumps({**answer, "errors": shown(rejections)}, escape_forward_slashes=False).encode()
        headers = [("content-type", "application/json"), ("inlet-durability", NAMES[level])]
        return parsed.context, [*headers, ("content-length", str(len(body)))], body

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return the problem document; that of a request without a valid record lists why."""
        members: dict[str, object] = {}
        if isinstance(error, NothingAccepted):
            rejections = error.rejections
            members = {"accepted": 0, "rejected": len(rejections), "errors": shown(rejections)}
        return problem(error, ACCEPTED, request_id=request_id, **members)


def shown(rejections: Rejections | None) -> list[dict[str, object]]:
    """Return the first rejections as JSON has them."""
    return [each._asdict() for each in rejections.kept] if rejections else []


def refuse(lines: Lines, detail: str, value: Any) -> None:
    """Reject a value as an invalid record."""
    rejections = lines.rejections
    wanted = rejections is None or rejections.wants_rows
    lines.reject(RecordInvalid.reason, detail, excerpt(value, TEXT_BYTES_MAX + 1)[0] if wanted else b"")


def refuse_kind(lines: Lines, value: Any) -> None:
    """Reject a value that is no object."""
    refuse(lines, f"a record is a JSON object, not {kind(value)}", value)


def media_type(environ: WSGIEnvironment) -> str:
    """Return the media type of a request, empty without one; raise ClientError (``unsupported-media-type``)."""
    found = bare_type(environ.get("CONTENT_TYPE", ""))
    if found in FORMS:
        detail = (
            "a form is no record: send JSON (an object, an array, or one object a line); with curl, add "
            "-H 'Content-Type: application/json'; logging.handlers.HTTPHandler of Python sends forms only"
        )
        raise ClientError("unsupported-media-type", detail)
    return found
