"""What the tests of the Loki receiver share: its application, requests in each form, and the records they become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import cramjam

from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode
from tests.receivers.support import MemorySink, Reply, account, ask, environ
from wsgi.receivers.admission import OPEN, Admission
from wsgi.receivers.application import Application
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.loki import PUSH, mount
from wsgi.receivers.loki_push import PushRequest
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app
from wsgi.receivers.slices import finish

PROTOBUF, JSON = "application/x-protobuf", "application/json"
NANOS = 1_769_903_999_123_456_789
TIME = "2026-01-31T23:59:59.123456789Z"

Pairs = Sequence[tuple[str, str]]


def bounds(payload: PayloadLimits | None = None, record: RecordLimits | None = None, *, keep: bool = False) -> Bounds:
    """The default bounds, but for these."""
    return Bounds(payload or PayloadLimits(), record or RecordLimits(), keep)


def app_of(sink: MemorySink, made_with: Bounds | None = None, admission: Admission = OPEN) -> Application:
    """The application with this receiver alone."""
    found = mount(made_with or bounds())
    return create_app(
        receivers=found.receivers, pages=found.pages, append=sink.append, admission=admission,
        operator=Operator(lambda: sink.not_ready),
    )  # fmt: skip


def push(
    body: bytes,
    content_type: str | None = PROTOBUF,
    path: str = PUSH,
    sink: MemorySink | None = None,
    made_with: Bounds | None = None,
    **more: Any,
) -> tuple[Reply, list[Any]]:
    """One request: the answer, and the records stored. Reading at once and in slices must come to the same."""
    sink = sink or MemorySink()
    receiver = mount(made_with or bounds()).receivers[PUSH]
    if "HTTP_CONTENT_ENCODING" not in more:
        env = environ(body, path, CONTENT_TYPE=content_type, **more)
        at_once = account(lambda: receiver.read(env, body))
        in_slices = account(lambda: finish(receiver.slices(env, body)))
        assert at_once is None or untimed(at_once) == untimed(in_slices or ())
    reply = ask(app_of(sink, made_with), environ(body, path, CONTENT_TYPE=content_type, **more))
    return reply, [decode(line) for line in sink.stored]


def untimed(outcome: tuple[Any, ...]) -> tuple[Any, ...]:
    """An outcome without ids and times that are of the moment: those of records with no time, or that are not whole."""
    if not outcome or type(outcome[0]) is not list:
        return outcome
    lines = [json.loads(line) for line in outcome[0]]
    now = [
        line[2:] if not line[1].startswith("2026-01") else line[1:] if "inlet.truncated" in line[4] else line
        for line in lines
    ]
    return now, *outcome[1:]


def snappy(raw: bytes) -> bytes:
    """One raw block."""
    return bytes(cramjam.snappy.compress_raw(raw))


def request(*streams: tuple[str, Sequence[tuple[int | None, str, Pairs]]]) -> bytes:
    """A PushRequest of (labels, entries), an entry being (nanoseconds, line, structured metadata)."""
    made = PushRequest()
    for labels, entries in streams:
        stream = made.streams.add(labels=labels.encode())
        for nanos, line, pairs in entries:
            entry = stream.entries.add(line=line.encode())
            if nanos is not None:
                entry.timestamp.seconds, entry.timestamp.nanos = divmod(nanos, 10**9)
            for name, value in pairs:
                entry.structured.add(name=name.encode(), value=value.encode())
    encoded: bytes = made.SerializeToString()
    return encoded


def json_request(*streams: tuple[dict[str, Any], Sequence[Any]]) -> bytes:
    """The same in JSON, of (labels, values)."""
    return json.dumps({"streams": [{"stream": labels, "values": list(values)} for labels, values in streams]}).encode()


def varint(number: int) -> bytes:
    """A varint."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes((*made, number))


def field(number: int, content: bytes) -> bytes:
    """A field with a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content
