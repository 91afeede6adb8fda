"""The Elasticsearch receiver: the Bulk API, as shippers and the official clients use it.

What lives here: what is read at once and what in slices, and the mount. What must not: how pairs are read
(``wsgi.receivers.elasticbulk``), how answers look (``wsgi.receivers.elasticanswer``), start-up calls
(``wsgi.receivers.elasticpages``).

What cannot be stored is refused item by item wherever possible, with status 400: Beats and Logstash send a whole
request again for ever, whatever its status is, but drop an item with 400.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING

from inlet.stream.errors import InletError
from wsgi.problems import ClientError
from wsgi.receivers.elasticanswer import BulkContext, bulk_answer, refusal, shown_by
from wsgi.receivers.elasticbulk import Pairs, read_short, read_slices
from wsgi.receivers.elasticpages import PAGES
from wsgi.receivers.elasticrecord import Defaults
from wsgi.receivers.foreign import ForeignReceiver, Lines
from wsgi.receivers.headerfields import utf8
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.refusals import Response

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from wsgi.receivers.interfaces import Addresses

SHORT_BYTES_MAX = 131_072
"""Bytes of a body that is read in one step, if all of it is ordinary."""
SHORT_LINES_MAX = 256
"""Lines of it: 128 records, about a millisecond."""
PATHS = ("/_bulk", "/{index}/_bulk")
FORMS = ("application/x-www-form-urlencoded", "multipart/")
"""Media types that are refused: what a page may send without being asked, and what ``curl -d`` sends unasked."""


class Elasticsearch(ForeignReceiver):
    """The receiver, with every bound taken at construction. Holds no state: safe between threads."""

    name = "elasticsearch"
    methods: tuple[str, ...] = ("POST", "PUT")
    addressed, partial = True, True

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(bounds)
        self._depth_max, self._pairs_max = bounds.payload.nesting_depth_max, bounds.record.metadata_pairs_max

    def read(self, environ: WSGIEnvironment, body: bytes) -> Parsed | None:
        """Turn a short bulk of ordinary pairs into lines; return None for any other. ``context``: a ``BulkContext``.

        Raises ClientError (``unsupported-media-type``, ``payload-too-large``).
        """
        if len(body) > SHORT_BYTES_MAX:
            return None
        pairs, lines, bulk = self._begin(environ)
        return read_short(body, pairs, lines, SHORT_LINES_MAX, bulk)

    def slices(self, environ: WSGIEnvironment, body: bytes) -> Generator[None, None, Parsed]:
        """Do the same for any body, yielding about once in a millisecond of work.

        Raises ClientError (``malformed-payload`` where a line that should be an action is none) besides.
        """
        pairs, lines, bulk = self._begin(environ)
        return (yield from read_slices(body, pairs, lines, bulk))

    def _begin(self, environ: WSGIEnvironment) -> tuple[Pairs, Lines, BulkContext]:
        content_type = environ.get("CONTENT_TYPE")
        if content_type and content_type.lower().startswith(FORMS):
            detail = "send Content-Type: application/x-ndjson (curl: -H, with --data-binary)"
            raise ClientError("unsupported-media-type", detail)
        shown, routing, pipeline = shown_by(environ.get("QUERY_STRING", ""))
        index = utf8(environ["PATH_INFO"].rpartition("/")[0][1:])
        lines = self._lines()
        pairs = Pairs(lines, Defaults(index, routing, pipeline), self._depth_max, self._pairs_max)
        return pairs, lines, BulkContext(monotonic(), pairs.actions, shown)

    def accepted(
        self, parsed: Parsed, level: int, addresses: Addresses | None
    ) -> Response | Generator[None, None, Response]:
        """Return 200 with an item an action: 201, 400, 409 for a duplicate ``create`` with an ``_id``."""
        return bulk_answer(parsed.context, parsed.lines, parsed.rejections, addresses or ())

    def refused(self, error: InletError, *, receipt: bool, request_id: str, content_type: str) -> Response:
        """Return Elasticsearch's error."""
        return refusal(error, request_id=request_id)


def mount(bounds: Bounds) -> Mount:
    """Mount the bulk's paths, and the pages that clients ask for at their start."""
    receiver = Elasticsearch(bounds)
    return Mount(dict.fromkeys(PATHS, receiver), PAGES)
