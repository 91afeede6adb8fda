"""Loki's push request in JSON: entries to records, at once or in slices.

What lives here: today's form (``stream`` and ``values``), the one before it (``labels`` and ``entries``), and where a
long text is cut. What must not: protobuf, answers. Source: grafana/loki, ``pkg/loghttp/query.go``.

Which form a stream has is seen in the stream, not in the path: python-logging-loki sends the old one to any.

A long text is cut at commas between two streams or two entries, and each piece is decoded between the brackets that
stand around it. A cut need only be likely: decoding proves it, as in ``wsgi.receivers.arrays``. Put a mark and ``]}]}``
behind a text up to a cut. If this decodes, and the mark is the last element of ``values`` in the last stream, then the
decoder was in that array when it came to the cut: no client can spell the mark. A next piece that begins with the same
four brackets leads it to the same state, with the mark for what was there before. So the pieces together decode as the
whole does.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator
from time import monotonic
from typing import Any

from inlet.stream.errors import RecordInvalid
from inlet.stream.limits import RecordLimits
from inlet.stream.record import LOADS_ERRORS
from wsgi.receivers import flatten, jsontext, moments
from wsgi.receivers.excerpt import excerpt
from wsgi.receivers.foreign import Lines, too_many
from wsgi.receivers.loki_labels import PAIR_WEIGHT, SHORT_WEIGHT_MAX, TIMESTAMP, Shared, Sharing, put
from wsgi.receivers.loki_snappy import malformed
from wsgi.receivers.slices import SLICE_SECONDS

SHORT_RECORDS_MAX = 256
"""Entries, and streams, of a request that is taken in one step."""
SHORT_BYTES_MAX = 65_536
"""Bytes of a text that is decoded in one step before its entries are counted: two thirds of a millisecond."""
WINDOW_BYTES = 65_536
"""Bytes of a piece, if there is a cut within; else twice as many, and so on."""
CHECKED_WINDOW_BYTES = 1_048_576
"""Bytes of a piece over which its values are counted before it is decoded."""
DEPTH_MAX = 1_000
"""Arrays and objects within each other in a text that is decoded; ujson gives up at 1,024. What nests deeper than names
go is written as JSON (``flatten``), so that one such entry does not cost the others of its request."""
REJECTED_BYTES = 4_096
"""Bytes of a refused entry that are kept."""
INT64_DIGITS = 19
_NANOSECONDS = 0
"""Unit of an epoch (``wsgi.receivers.moments``)."""
_CUT = re.compile(rb"[}\]][ \t\r\n]*+(,)[ \t\r\n]*+[{\[]")
_MARK = secrets.token_hex(8)
"""A string that no client knows: stands where a piece ends, and for what was before it."""
_END_OF_STREAMS, _END_OF_ENTRIES = b',"%b"]}' % _MARK.encode(), b',"%b"]}]}' % _MARK.encode()
_MORE_STREAMS = b'{"streams":["%b"' % _MARK.encode()
_MORE_ENTRIES = b'{"streams":["%b",{"%%b":["%b"' % (_MARK.encode(), _MARK.encode())
_POINT = re.compile(r"[\s0-9+-]*+\.[\s0-9]*+")
_LISTS = ("values", "entries")
_MEMBERS = frozenset((*_LISTS, "stream", "labels", "hash"))
"""Members of a stream, in both forms; without entries, none other may hold anything."""
_NOTHING = object()


class JsonReader:
    """Reads requests in JSON. Holds no state: safe between threads."""

    def __init__(self, sharing: Sharing, limits: RecordLimits, records_max: int) -> None:
        self._sharing, self._records_max = sharing, records_max
        self._pairs_max = sharing.pairs_max
        self._message_max = limits.message_chars_max + 1

    def read(self, body: bytes, lines: Lines, tenant: str) -> bool:
        """Take all entries of a short request; return False, having taken none, if there are many.

        Raises ClientError (``malformed-payload``, and as ``Lines.take``).
        """
        if len(body) > SHORT_BYTES_MAX:
            return False
        jsontext.check_nesting(body, DEPTH_MAX)
        streams = _streams(jsontext.load(body, DEPTH_MAX, jsontext.with_texts_of_numbers))
        if len(streams) + sum([len(_entries(stream)) for stream in streams]) > SHORT_RECORDS_MAX:
            return False
        # Every pair of structured metadata has a colon.
        found, weight = [], PAIR_WEIGHT * body.count(b":")
        for stream in streams:
            entries, shared = _entries(stream), self._shared(stream, tenant)
            weight += shared.weight * len(entries)
            found.append((entries, shared))
        if weight > SHORT_WEIGHT_MAX:
            return False
        for entries, shared in found:
            for entry in entries:
                self._take(entry, shared, lines)
        return True

    def slices(self, body: bytes, lines: Lines, tenant: str) -> Generator[None, None, None]:
        """Take all entries of a request of any size. Raises as ``read``."""
        yield from jsontext.nesting_slices(body, DEPTH_MAX)
        due = monotonic() + SLICE_SECONDS
        streams = _streams((yield from self._load(body)))
        self._check_count(streams)
        for stream in streams:
            shared = None
            for entry in _entries(stream) or (_NOTHING,):
                if entry is not _NOTHING:
                    shared = shared or self._shared(stream, tenant)
                    self._take(entry, shared, lines)
                if monotonic() >= due:
                    yield
                    due = monotonic() + SLICE_SECONDS

    def _load(self, body: bytes) -> Generator[None, None, Any]:
        """Decode a text piece by piece. Raises ClientError (``malformed-payload``, ``payload-too-large``)."""
        start = len(jsontext.BOM) if body.startswith(jsontext.BOM) else 0
        before, whole, window, among_entries = b"", None, WINDOW_BYTES, False
        while len(body) - start > window:
            if window > CHECKED_WINDOW_BYTES and (
                yield from jsontext.has_too_many_values(body[start : start + window])
            ):
                raise jsontext.too_many_values()
            cut = _likely_cut(body, start, window)
            found = None if cut < 0 else _piece(before + body[start:cut], body, cut)
            yield
            if found is None:
                window *= 2
                continue
            whole = _join(whole, found[0], among_entries=among_entries)
            before, among_entries = found[1], found[1] != _MORE_STREAMS
            self._check_count(whole["streams"])
            start, window = cut, WINDOW_BYTES
        if len(body) - start > CHECKED_WINDOW_BYTES and (yield from jsontext.has_too_many_values(body[start:])):
            raise jsontext.too_many_values()
        try:
            value = jsontext.strict(before + body[start:])
        except LOADS_ERRORS as error:
            message, digits = str(error), jsontext.has_long_number(error)
        else:
            return _join(whole, value, among_entries=among_entries)
        numbers = jsontext.with_texts_of_numbers
        return (yield from jsontext.load_again(body, DEPTH_MAX, message, digits=digits, numbers=numbers))

    def _check_count(self, streams: list[Any]) -> None:
        """Raise ClientError (``payload-too-large``) where there are too many streams, or entries in the last one."""
        last = streams[-1] if streams else None
        entries = [last.get(name) for name in _LISTS] if type(last) is dict else []
        if max(len(found) for found in (streams, *entries) if type(found) is list) > self._records_max:
            raise too_many(self._records_max)

    def _shared(self, stream: dict[str, Any], tenant: str) -> Shared:
        labels = stream.get("stream")
        if labels is None:
            labels = stream.get("labels")
        if type(labels) is dict:
            return self._sharing.of_labels(labels, tenant)
        return self._sharing.of_text("{}" if labels is None else flatten.text(labels), tenant)

    def _take(self, entry: Any, shared: Shared, lines: Lines) -> None:
        """Take one entry: ``["ns", "line", {..}]``, or ``{"ts":.., "line":..}`` of the old form."""
        if type(entry) is list and len(entry) >= 2:
            time, line, structured = entry[0], entry[1], entry[2] if len(entry) > 2 else None
        elif type(entry) is dict and "line" in entry:
            time, line, structured = entry.get("ts"), entry["line"], entry.get("structuredMetadata")
        else:
            text, _ = excerpt(entry, REJECTED_BYTES)
            lines.reject(
                RecordInvalid.reason, 'an entry is ["<nanoseconds>", "<line>"], with an object behind or not', text
            )
            return
        metadata = shared.metadata.copy()
        if structured:
            self._add(structured, metadata, shared)
        made = None
        if type(time) is str and time.isdecimal() and time.isascii() and len(time) <= INT64_DIGITS:
            made = moments.from_nanos(int(time))
        elif type(entry) is dict:
            made = moments.from_any(time)
        # There is no half nanosecond: a number with a point is in another unit, and nobody knows in which.
        elif type(time) is int or (type(time) is str and not _POINT.fullmatch(time)):
            made = moments.from_any(time, _NANOSECONDS)
        if made is None and time is not None:
            put(metadata, shared, TIMESTAMP, flatten.text(time))
        message = line if type(line) is str else flatten.text(line)
        if len(message) > self._message_max:
            message = message[: self._message_max]
        lines.take("", made, shared.service, message, metadata)

    def _add(self, structured: Any, metadata: dict[str, str], shared: Shared) -> None:
        """Add an entry's structured metadata: an object, or the list of names and values that the old form has."""
        if type(structured) is list:
            pairs = [pair for pair in structured[: self._pairs_max] if type(pair) is dict]
            named = [(flatten.text(pair.get("name", "")), pair.get("value", "")) for pair in pairs]
        elif type(structured) is dict:
            named = list(structured.items())[: self._pairs_max]
        else:
            named = [(STRUCTURED_ALONE, structured)]
        for name, value in named:
            if type(value) is str:
                put(metadata, shared, name, value)
            elif type(value) is dict:
                found: dict[str, str] = {}
                flatten.flatten({name: value}, "", found, pairs_max=self._pairs_max)
                for each in list(found)[: self._pairs_max]:
                    put(metadata, shared, each, found[each])
            else:
                put(metadata, shared, name, flatten.text(value))


STRUCTURED_ALONE = "structured_metadata"
"""Name of structured metadata that is no object."""


def _streams(value: Any) -> list[dict[str, Any]]:
    """The streams of a decoded request. Raises ClientError (``malformed-payload``) where it is none."""
    streams = value.get("streams", 0) if type(value) is dict else 0
    if streams is None:
        streams = []
    if type(streams) is not list or not all(type(stream) is dict for stream in streams):
        raise malformed('the body is no push request: send {"streams":[{"stream":{..},"values":[["<ns>","<line>"]]}]}')
    if not streams and any(member for name, member in value.items() if name != "streams"):
        raise malformed("the body is no push request: its streams are empty, but other members are not")
    return streams


def _entries(stream: dict[str, Any]) -> list[Any]:
    """The entries of a stream, of both members. Raises ClientError (``malformed-payload``) where they are no list, and
    where there are none though something else is there: a misspelled member must not look like a success.
    """
    values, entries = stream.get("values"), stream.get("entries")
    for name, found in zip(_LISTS, (values, entries), strict=True):
        if found is not None and type(found) is not list:
            raise malformed(f"the body is no push request: {name} of a stream is no array")
    if not values and not entries and any(member for name, member in stream.items() if name not in _MEMBERS):
        raise malformed("the body is no push request: a stream has no values, but members that Loki does not know")
    return values + entries if values and entries else values or entries or []


def _likely_cut(body: bytes, start: int, window: int) -> int:
    """The offset of a comma that is likely to separate two streams or two entries, or -1."""
    # The first one of the last part: the rest of a long window may be one long entry.
    for part in (start + window * 3 // 4, start + 1):
        found = _CUT.search(body, part, start + window)
        if found is not None:
            return found.start(1)
    return -1


def _piece(piece: bytes, body: bytes, cut: int) -> tuple[dict[str, Any], bytes] | None:
    """A decoded piece that ends at ``cut``, and what stands for all of it before the next one; None if it is none."""
    if body[cut + 1 : cut + 64].lstrip(jsontext.BLANK).startswith(b"{"):
        value = _decoded(piece + _END_OF_STREAMS)
        streams = value.get("streams") if type(value) is dict else None
        if type(streams) is list and streams[-1:] == [_MARK]:
            del streams[-1]
            return value, _MORE_STREAMS
    value = _decoded(piece + _END_OF_ENTRIES)
    streams = value.get("streams") if type(value) is dict else None
    if type(streams) is list and streams and type(streams[-1]) is dict:
        for name in _LISTS:
            entries = streams[-1].get(name)
            if type(entries) is list and entries[-1:] == [_MARK]:
                del entries[-1]
                return value, _MORE_ENTRIES % name.encode()
    return None


def _decoded(text: bytes) -> Any:
    try:
        return jsontext.strict(text)
    except LOADS_ERRORS:
        return None


def _join(whole: dict[str, Any] | None, value: Any, *, among_entries: bool) -> Any:
    """Add a piece to those before it, in place. Of members with one name the last wins, as in the whole text."""
    if whole is None:
        return value
    streams = value.pop("streams")
    last: Any = whole["streams"][-1] if whole["streams"] else None
    if type(streams) is not list or streams[:1] != [_MARK]:
        whole["streams"] = streams
    elif among_entries:
        first, name = streams[1], next(iter(streams[1]))
        entries = first[name]
        if type(entries) is list and entries[:1] == [_MARK]:
            last[name] += entries[1:]
            del first[name]
        last.update(first)
        whole["streams"] += streams[2:]
    else:
        whole["streams"] += streams[1:]
    whole.update(value)
    return whole
