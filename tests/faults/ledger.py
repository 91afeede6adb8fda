"""The books of the soak: every record from its answer to the stream, and from there to a handler or a dead letter.

What lives here: the oracle's four properties, kept up while the stream is trimmed. What must not: processes, faults.

Records are booked by the load that sent them, one load a fault. A book is closed, and forgotten, once each of its
records in the stream was handled or, if it was poison, is a dead letter.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import ujson

from inlet.stream.keys import dead_key
from tests.faults import content
from tests.faults.consumer import ALTERED, poison
from tests.faults.crew import LOG_SECONDS, Crew
from tests.faults.load import Answer
from tests.faults.oracle import Address, event_id_of, read_lines

LATE_SECONDS = 180.0
"""After its book was balanced, how long a record may wait for its handler: generous, since machines are shared."""
KEPT_SECONDS = 120.0
"""How long a settled book is kept: what is delivered once more, or stored late, is compared with it."""
EXAMPLES = 3
"""Ids named in an error."""


@dataclass
class Book:
    """The records of one load. Sets of event ids."""

    promised: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    stored: dict[str, Address] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)  # in the stream, and neither handled nor a dead letter
    early: set[str] = field(default_factory=set)  # handled before they were read back
    letters: set[str] = field(default_factory=set)
    balanced: float | None = None  # when its answers were all known


@dataclass
class Ledger:
    """The books over ``stream``, which ``client`` reads. ``wrong``: what breaks a promise, in words."""

    client: Any
    stream: str
    crew: Crew
    count: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._books: dict[str, Book] = {}
        self._offsets: dict[Path, int] = {}
        self._letters_read: set[bytes] = set()
        self._after = "-"

    def read(self) -> None:
        """Read on in the stream, the consumers' logs and the dead letters; what a fault forbids is read later."""
        with contextlib.suppress(redis.RedisError):
            self.read_stream()
        self._read_logs()
        with contextlib.suppress(redis.RedisError):
            self._read_letters()

    def read_stream(self) -> None:
        """Book what was added to the stream. Raises RedisError."""
        for address, line in read_lines(self.client, self.stream, after=self._after):
            self._store(address, line)
            self._after = f"({address.entry_id}"

    def excuse(self, moved: str) -> None:
        """Book a stream that the operator has moved away: what it holds is not lost, and need not be handled."""
        self.read_stream()
        for address, line in read_lines(self.client, moved):
            event_id = event_id_of(line)
            book = self._book(event_id)
            if event_id not in book.stored:
                self._store(address, line)
            self.count["moved away by the operator"] += event_id in book.waiting
            book.waiting.discard(event_id)

    def balance(self, name: str, answers: list[Answer]) -> None:
        """Compare the answers that a load got, all of them, with what is in the stream."""
        self.read()
        self.read_stream()
        book = self._book(name)
        for answer in answers:
            book.promised.update(answer.promised)
            book.refused.update(answer.refused)
            book.unknown.update(answer.unknown)
        book.balanced = time.monotonic()
        sent = book.promised | book.refused | book.unknown
        self._blame("lost: answered 202, and not in the stream", book.promised - book.stored.keys())
        self._blame("refused, but stored", book.refused & book.stored.keys())
        self._blame("stored, but never sent", book.stored.keys() - sent)
        self._blame("handled, but not in the stream", book.early - book.stored.keys())
        self.count["requests"] += len(answers)
        self.count["answered 202"] += len(book.promised)
        self.count["refused"] += len(book.refused)
        self.count["outcome unknown, of which stored"] += len(book.unknown & book.stored.keys())
        self.count["outcome unknown"] += len(book.unknown)

    def settle(self) -> bool:
        """Close the books that are done; blame what waited too long. True if nothing waits."""
        now = time.monotonic()
        for name, book in list(self._books.items()):
            if book.balanced is None:
                continue
            if book.waiting and now > book.balanced + LATE_SECONDS:
                self._blame(f"not handled within {LATE_SECONDS:.0f} s", book.waiting)
                book.waiting.clear()
            if not book.waiting and now > book.balanced + KEPT_SECONDS:
                del self._books[name]
        return not any(book.waiting for book in self._books.values())

    def waiting(self) -> int:
        """Records in the stream that are neither handled nor dead letters."""
        return sum(len(book.waiting) for book in self._books.values())

    def _book(self, event_id: str) -> Book:
        """The book of a record, or of a load: its name is how the ids of its records begin."""
        return self._books.setdefault("-".join(event_id.split("-", 2)[:2]), Book())

    def _store(self, address: Address, line: bytes) -> None:
        event_id = event_id_of(line)
        book = self._book(event_id)
        self.count["stored"] += 1
        if line != content.line(event_id):
            self._blame("not stored as sent", {event_id})
        if event_id in book.stored:
            self._blame("stored twice", {event_id})
        elif event_id not in book.early and event_id not in book.letters:
            book.waiting.add(event_id)
        book.stored[event_id] = address
        if book.balanced is not None and event_id not in book.unknown:
            self._blame("stored after its load had ended", {event_id})

    def _read_logs(self) -> None:
        for path in self.crew.directory.glob("*.log"):
            with open(path, "rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[path] = self._offsets.get(path, 0) + len(whole)
            for text in whole.decode().splitlines():
                self._handle(*text.split(" "))
            if not self.crew.is_current(path.name) and path.stat().st_mtime < time.time() - LOG_SECONDS:
                path.unlink()
                del self._offsets[path]

    def _handle(self, event_id: str, *altered: str) -> None:
        book = self._book(event_id)
        self.count["handled"] += 1
        if altered:
            self._blame(f"handled {ALTERED}", {event_id})
        if event_id in book.letters:
            self._blame("handled, and a dead letter", {event_id})
        if event_id in book.waiting:
            book.waiting.discard(event_id)
            self.count["handled records"] += 1
        elif event_id not in book.stored and event_id not in book.early:
            book.early.add(event_id)
            self.count["handled records"] += 1
        else:
            self.count["handled again"] += 1

    def _read_letters(self) -> None:
        key = dead_key(self.stream)
        for letter_id, fields in self.client.xrange(key):
            if letter_id not in self._letters_read:
                self._letters_read.add(letter_id)
                self._letter({name.decode(): value for name, value in fields.items()})
            self.client.xdel(key, letter_id)  # A fault may forbid it; then it is tried again.

    def _letter(self, letter: dict[str, Any]) -> None:
        reason = letter["reason"].decode()
        if "field:of" in letter:  # the entry that a fault puts there, and that is not Inlet's
            self.count["letters of a fault's own entries"] += 1
            return
        event_id = str(ujson.loads(letter["record"])[0]) if letter["record"] else ""
        kind, book = poison(event_id), self._book(event_id)
        self.letters[f"{kind or 'healthy'}: {reason}"] += 1
        if not kind:
            self._blame(f"healthy, and a dead letter ({reason}, {letter['detail'].decode()})", {event_id})
        if event_id in book.letters:
            self._blame("a dead letter twice", {event_id})
        book.letters.add(event_id)
        book.waiting.discard(event_id)

    def _blame(self, what: str, ids: set[str]) -> None:
        if ids:
            self.wrong.append(f"{len(ids)} {what}, as {', '.join(sorted(ids)[:EXAMPLES])}")
