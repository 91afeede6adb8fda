"""GELF: ``POST /gelf``, the Graylog Extended Log Format 1.1 over HTTP.

What lives here: which member of a message is which part of a record. What must not: the steps of a request
(``wsgi.receivers.shaped``). Source: Graylog, "GELF Payload Specification", version 1.1.

Beyond the specification, a body may hold several messages, in any way that ``wsgi.receivers.documents`` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi.receivers import documents, moments
from wsgi.receivers.flatten import flatten, put, text
from wsgi.receivers.foreign import Lines
from wsgi.receivers.members import Path, find, take_any, take_text
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.shaped import Reading, Shaped, media_type, refuse, refuse_kind

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

PATH = "/gelf"
SHORT: tuple[Path, ...] = ("short_message", "message")
FULL: Path = "full_message"
"""What is empty in SHORT gives way to this."""
SERVICES: tuple[Path, ...] = (
    "_service.name", "_service", "_service_name", "_app", "_application", "_app_name", "_application_name", "facility",
    "_facility", "_container_name", "_tag",
)  # fmt: skip
VERSIONS = frozenset({"1.0", "1.1"})


def mount(bounds: Bounds) -> Mount:
    """Mount ``POST /gelf``."""
    pairs_max = bounds.record.metadata_pairs_max

    def take(lines: Lines, value: Any) -> None:
        if type(value) is not dict:
            refuse_kind(lines, value)
            return
        if value.get(FULL):
            for name in SHORT:
                if value.get(name) == "":
                    del value[name]
        message = take_any(value, (*SHORT, FULL))
        if message is None:
            refuse(lines, "a GELF message has a short_message", value)
            return
        # Seconds, says the specification; several libraries send milliseconds.
        timestamp = moments.from_any(value.get("timestamp"))
        if timestamp is not None:
            del value["timestamp"]
        if value.get("version") in VERSIONS:
            del value["version"]
        service = take_text(value, SERVICES)
        if not service and type(host := find(value, "host")) is str:
            service = host  # the specification: "the name of the host, source or application that sent this message"
        metadata: dict[str, str] = {}
        for name, member in value.items():
            name = name[1:] if name[:1] == "_" and len(name) > 1 else name
            if type(member) is dict:
                flatten({name: member}, "", metadata, pairs_max=pairs_max)
            elif len(metadata) <= pairs_max:
                put(metadata, name, text(member))
        lines.take("", timestamp, service, message, metadata)

    def begin(environ: WSGIEnvironment, body: bytes) -> Reading:
        media_type(environ)
        return Reading(documents.read(body), take)

    return Mount({PATH: Shaped("gelf", bounds, begin, probed=True)})
