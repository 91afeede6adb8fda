"""The body of an Elasticsearch bulk: pairs of lines, an action and its document.

What lives here: how pairs are found and decoded, many at once where they are ordinary, and how one that is not becomes
a rejection. What must not: what a document becomes (``wsgi.receivers.elasticrecord``), answers.

Decisions, where clients and documentation leave a choice:
- Blank lines before an action are skipped, as Elasticsearch does; in place of a document, one is a bad document.
- The last line needs no line feed. An action at the end without a document is a bad document too.
- ``NaN`` and other numbers that JSON forbids are read as Python writes them: a record holds texts.
- An integer that is longer than Python converts is kept as text: a record holds texts.
- An action line that is none makes the whole body malformed: nobody knows which line is what behind it.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from io import BytesIO
from time import monotonic
from typing import Any

from inlet.stream.errors import RecordInvalid
from inlet.stream.record import LOADS_ERRORS
from wsgi.problems import ClientError
from wsgi.receivers import jsontext
from wsgi.receivers.bulk import MALFORMED_RECORD
from wsgi.receivers.elasticrecord import REFUSED, Action, Defaults, action_of, event_id, take
from wsgi.receivers.foreign import Lines
from wsgi.receivers.ndjson import LONG_BYTES, PIECE_BYTES, decode_together, piece_end
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.slices import SLICE_SECONDS

GROUP_LINES = 128
"""Lines that are read between two looks at the clock: half a millisecond where they are ordinary."""
ACTION_BYTES_MAX = 16_384
"""Bytes of an action line: it holds an index, an id and a few options."""
MANY_BYTES = 8_192
"""Bytes of a document over which only so many members are looked at as a record may have."""
REMEMBERED_MAX = 64
"""Different action lines without an ``_id`` that are decoded once a request: few indexes, many documents."""
BLANK_LINES_MAX = 1_024
"""Lines of a piece over which runs of blank ones are shortened first: they must not cost a turn of the loop each."""

_BLANK_LINES = re.compile(rb"\n(?:[ \t\r]*+\n){2,}+")


class Pairs:
    """The pairs of one request that were read, and what became of them."""

    def __init__(self, lines: Lines, defaults: Defaults, depth_max: int, pairs_max: int) -> None:
        """``pairs_max``: pairs of metadata that a record may have."""
        self._lines, self._defaults, self._depth_max, self._pairs_max = lines, defaults, depth_max, pairs_max
        self._known: dict[bytes, Action] = {}
        self._pending: tuple[Action, bytes] | None = None
        """An action whose document is the next line, with its text."""
        self.actions: list[Action] = []
        """Of each record so far, refused ones included."""

    def take_group(self, texts: list[bytes]) -> Generator[None, None, None]:
        """Take lines, whatever they are; yields where that takes long.

        Raises ClientError (``malformed-payload``, ``payload-too-large``).
        """
        at = 0
        if self._pending is not None and texts:
            yield from self._take_line(texts[0])
            at = 1
        ordinary = texts[at:]
        if b"\n" in ordinary:
            ordinary = _without_blanks(ordinary)
        even = len(ordinary) & ~1
        if even and self.take_ordinary(ordinary[:even:2], ordinary[1:even:2]):
            texts, at = ordinary, even
        due = monotonic() + SLICE_SECONDS
        for text in texts[at:]:
            yield from self._take_line(text)
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS

    def take_ordinary(self, heads: list[bytes], texts: list[bytes]) -> bool:
        """Take pairs if all are valid; return False, having taken none, if one is not, or may not be."""
        actions = self._actions_of(heads)
        if actions is None:
            return False
        depth_max = self._depth_max
        for text in texts:
            # PERF: what has fewer brackets in all is not too deep; the exact look costs four times as much.
            if text.count(b"{") + text.count(b"[") > depth_max:
                try:
                    jsontext.check_nesting(text, depth_max)
                except ClientError:
                    return False
        documents = decode_together(texts)
        if documents is None or not all(type(document) is dict for document in documents):
            return False
        self.actions += actions
        lines = self._lines
        for action, document, text in zip(actions, documents, texts, strict=True):
            take(lines, action, document, self._pairs_max + 1 if len(text) > MANY_BYTES else 0)
        return True

    def _actions_of(self, heads: list[bytes]) -> list[Action] | None:
        """The actions of these lines, or None where one is malformed, or refused."""
        known = self._known
        new = [head for head in dict.fromkeys(heads) if head not in known]
        if not new:
            return [known[head] for head in heads]
        values = decode_together(new)
        if values is None or max(map(len, new)) > ACTION_BYTES_MAX:
            return None
        found: dict[bytes, Action] = {}
        for head, value in zip(new, values, strict=True):
            try:
                action = action_of(value, self._defaults)
            except ClientError:
                return None
            if action.fault:
                return None
            found[head] = action
            if not action.own_id and len(known) < REMEMBERED_MAX:
                known[head] = action
        return [found.get(head) or known[head] for head in heads]

    def _take_line(self, text: bytes) -> Generator[None, None, None]:
        """Take one line."""
        if self._pending is not None:
            (action, head), self._pending = self._pending, None
            yield from self._take_document(action, head, text)
        elif text.strip(jsontext.BLANK):
            action = self._action(text)
            if action.operation == REFUSED[1]:
                self._reject(action, RecordInvalid.reason, action.fault, text)
            else:
                self._pending = action, text

    def _action(self, text: bytes) -> Action:
        """The action of a line. Raises ClientError (``malformed-payload``)."""
        if len(text) > ACTION_BYTES_MAX:
            raise ClientError("malformed-payload", f"an action line has over {ACTION_BYTES_MAX} bytes")
        try:
            value = jsontext.load(text, self._depth_max, jsontext.with_texts_of_numbers)
        except ClientError:
            value = None
        return action_of(value, self._defaults)

    def _take_document(self, action: Action, head: bytes, text: bytes) -> Generator[None, None, None]:
        if action.fault:
            self._reject(action, RecordInvalid.reason, action.fault, text)
            return
        if not text.strip(jsontext.BLANK):
            detail = "the action has no document: the line behind it is blank"
            self._reject(action, RecordInvalid.reason, detail, head)
            return
        try:
            document = yield from self._document(text)
        except RecordInvalid as error:
            self._reject(action, error.reason, error.detail, text)
            return
        except ClientError as error:
            self._reject(action, MALFORMED_RECORD, error.detail, text)
            return
        if type(document) is not dict:
            self._reject(action, RecordInvalid.reason, "a document is one JSON object, on one line", text)
            return
        self.actions.append(action)
        take(self._lines, action, document, self._pairs_max + 1 if len(text) > MANY_BYTES else 0)

    def _document(self, text: bytes) -> Generator[None, None, Any]:
        """Decode a document. Raises RecordInvalid and RecordTooLarge, and ClientError where it is no JSON."""
        # Nesting comes first: decoding a thousand brackets within each other takes a millisecond.
        if len(text) > LONG_BYTES:
            yield from jsontext.nesting_slices(text, self._depth_max)
            if (yield from jsontext.has_too_many_values(text)):
                raise jsontext.too_many_values()
            return (yield from jsontext.load_slices(text, self._depth_max, jsontext.with_texts_of_numbers))
        jsontext.check_nesting(text, self._depth_max)
        rejections = self._lines.rejections
        if rejections is None or not rejections.full:
            return jsontext.load(text, self._depth_max, jsontext.with_texts_of_numbers)
        try:
            return jsontext.strict(text)
        except LOADS_ERRORS as error:
            # Where words are dropped, a second look is too, but for what is JSON.
            if not jsontext.has_long_number(error):
                raise ClientError("malformed-payload", "") from None
        return jsontext.load(text, self._depth_max, jsontext.with_texts_of_numbers)

    def _reject(self, action: Action, reason: str, detail: str, text: bytes) -> None:
        self._lines.reject(reason, detail, text, event_id(action) or None)
        self.actions.append(action)

    def end(self) -> None:
        """Take the end of the body."""
        if self._pending is not None:
            (action, head), self._pending = self._pending, None
            detail = action.fault or "the action has no document: the body ends behind it"
            self._reject(action, RecordInvalid.reason, detail, head)


def _without_blanks(texts: list[bytes]) -> list[bytes]:
    """Pairs of lines without the blank ones before actions: rsyslog puts one behind each document."""
    kept: list[bytes] = []
    for text in texts:
        if len(kept) % 2 or text.strip(jsontext.BLANK):
            kept.append(text)
    return kept


def read_short(body: bytes, pairs: Pairs, lines: Lines, lines_max: int, context: Any) -> Parsed | None:
    """Read a short body at once; return None if it has over ``lines_max`` lines, or one that is not ordinary."""
    texts = BytesIO(body.removeprefix(jsontext.BOM)).readlines()
    if b"\n" in texts:
        texts = _without_blanks(texts)
    if not texts or len(texts) > lines_max or len(texts) % 2 or not pairs.take_ordinary(texts[::2], texts[1::2]):
        return None
    return lines.parsed(context)


def read_slices(body: bytes, pairs: Pairs, lines: Lines, context: Any) -> Generator[None, None, Parsed]:
    """Read a body of any size, yielding about once in a millisecond of work.

    Raises ClientError (``malformed-payload``, ``payload-too-large``).
    """
    start = len(jsontext.BOM) if body.startswith(jsontext.BOM) else 0
    jsontext.refuse_encoding(body[start : start + PIECE_BYTES])
    due = monotonic() + SLICE_SECONDS
    while start < len(body):
        end = piece_end(body, start)
        piece = body[start:end]
        if piece.count(b"\n") > BLANK_LINES_MAX:
            piece = _BLANK_LINES.sub(b"\n\n", piece)
        start, texts = end, BytesIO(piece).readlines()
        for at in range(0, len(texts), GROUP_LINES):
            yield from pairs.take_group(texts[at : at + GROUP_LINES])
            if monotonic() >= due:
                yield
                due = monotonic() + SLICE_SECONDS
    pairs.end()
    if not pairs.actions:
        raise ClientError("malformed-payload", "request body is required: it holds no action")
    return lines.parsed(context)
