"""One event of Splunk's HTTP Event Collector as a record.

What lives here: which member of an event, or parameter of a raw request, becomes which part of a record. What must not:
where an event ends, answers (``wsgi.receivers.splunk_answers``).

Format of an event: Splunk's manual, "Format events for HTTP Event Collector".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from inlet.stream.errors import RecordInvalid
from inlet.stream.limits import RecordLimits
from wsgi.receivers import moments
from wsgi.receivers.flatten import flatten, put, text
from wsgi.receivers.foreign import Lines
from wsgi.receivers.splunk_answers import BLANK, MISSING

LABELS: Final = ("host", "source", "sourcetype", "index")
"""Members of an event that are metadata under their own names, and parameters of a raw request."""
OWN: Final = frozenset((*LABELS, "event", "time", "fields"))
MESSAGES: Final = ("message", "msg", "line", "log")
"""Members of a structured event that are its text, the first that is there: those of Splunk's own libraries (message),
other loggers (msg), Docker (line), and Fluent Bit (log)."""
SERVICES: Final = ("service.name", "service")
"""Members of ``fields``, or of a structured event, that name the service."""
MESSAGES_WITHIN: Final = 3
"""Objects within each other whose text is looked for: winston's is ``message.msg``, within the event."""
PREFIX: Final = "event."
"""Stands before the other members of a structured event in the metadata."""


class Events:
    """Turns events into records. Holds no state: safe between threads."""

    def __init__(self, limits: RecordLimits, *, keep_rejected: bool = False) -> None:
        self._limits, self._pairs_max = limits, limits.metadata_pairs_max
        self._keep = keep_rejected

    def take(self, lines: Lines, value: Any) -> None:
        """Take one decoded value as an event, or refuse it. Raises as ``Lines.take``."""
        if type(value) is not dict:
            self.refuse(lines, "an event is an object", value)
            return
        event = value.get("event")
        if event is None:
            self.refuse(lines, MISSING, value)
            return
        if type(event) is str:
            if not event or event.isspace():
                self.refuse(lines, BLANK, value)
                return
            message = event
        metadata: dict[str, str] = {}
        for name in LABELS:
            label = value.get(name)
            if label is not None and label != "":
                metadata[name] = label if type(label) is str else text(label)
        moment = value.get("time")
        timestamp = None if moment is None else moments.from_any(moment)
        if timestamp is None and moment is not None and moment != "":
            put(metadata, "time", text(moment))
        fields = value.get("fields")
        if type(fields) is dict:
            flatten(fields, "", metadata, pairs_max=self._pairs_max)
        elif fields is not None:
            put(metadata, "fields", text(fields))
        if not OWN.issuperset(value):
            others = {name: member for name, member in value.items() if name not in OWN}
            flatten(others, "", metadata, pairs_max=self._pairs_max)
        if type(event) is not str:
            message = self._structured(event, metadata)
        lines.take("", timestamp, service_of(metadata, event), message, metadata)

    def _structured(self, event: Any, metadata: dict[str, str]) -> str:
        """The message of an event that is no string; adds the event's other members to ``metadata``.

        All of it, as JSON, where it has no text of its own, or where its members would have to be cut.
        """
        value, prefix, found = event, PREFIX, dict[str, str]()
        for _ in range(MESSAGES_WITHIN):
            if type(value) is not dict or (own := _own(value)) is None:
                break
            others = value.copy()
            del others[own]
            flatten(others, prefix, found, pairs_max=self._pairs_max)
            value, prefix = value[own], f"{prefix}{own}."
        if not self._fits(found, metadata):
            return text(event)
        if metadata.keys().isdisjoint(found):
            metadata |= found
        else:
            for name, member in found.items():
                put(metadata, name, member)
        return text(value)

    def _fits(self, found: dict[str, str], metadata: dict[str, str]) -> bool:
        """Whether all pairs of both are within the bounds of a record."""
        limits = self._limits
        return not found or (
            len(found) + len(metadata) <= self._pairs_max
            and max(map(len, found)) <= limits.metadata_key_chars_max
            and max(map(len, found.values())) <= limits.metadata_value_chars_max
        )

    def refuse(self, lines: Lines, detail: str, value: Any) -> None:
        """Refuse one decoded value."""
        rejections = lines.rejections
        wanted = self._keep and (rejections is None or rejections.wants_rows)
        lines.reject(RecordInvalid.reason, detail, text(value).encode("utf-8", "replace") if wanted else b"")


def _own(value: dict[str, Any]) -> str | None:
    """The member that is an object's text."""
    for name in MESSAGES:
        if name in value and value[name] not in (None, ""):
            return name
    return None


def service_of(metadata: Mapping[str, str], event: object = None) -> str:
    """Return the service of a record: what names it, else its source, else its sourcetype; empty if there is none."""
    for name in SERVICES:
        if found := metadata.get(name):
            return found
        if type(event) is dict and type(found := event.get(name)) is str and found:
            return found
    return metadata.get("source") or metadata.get("sourcetype") or ""


class RawLabels:
    """What all lines of a raw request share: its parameters. The timestamp is None if there is none."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._metadata = {name: value for name in LABELS if (value := parameters.get(name))}
        moment = parameters.get("time")
        self._timestamp = moments.from_text(moment) if moment else None
        if moment and self._timestamp is None:
            self._metadata["time"] = moment
        self._service = service_of(self._metadata)

    def take(self, lines: Lines, line: str) -> None:
        """Take one line as an event. Raises as ``Lines.take``."""
        lines.take("", self._timestamp, self._service, line, self._metadata.copy())
