"""Words for what is wrong with a record that was refused: every fault, up to a bound.

What lives here: the slow way through a record's bounds, which only runs once a record is known to be bad. What must
not: the decision whether it is bad (``inlet.stream.record``), a byte of the record unescaped in a detail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from inlet.stream import timestamp as timestamps
from inlet.stream.errors import RecordInvalid, RecordTooLarge
from inlet.stream.limits import RecordLimits

FAULTS_NAMED_MAX = 8
"""Faults that one detail names: enough to fix a record at once, and a bound on what a hostile one costs."""
QUOTED_CHARS_MAX = 64
"""Characters of a producer's own text that a detail quotes, escaped to ASCII: enough to find a key by."""
REQUIRED = ("event_id", "timestamp", "service", "message")
"""Members that every record has, each a string."""

_REQUIRED = frozenset(REQUIRED)
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class _Fault(NamedTuple):
    """One fault in words. ``bound``: a length or a count is over its bound, and nothing else is wrong."""

    words: str
    bound: bool = False


def refusal(value: object, limits: RecordLimits) -> RecordInvalid:
    """Return the error that names every fault of ``value``, at most FAULTS_NAMED_MAX, separated by semicolons.

    RecordTooLarge where each of them is a bound, else RecordInvalid. ``value`` is decoded JSON, known to be refused.
    """
    if type(value) is not dict:
        return RecordInvalid(f"a record is a JSON object, not {kind(value)}")
    found = list(islice(_faults(value, limits), FAULTS_NAMED_MAX + 1))
    named = found[:FAULTS_NAMED_MAX]
    detail = "; ".join(fault.words for fault in named) or "the record breaks the contract"
    if len(found) > len(named):
        detail += "; and more"
    if found and all(fault.bound for fault in found):
        return RecordTooLarge(detail)
    return RecordInvalid(detail)


def verdict(value: object, limits: RecordLimits) -> RecordInvalid:
    """Return an error of the class that ``refusal`` would give, without its words: several times as fast."""
    if type(value) is not dict or not value.keys() >= _REQUIRED:
        return RecordInvalid("")
    found = islice(_faults(value, limits), FAULTS_NAMED_MAX + 1)
    first = next(found, None)
    if first is not None and first.bound and all(fault.bound for fault in found):
        return RecordTooLarge("")
    return RecordInvalid("")


def too_many_bytes(size: int, limits: RecordLimits) -> RecordTooLarge:
    """Return the error of a line of ``size`` bytes, over its bound."""
    return RecordTooLarge(f"the record takes {size} bytes; at most {limits.record_bytes_max} are allowed")


def _faults(value: dict[str, object], limits: RecordLimits) -> Iterator[_Fault]:
    missing = [name for name in REQUIRED if name not in value]
    if missing:
        yield _Fault("missing: " + ", ".join(missing))
    for name in REQUIRED:
        if name in value:
            yield from _member_faults(name, value[name], getattr(limits, f"{name}_chars_max"))
    yield from _metadata_faults(value.get("metadata", {}), limits)


def _member_faults(name: str, member: object, chars_max: int) -> Iterator[_Fault]:
    if type(member) is not str:
        epoch = name == "timestamp" and kind(member) == "a number"
        hint = f": convert epoch time to RFC 3339, such as {timestamps.EXAMPLE}" if epoch else ""
        yield _Fault(f"{name} must be a string, not {kind(member)}{hint}")
    elif not member:
        if name != "message":
            yield _Fault(f"{name} must not be empty")
    elif len(member) > chars_max:
        yield _too_long(name, len(member), chars_max)
    elif name == "timestamp":
        if not timestamps.is_valid(member):
            yield _Fault(f"timestamp {timestamps.explain(member)}")
    else:
        yield from _surrogate_fault(name, member)


def _metadata_faults(metadata: object, limits: RecordLimits) -> Iterator[_Fault]:
    if type(metadata) is not dict:
        yield _Fault(f"metadata must be an object of strings, not {kind(metadata)}")
        return
    if len(metadata) > limits.metadata_pairs_max:
        pairs, pairs_max = len(metadata), limits.metadata_pairs_max
        yield _Fault(f"metadata has {pairs} pairs; at most {pairs_max} are allowed", bound=True)
    chars = 0
    for key, member in metadata.items():
        if type(key) is not str:
            yield _Fault("a metadata key must be a string")
            continue
        if len(key) > limits.metadata_key_chars_max:
            yield _too_long("a metadata key", len(key), limits.metadata_key_chars_max)
        name = f"metadata {ascii(key)[:QUOTED_CHARS_MAX]}"
        yield from _surrogate_fault("a metadata key", key)
        if type(member) is not str:
            yield _Fault(f"{name} must be a string, not {kind(member)}")
            continue
        chars += len(member)
        if len(member) > limits.metadata_value_chars_max:
            yield _too_long(name, len(member), limits.metadata_value_chars_max)
        yield from _surrogate_fault(name, member)
    if chars > limits.record_bytes_max:
        bytes_max = limits.record_bytes_max
        words = f"metadata holds {chars} characters; a record takes at most {bytes_max} bytes"
        yield _Fault(words, bound=True)


def _surrogate_fault(name: str, text: str) -> Iterator[_Fault]:
    found = None if text.isascii() else _SURROGATE.search(text)
    if found is not None:
        escape = f"\\u{ord(found[0]):04x}"
        yield _Fault(f"{name} holds a lone surrogate, {escape}, which is no character; send its pair, or \\ufffd")


def _too_long(name: str, chars: int, chars_max: int) -> _Fault:
    return _Fault(f"{name} is {chars} characters long; at most {chars_max} are allowed", bound=True)


def kind(value: object) -> str:
    """Return the JSON name of a decoded value's type, with its article."""
    return _KINDS.get(type(value), "a number")
