"""What the tests of mapped JSON and its presets share: the application with them, and one request to its records."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from inlet.stream.limits import RecordLimits
from inlet.stream.record import Record, decode
from tests.receivers.support import MemorySink, Reply, ask, environ
from wsgi.receivers.admission import OPEN, Admission
from wsgi.receivers.application import Application
from wsgi.receivers.catalog import MOUNTS, mount
from wsgi.receivers.interfaces import Keep
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.receivers.shaped import Shaped

BOUNDS = Bounds(PayloadLimits(), RecordLimits())
OPERATOR = Operator(lambda: None)


def app_of(
    sink: MemorySink, bounds: Bounds = BOUNDS, *, admission: Admission = OPEN, operator: Operator = OPERATOR,
    keep: Keep | None = None,
) -> Application:  # fmt: skip
    """The application with every receiver."""
    found = mount(MOUNTS, bounds)
    return create_app(
        receivers=found.receivers, pages=found.pages, append=sink.append, admission=admission, operator=operator,
        keep_rejected=keep,
    )  # fmt: skip


def receiver_at(path: str, bounds: Bounds = BOUNDS) -> Shaped:
    """The receiver of a path."""
    found = mount(MOUNTS, bounds).receivers[path]
    assert isinstance(found, Shaped)
    return found


class Sent(NamedTuple):
    """What a request came to."""

    reply: Reply
    records: list[Record]

    @property
    def only(self) -> Record:
        """The one record."""
        assert self.reply.status in (200, 202), self.reply.body
        (record,) = self.records
        return record


def body_of(value: object) -> bytes:
    """Bytes as they are, anything else as JSON."""
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()


def send(path: str, value: object, bounds: Bounds = BOUNDS, **more: Any) -> Sent:
    """Post a body; ``more`` goes into the environ."""
    sink = MemorySink()
    reply = ask(app_of(sink, bounds), environ(body_of(value), path=path, **more))
    return Sent(reply, [decode(line) for line in sink.stored])
