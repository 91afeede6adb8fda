"""Mapped JSON: ``POST /ingest/json``, any object as a record.

What lives here: where loggers and shippers put the time, the message, the service and the id, and how a query says it
otherwise. What must not: the steps of a request (``wsgi.receivers.shaped``), how members are found
(``wsgi.receivers.members``).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from wsgi.problems import ClientError
from wsgi.receivers import documents, packed
from wsgi.receivers.documents import Document
from wsgi.receivers.flatten import flatten
from wsgi.receivers.foreign import Lines
from wsgi.receivers.members import Path, take_any, take_moment, take_text
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.shaped import Reading, Shaped, Take, media_type, refuse_kind

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

PATH = "/ingest/json"
MSGPACK = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})
QUERY_CHARS_MAX = 4_096
"""Characters of a query that is read."""
PATHS_MAX = 8
"""Paths of one part of a record in a query."""
PATH_DOTS_MAX = 8
"""Dots in such a path: each is a step of its look-up, in every record."""

# docs/receivers/json.md prints these; a test compares the two.
TIMES: tuple[Path, ...] = (
    "@timestamp", "timestamp", "time", "ts", "date", "datetime", "asctime", "@t", "Timestamp", "instant", "timeMillis",
    "eventTime", "event_time", "__REALTIME_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP", "timereported", "timegenerated",
)  # fmt: skip
MESSAGES: tuple[Path, ...] = (
    "message", "msg", "log", "event", "@m", "RenderedMessage", "@mt", "MessageTemplate", "MESSAGE", "short_message",
    "textPayload", "body", "text",
)  # fmt: skip
STRUCTURED: tuple[Path, ...] = ("message", "msg", "body", "MESSAGE")
"""Those that may hold an object or an array, which becomes JSON text."""
SERVICES: tuple[Path, ...] = (
    "service.name", "service", "service_name", "serviceName", "app", "app_name", "appName", "appname", "application",
    "application_name", "Application", "kubernetes.labels.app.kubernetes.io/name", "kubernetes.labels.app",
    "kubernetes.pod_labels.app.kubernetes.io/name", "kubernetes.pod_labels.app", "kubernetes.container_name",
    "kubernetes.container.name", "container_name", "programname", "SYSLOG_IDENTIFIER", "ident", "channel", "name",
)  # fmt: skip
IDS: tuple[Path, ...] = ("event_id", "event.id", "insertId")
"""Only a string is one: numbers under these names are kinds of events, as in Windows' log."""


class Shape(NamedTuple):
    """Where the parts of a record stand, the first that is present wins. ``None``: where loggers put it."""

    time: tuple[Path, ...] = TIMES
    message: tuple[Path, ...] | None = None
    service: tuple[Path, ...] = SERVICES
    event_id: tuple[Path, ...] | None = None
    default_service: str = ""
    status: str = "202 Accepted"


PLAIN = Shape()


def mount(bounds: Bounds) -> Mount:
    """Mount ``POST /ingest/json``, and its probe."""
    pairs_max = bounds.record.metadata_pairs_max

    def begin(environ: WSGIEnvironment, body: bytes) -> Reading:
        packs = media_type(environ) in MSGPACK
        query = environ.get("QUERY_STRING")
        shape = shape_of(query) if query else PLAIN
        found: Generator[Document | None, None, None]
        found = packed.read(body) if packs else documents.read(body, envelopes=True)
        return Reading(found, taker(shape, pairs_max), shape.status)

    return Mount({PATH: Shaped("json", bounds, begin, probed=True)})


def taker(shape: Shape, pairs_max: int) -> Take:
    """Return what takes objects of this shape."""
    times, services, default = shape.time, shape.service, shape.default_service

    def take(lines: Lines, value: Any) -> None:
        if type(value) is not dict:
            refuse_kind(lines, value)
            return
        timestamp = take_moment(value, times)
        event_id = take_id(value) if shape.event_id is None else take_text(value, shape.event_id)
        message = take_message(value) if shape.message is None else take_any(value, shape.message) or ""
        service = take_text(value, services) or default
        metadata: dict[str, str] = {}
        flatten(value, "", metadata, pairs_max=pairs_max)
        lines.take(event_id, timestamp, service, message, metadata)

    return take


def take_message(value: dict[str, Any]) -> str:
    """Take the message out, from where loggers put it; return an empty one if there is none."""
    return take_text(value, MESSAGES) or take_any(value, STRUCTURED) or ""


def take_id(value: dict[str, Any]) -> str:
    """Take the id out, from where shippers put it; return an empty one if there is none."""
    for path in IDS:
        found = value.get(path)
        if type(found) is str and found:
            del value[path]
            return found
    return ""


def shape_of(query: str) -> Shape:
    """Return what a query says; raise ClientError (``bad-request``) beyond its bounds.

    ``time``, ``message``, ``service``, ``id``: paths, apart by commas. ``default_service``: where there is none.
    ``ok=200``: the status of success. Others are for others.
    """
    if len(query) > QUERY_CHARS_MAX:
        raise ClientError("bad-request", f"the query has over {QUERY_CHARS_MAX} characters")
    said = dict(parse_qsl(query))
    paths = {name: _paths(name, said[name]) for name in ("time", "message", "service", "id") if name in said}
    return Shape(
        time=paths.get("time", TIMES),
        message=paths.get("message"),
        service=paths.get("service", SERVICES),
        event_id=paths.get("id"),
        default_service=said.get("default_service", ""),
        status="200 OK" if said.get("ok") == "200" else "202 Accepted",
    )


def _paths(name: str, text: str) -> tuple[Path, ...]:
    paths = tuple(path for each in text.split(",") if (path := each.strip()))
    if len(paths) > PATHS_MAX or any(path.count(".") > PATH_DOTS_MAX for path in paths):
        detail = f"{name} names at most {PATHS_MAX} paths, apart by commas, each with at most {PATH_DOTS_MAX} dots"
        raise ClientError("bad-request", detail)
    return paths
