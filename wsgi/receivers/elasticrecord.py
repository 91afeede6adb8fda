"""A document of an Elasticsearch bulk as the parts of a record.

What lives here: action lines, and which members of a document are its time, service and message. What must not: how
lines are found (``wsgi.receivers.elasticbulk``), answers. docs/receivers/elasticsearch.md is the contract.

Action lines follow the Bulk API of Elasticsearch 8 (docs-bulk.html): ``{"create":{"_index":"logs","_id":"1"}}``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import ujson

from wsgi.problems import ClientError
from wsgi.receivers import flatten, moments
from wsgi.receivers.foreign import Lines, whole

BAD_INDEX = (
    '_index is no valid name of an index: at most 255 bytes, lower case, without \\ / * ? " < > | space , # : and '
    "not beginning with _ - +"
)
"""The fault of an action whose index Elasticsearch would refuse too, as ``invalid_index_name_exception``."""
STORED = ("index", "create")
REFUSED = ("update", "delete")
INDEX_BYTES_MAX = 255
"""Bytes of an index's name: Elasticsearch's own bound. Every item of the answer repeats the name."""
ID_BYTES_MAX = 512
"""Bytes of an ``_id``: Elasticsearch's own bound."""
OPTION_CHARS_MAX = 1_024
"""Characters of ``routing`` and ``pipeline`` that are kept."""

TIMES = ("@timestamp", "timestamp", "time")
"""Members that may hold the time; the first that is a moment does."""
SERVICES = ("app", "application", "programname")
"""Members that may name the service, after ``service.name`` and ``service``."""
MESSAGES = ("message", "msg", "log", "event")
"""Members that may hold the message: the first that is a text; ``message`` may be anything."""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NO_INDEX = re.compile(r'[\\/*?"<>| ,#:]|^[-_+]|^\.\.?$')


class Action(NamedTuple):
    """One action line."""

    operation: str
    index: str  # type: ignore[assignment]  # tuple.index is not wanted here; the name is the wire's
    """Empty where none is named, or none that could be one."""
    own_id: str
    """``_id``; empty where the client gave none."""
    options: tuple[tuple[str, str], ...] = ()
    """What is kept of the other members."""
    fault: str = ""
    """Why its document is refused."""


class Defaults(NamedTuple):
    """What holds for actions that do not say otherwise: of the path, and of the query."""

    index: str = ""  # type: ignore[assignment]  # as above
    routing: str = ""
    pipeline: str = ""


def action_of(value: Any, defaults: Defaults) -> Action:
    """Return the action of a decoded action line. Raises ClientError (``malformed-payload``) where it is none."""
    if type(value) is not dict or len(value) != 1:
        raise _malformed()
    ((operation, members),) = value.items()
    if operation not in STORED and operation not in REFUSED:
        raise _malformed()
    if type(members) is not dict:
        raise _malformed()
    index, own_id = members.get("_index"), members.get("_id")
    fault, name = "", defaults.index if index is None else index
    if type(name) is not str or (name and not is_index(name)):
        name, fault = "", BAD_INDEX
    if own_id is None:
        own_id = ""
    elif type(own_id) is not str and type(own_id) is not int:
        own_id, fault = "", fault or "_id is neither a string nor an integer"
    else:
        own_id = whole(flatten.text(own_id))
        if not own_id:
            fault = fault or "if _id is specified it must not be empty"
        elif len(own_id.encode()) > ID_BYTES_MAX:
            fault = fault or f"_id is too long: at most {ID_BYTES_MAX} bytes"
            own_id = own_id[:OPTION_CHARS_MAX]
    options: tuple[tuple[str, str], ...] = ()
    for member, default in (("routing", defaults.routing), ("pipeline", defaults.pipeline)):
        option = members.get(member, default)
        if option is not None and option != "":
            options += (("_" + member, whole(flatten.text(option)[:OPTION_CHARS_MAX])),)
    if operation in REFUSED:
        fault = f"{operation} is not supported: a stored record is never changed; send index or create"
    return Action(operation, name, own_id, options, fault)


@lru_cache(maxsize=64)  # PERF: half a microsecond an action with an _id
def is_index(name: str) -> bool:
    """Return whether ``name`` may be an index's: by Elasticsearch's rules (MetadataCreateIndexService), and printable.

    JSON and a line hold it as it is, and it has no slash.
    """
    return (
        name.isprintable()
        and _NO_INDEX.search(name) is None
        and name == name.lower()
        and len(name.encode()) <= INDEX_BYTES_MAX
    )


def event_id(action: Action) -> str:
    """Return the record's id, ``INDEX/_id``; empty where there is no ``_id``.

    An ``_id`` is unique within its index only. No index has a slash, and none is empty: without one the id is ``/_id``.
    """
    return f"{action.index}/{action.own_id}" if action.own_id else ""


def take(lines: Lines, action: Action, document: dict[str, Any], pairs_max: int = 0) -> None:
    """Take one document, which belongs to the record afterwards. Raises as ``Lines.take``.

    ``pairs_max``: members of a huge document that are looked at; a record keeps no more of them, and taking a hundred
    thousand apart would hold up everybody else. 0: all.
    """
    timestamp = None
    for name in TIMES:
        if name in document:
            timestamp = _moment(document[name])
            if timestamp is not None:
                del document[name]
                break
    message = document.get("message")
    if type(message) is str:
        del document["message"]
    else:
        message = _message(document)
    service = _service(document)
    metadata = {"_index": action.index} if action.index else {}
    if action.options:
        metadata.update(action.options)
    if pairs_max:
        document = _pruned(document, [pairs_max])
    if document:
        flatten.flatten(document, "", metadata)
    lines.take(event_id(action), timestamp, service or action.index, message, metadata)


def _moment(value: Any) -> str | None:
    """The time that a member says; Elasticsearch reads a date alone as the beginning of that day, in UTC."""
    found = moments.from_any(value)
    if found is None and type(value) is str and _DATE.fullmatch(value):
        return moments.from_text(f"{value}T00:00:00Z")
    return found


def _message(document: dict[str, Any]) -> str:
    """The message of a document whose ``message`` is no text, taken out of it; empty where it has none."""
    if document.get("message") is not None:
        return flatten.text(document.pop("message"))
    for name in MESSAGES:
        if type(document.get(name)) is str:
            found: str = document.pop(name)
            return found
    return ""


def _service(document: dict[str, Any]) -> str:
    """The service that a document names, taken out of it; empty where it names none."""
    service = document.get("service.name")
    if type(service) is str and service:
        del document["service.name"]
        return service
    service = document.get("service")
    if type(service) is str and service:
        del document["service"]
        return service
    if type(service) is dict:
        name = service.get("name")
        if type(name) is str and name:
            del service["name"]
            if not service:
                del document["service"]
            return name
    for member in SERVICES:
        service = document.get(member)
        if type(service) is str and service:
            del document[member]
            return service
    return ""


def _pruned(value: dict[str, Any], left: list[int], depth: int = 1) -> dict[str, Any]:
    """The first members of ``value`` and of the objects within, ``left[0]`` in all."""
    found: dict[str, Any] = {}
    for name, member in value.items():
        if left[0] <= 0:
            break
        if type(member) is dict and member and depth < flatten.DEPTH_MAX:
            found[name] = _pruned(member, left, depth + 1)
        else:
            found[name] = member
            left[0] -= 1
    return found


def text_of(value: Any) -> bytes:
    """Return JSON of one text for an answer."""
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()


def _malformed() -> ClientError:
    return ClientError(
        "malformed-payload",
        "Malformed action/metadata line: expected one object with one of index, create, update and delete; no record "
        "of this request was stored",
    )
