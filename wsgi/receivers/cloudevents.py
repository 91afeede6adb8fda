"""CloudEvents: ``POST /cloudevents``, events in structured, batched and binary mode.

What lives here: the three modes, and which attribute of an event is which part of a record. What must not: the steps of
a request (``wsgi.receivers.shaped``). Sources: CloudEvents 1.0.2, its HTTP protocol binding, and its JSON format.

Producers choose ids so that source and id together are unique (CloudEvents, section "id"). So the event_id is both,
with a space between, and a source's own spaces and percent signs are encoded: no two pairs are written alike.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from wsgi.problems import ClientError
from wsgi.receivers import documents, moments
from wsgi.receivers.documents import Document
from wsgi.receivers.flatten import flatten
from wsgi.receivers.foreign import Lines
from wsgi.receivers.headerfields import bare_type
from wsgi.receivers.mounting import Bounds, Mount
from wsgi.receivers.shaped import Reading, Shaped, media_type, refuse, refuse_kind
from wsgi.receivers.written import written

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

PATH = "/cloudevents"
STRUCTURED = frozenset({"application/cloudevents+json", "application/cloudevents-batch+json"})
REQUIRED = ("id", "source", "type")
FIELD = "HTTP_CE_"
FIELDS_MAX = 128
"""Attributes that header fields may hold: more than a record can have is more than anybody sends."""
ID_CHARS_MAX = 1_024
"""Characters of a source or an id; a longer one is its digest in an event_id. To encode 8 MiB takes 130 ms."""
DIGEST_BYTES = 16
ENCODED = "data_base64"
"""Metadata, ``true``, of an event whose message is the base64 of its data: data that is no text."""


def mount(bounds: Bounds) -> Mount:
    """Mount ``POST /cloudevents``."""
    pairs_max = bounds.record.metadata_pairs_max

    def take(lines: Lines, value: Any) -> None:
        _take(lines, value, pairs_max)

    def begin(environ: WSGIEnvironment, body: bytes) -> Reading:
        kind = bare_type(environ.get("CONTENT_TYPE", ""))
        if kind in STRUCTURED:
            return Reading(documents.read(body), take)
        if kind.startswith("application/cloudevents"):
            detail = f"of CloudEvents' formats this service reads JSON: {' and '.join(sorted(STRUCTURED))}"
            raise ClientError("unsupported-media-type", detail)
        if "HTTP_CE_ID" in environ or "HTTP_CE_SPECVERSION" in environ:
            return Reading(iter([Document(_binary(environ, body))]), take)
        media_type(environ)
        return Reading(documents.read(body), take)

    return Mount({PATH: Shaped("cloudevents", bounds, begin, probed=True)})


def _take(lines: Lines, value: Any, pairs_max: int) -> None:
    if type(value) is not dict:
        refuse_kind(lines, value)
        return
    missing = [name for name in REQUIRED if type(value.get(name)) is not str or not value[name]]
    if missing:
        refuse(lines, f"a CloudEvent has the attributes id, source and type; missing: {', '.join(missing)}", value)
        return
    source = value.pop("source")
    event_id = f"{_short(source).replace('%', '%25').replace(' ', '%20')} {_short(value.pop('id'))}"
    value.pop("specversion", None)
    timestamp = moments.from_any(value.get("time"))
    if timestamp is not None:
        del value["time"]
    message = _data(value)
    metadata: dict[str, str] = {}
    flatten(value, "", metadata, pairs_max=pairs_max)
    lines.take(event_id, timestamp, source, message, metadata)


def _short(name: str) -> str:
    """A source or an id, or the digest of a long one."""
    if len(name) <= ID_CHARS_MAX:
        return name
    return blake2b(name.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


def _data(value: dict[str, Any]) -> str:
    """Take the data out; return it as text: a string as it is, binary data that is text as that, all else as JSON.

    Beside ``data``, which CloudEvents forbids, ``data_base64`` stays: it is not known to be the same.
    """
    if "data" in value:
        data = value.pop("data")
        return "" if data is None else written(data)
    encoded = value.pop(ENCODED, None)
    if type(encoded) is not str:
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        value[ENCODED] = "true"
        return encoded


def _binary(environ: WSGIEnvironment, body: bytes) -> dict[str, Any]:
    """The event of a request in binary mode (HTTP protocol binding, section 3.1)."""
    event: dict[str, Any] = dict(_attributes(environ))
    kind = environ.get("CONTENT_TYPE", "")
    if kind:
        event["datacontenttype"] = kind
    if body:
        try:
            event["data"] = body.decode()
        except UnicodeDecodeError:
            event[ENCODED] = base64.b64encode(body).decode()
    return event


def _attributes(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    """The attributes in header fields, each decoded once (section 3.1.3.2)."""
    names = [name for name in environ if name.startswith(FIELD)]
    for name in names[:FIELDS_MAX]:
        value = environ[name].strip()
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        # PEP 3333: header fields are latin-1; what was sent raw may be UTF-8 all the same.
        yield (
            name[len(FIELD) :].lower(),
            unquote_to_bytes(value.encode("latin-1", "replace")).decode("utf-8", "replace"),
        )
