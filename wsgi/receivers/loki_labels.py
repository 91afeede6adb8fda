"""What the entries of a Loki stream share: labels, the service they name, and the tenant.

What lives here: the text of labels, ``{job="api", pod="api-1"}`` (Prometheus' exposition of labels, with strings as in
Go), and which label names the service. What must not: entries, bodies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from inlet.stream.limits import RecordLimits
from wsgi.receivers import flatten
from wsgi.receivers.jsontext import SURROGATE

SERVICE_LABELS = (
    "service_name", "service", "app", "application", "app_name", "name", "app_kubernetes_io_name", "container",
    "container_name", "k8s_container_name", "component", "workload", "job", "k8s_job_name",
)  # fmt: skip
"""Labels that may name the service, in this order: those of Loki's own ``discover_service_name``."""
OWN_SERVICE_LABELS = frozenset(("service_name", "service"))
"""Of these, the ones that say nothing else: they become the service, and are no metadata."""
TEXT_CHARS_MAX = 65_536
"""Characters of a text of labels that is read: a longer one names no stream. Loki's own bound is on its labels: 15."""
TENANT, LABELS, TIMESTAMP, STRUCTURED = "loki.tenant", "loki.labels", "loki.timestamp", "structured_metadata."
"""Names of metadata: the header X-Scope-OrgID; labels and a time that cannot be read; and the prefix of structured
metadata whose name a label has."""
PAIR_WEIGHT = 16
"""Characters that a pair costs as much as, beside its own."""
HEAVY_WEIGHT = 4_096
"""Weight over which entries are taken one by one."""
SHORT_WEIGHT_MAX = 131_072
"""Weight of labels and structured metadata, times the entries that they are written into, of a request that is read in
one step: two milliseconds."""
REMEMBERED = 1_024
"""Texts of labels, each with its tenant, that are remembered..."""
REMEMBERED_CHARS_MAX = 512
"""... if they have no more characters: half a megabyte."""

_QUOTED = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_PAIR = re.compile(
    rf"[ \t\r\n]*+(?:([A-Za-z_][A-Za-z0-9_:.-]*+)|{_QUOTED})[ \t\r\n]*+=[ \t\r\n]*+"
    rf"(?:{_QUOTED}|`([^`]*+)`)[ \t\r\n]*+(,?)",
    re.DOTALL,
)
_PLAIN = {f"\\{char}": made for char, made in zip("abfnrtv\"'", "\a\b\f\n\r\t\v\"'", strict=True)}
"""Escapes of one character, but for that of a backslash."""
_NUMBERED = re.compile(r"(\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[0-7]{3}))")
_BACKSLASH = "\ud800"
"""Stands for an escaped backslash: a text has no surrogates when it is put there."""


class _Numbered(dict[str, str]):
    """Escape -> what it stands for. A byte that is no ASCII is half a UTF-16 pair, as in PEP 383."""

    def __missing__(self, escape: str) -> str:
        point = int(escape[2:], 16)
        return chr(point) if point < 0xD800 or 0xDFFF < point < 0x110000 else "\ufffd"


def _byte(value: int) -> str:
    return chr(value if value < 0x80 else 0xDC00 + value)


_HEX = "0123456789abcdefABCDEF"
_numbered = _Numbered(
    {f"\\x{high}{low}": _byte(int(high + low, 16)) for high in _HEX for low in _HEX}
    | {f"\\{value:03o}": _byte(value & 255) for value in range(0o1000)}
)
"""Those of bytes are made before, since a text can have sixteen thousand of them."""


class Shared(NamedTuple):
    """What the entries of a stream share."""

    service: str
    """Empty where no label names one."""
    metadata: dict[str, str]
    """Copy it before you change it."""
    weight: int
    """Characters of the metadata, and PAIR_WEIGHT for each pair: what writing it into a record costs."""


class Sharing:
    """Makes Shared of labels, within the bounds of a record. Holds no state but what it remembers."""

    def __init__(self, limits: RecordLimits) -> None:
        # One more than a record may have: then Foreign marks it as cut.
        self.pairs_max = limits.metadata_pairs_max + 1
        """Pairs of labels, and of an entry's structured metadata, that are read."""
        self._value_max = limits.metadata_value_chars_max + 1
        self._remembered = lru_cache(REMEMBERED)(self._of_text)

    def of_text(self, text: str, tenant: str) -> Shared:
        """Return what a text of labels says. One that cannot be read becomes metadata as it is. Raises nothing."""
        short = len(text) + len(tenant) <= REMEMBERED_CHARS_MAX
        return (self._remembered if short else self._of_text)(text, tenant)

    def _of_text(self, text: str, tenant: str) -> Shared:
        labels = parse(text, self.pairs_max) if text else {}
        if labels is None:
            labels = {LABELS: text[: self._value_max]}
        return self.of_labels(labels, tenant)

    def of_labels(self, labels: Mapping[str, Any], tenant: str) -> Shared:
        """Return what decoded labels say; values that are no strings are flattened. Raises nothing."""
        metadata = {TENANT: tenant} if tenant else {}
        for name, value in islice(labels.items(), self.pairs_max):
            if type(value) is str and name not in metadata:
                metadata[name] = value[: self._value_max]
            else:
                flatten.flatten({name: value}, "", metadata, pairs_max=self.pairs_max)
        if len(metadata) > self.pairs_max:
            metadata = dict(islice(metadata.items(), self.pairs_max))
        for name in SERVICE_LABELS:
            service = labels.get(name)
            if type(service) is str and service:
                if name in OWN_SERVICE_LABELS:
                    metadata.pop(name, None)
                break
        else:
            service = ""
        weight = len("".join(metadata)) + len("".join(metadata.values())) + PAIR_WEIGHT * len(metadata)
        return Shared(service, metadata, weight)


def put(metadata: dict[str, str], shared: Shared, name: str, value: str) -> None:
    """Add a pair of an entry's own: behind STRUCTURED where a label has its name. Of equal names the last wins."""
    metadata[STRUCTURED + name if name in shared.metadata else name] = value


def parse(text: str, pairs_max: int) -> dict[str, str] | None:
    """Return the first ``pairs_max`` labels of ``{name="value", ...}``; None if the text is something else.

    A name may stand in quotes, as of Prometheus 3. A value in quotes has Go's escapes; a backslash that begins none
    stays: python-logging-loki escapes quotes alone. A name that comes again gets ``#2`` behind it, or another number.
    """
    text = text.strip()
    if len(text) > TEXT_CHARS_MAX or text[:1] != "{" or text[-1:] != "}":
        return None
    labels: dict[str, str] = {}
    at, end = 1, len(text) - 1
    while found := _PAIR.match(text, at, end):
        name, quoted, value, raw, comma = found.groups()
        flatten.put(labels, name if quoted is None else unquote(quoted), raw if value is None else unquote(value))
        at = found.end()
        if len(labels) >= pairs_max:
            return labels
        if not comma:
            break
    return labels if not text[at:end].strip() else None


def unquote(text: str) -> str:
    """Return a string of Go without its quotes (The Go Programming Language Specification, "String literals").

    Half of a UTF-16 pair becomes U+FFFD, escaped or not.
    """
    if "\\" not in text:
        return text
    # PERF: a call for each escape took 24 ms for 65,536 characters of them; this takes 2, and 6 if all are numbered.
    text = SURROGATE.sub("\ufffd", text).replace("\\\\", _BACKSLASH)
    for escape, char in _PLAIN.items():
        text = text.replace(escape, char)
    if "\\" in text:
        parts = _NUMBERED.split(text)
        if len(parts) > 1:
            parts[1::2] = map(_numbered.__getitem__, parts[1::2])
            # Bytes are half pairs until they are all there (PEP 383): several may be one character.
            text = "".join(parts).replace(_BACKSLASH, "\\")
            return text.encode(errors="surrogateescape").decode(errors="replace")
    return text.replace(_BACKSLASH, "\\")
