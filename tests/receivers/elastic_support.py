"""What the tests of the Elasticsearch receiver share: an application with it over a sink in memory, and bulks.

What lives here: making requests and reading answers. What must not: assertions about the receiver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ujson

from inlet.stream.limits import RecordLimits
from inlet.stream.record import Record, decode
from tests.receivers.support import MemorySink, Reply, ask, body_of, environ
from wsgi.receivers.admission import OPEN, Admission
from wsgi.receivers.application import Application
from wsgi.receivers.elastic import mount
from wsgi.receivers.interfaces import Keep
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app

DOCUMENT = {"@timestamp": "2026-01-31T23:59:59.123Z", "message": "paid", "level": "info"}


def app_of(
    sink: MemorySink,
    *,
    limits: PayloadLimits | None = None,
    record: RecordLimits | None = None,
    admission: Admission = OPEN,
    keep: Keep | None = None,
) -> Application:
    """An application that has this receiver alone."""
    found = mount(Bounds(limits or PayloadLimits(), record or RecordLimits(), keep is not None))
    return create_app(
        receivers=found.receivers, append=sink.append, admission=admission, operator=Operator(lambda: sink.not_ready),
        pages=found.pages, keep_rejected=keep,
    )  # fmt: skip


def bulk_of(*pairs: tuple[Any, Any]) -> bytes:
    """The body of a bulk: each value as JSON on a line of its own; None for no line, bytes as they are."""
    values = [value for pair in pairs for value in pair if value is not None]
    return b"".join((value if isinstance(value, bytes) else body_of(value)) + b"\n" for value in values)


def create(document: Any = None, **members: Any) -> tuple[Any, Any]:
    """One pair."""
    return {"create": {"_index": "logs", **members}}, DOCUMENT if document is None else document


def send(body: bytes, sink: MemorySink | None = None, path: str = "/_bulk", **more: Any) -> Reply:
    """Send a bulk to an application of its own."""
    more = {"CONTENT_TYPE": "application/x-ndjson", **more}
    return ask(app_of(sink or MemorySink()), environ(body, path, **more))


def statuses(reply: Reply) -> list[int]:
    """The status of each item."""
    return [item["status"] for each in reply.json["items"] for item in each.values()]


def stored(lines: Sequence[bytes]) -> list[Record]:
    """Lines, decoded."""
    return [decode(line) for line in lines]


def record_of(document: Any, sink_path: str = "/_bulk", **members: Any) -> Record:
    """What one document becomes."""
    sink = MemorySink()
    reply = send(bulk_of(create(document, **members)), sink, sink_path)
    assert statuses(reply) == [201], reply.body
    assert ujson.loads(reply.body)["errors"] is False
    (found,) = stored(sink.stored)
    return found
