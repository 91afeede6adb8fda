"""A flight: one batch on its way to the store, as Redis commands and their replies. No I/O.

What lives here: XADD, which commands a batch becomes, and its outcome from their replies. What must not: sockets, when
anything is sent (``link``), the circuit (``lane``), how a record is stored once (``dedup``).

One entry, as redis-cli shows it (docs/protocol.md; the names are in ``inlet.stream.entry``)::

    XADD logs * r '["id-1",...]\\n["id-2",...]' n 2
"""

from __future__ import annotations

from typing import Any

from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS
from wsgi.problems import SinkError
from wsgi.sink.batch import Batch, Outcome, Part, RecordAddress
from wsgi.sink.dedup import Dedup, duplicates, script_refusal
from wsgi.sink.spans import spans
from wsgi.sink.waits import Waits

GATHER_BYTES = 65_536
"""Commands are sent together up to this size; a longer one goes alone, and is packed when the last one is written."""

OWN_FAULTS = ("WRONGTYPE", "ERR The stream has exhausted", "ERR The ID specified in XADD")
"""How error replies begin that are about one store key, and say nothing of the others. NOPERM is either: ``is_own``."""

_RECORDS_WORD = b"$%d\r\n%b\r\n" % (len(FIELD_RECORDS), FIELD_RECORDS)
_COUNT_WORD = b"$%d\r\n%b\r\n" % (len(FIELD_COUNT), FIELD_COUNT)


Piece = tuple[bytes, Part, int, int]
"""The lines of one entry: (store key, part, start, stop). Plain, since every commit has one."""


class Flight:
    """Commands of ``batch``, sent once and in order, and what came back.

    ``waits``: what is sent after them for a ``level`` above ``stored``. At ``received``, nobody waits for the replies.
    ``dedup``: what keeps a record from being stored twice; None for nothing.
    """

    __slots__ = ("_level", "_pack", "_tail", "_waits", "batch", "began", "dropped", "duplicate", "error", "expected",
                 "faults", "pieces", "replies", "settled", "stored", "taken", "unloaded")  # fmt: skip

    def __init__(
        self, batch: Batch, level: int, waits: Waits, entry_bytes_max: int, dedup: Dedup | None = None
    ) -> None:
        self.batch: Batch | None = batch
        """None once it has been answered though replies are outstanding (level ``received``)."""
        self._level, self._waits = level, waits
        self._pack = xadd if dedup is None else dedup.command
        self._tail = waits.command(level)
        self.pieces = cut(batch, entry_bytes_max)
        self.expected = len(self.pieces) + bool(self._tail)  # replies
        self.taken = 0  # commands given to be sent
        self.replies: list[Any] = []
        self.began = 0.0  # when the first byte was sent, by time.monotonic
        self.settled = False
        self.stored = self.duplicate = self.dropped = 0  # records, once settled
        self.unloaded = False
        """The store does not have the script: the connection must be made anew."""
        self.error: SinkError | None = None
        """The first error of its XADDs that concerns the whole store, once settled."""
        self.faults: list[tuple[bytes, SinkError]] = []
        """(store key, first error) of each destination that failed for a reason of its own, once settled."""

    def take(self) -> bytes:
        """Return the commands to send next; empty if that was all."""
        taken, expected = self.taken, self.expected
        if taken == expected:
            return b""
        if expected == 1 and not self._tail and self.batch is not None:  # PERF: the usual commit
            self.taken = 1
            key, part, _, _ = self.pieces[0]
            command = self._pack(key, part.lines)
            part.lines = []
            return command
        self.taken = taken + 1
        command = self._command(taken)
        if taken + 1 < expected and len(command) < GATHER_BYTES:
            commands, size = [command], len(command)
            while self.taken < expected and size < GATHER_BYTES:
                commands.append(self._command(self.taken))
                size += len(commands[-1])
                self.taken += 1
            command = b"".join(commands)
        if self.taken == expected and self.batch is not None:
            for part in self.batch.parts.values():
                part.lines = []  # the memory of a bulk is not held until its reply comes
        return command

    def _command(self, index: int) -> bytes:
        if index == len(self.pieces):
            return self._tail
        key, part, start, stop = self.pieces[index]
        lines = part.lines
        return self._pack(key, lines if stop - start == len(lines) else lines[start:stop])

    def answer(self, batch: Batch) -> None:
        """Set the outcomes of ``batch``, which is this one's, all sent at the level ``received``, before any reply."""
        for _, part, start, stop in self.pieces:
            part.outcomes.append(Outcome(start, stop, "", None))
        batch.done = True
        self.batch = None

    def settle(self, missing: SinkError | None = None) -> None:
        """Set the outcomes from the replies. ``missing``: why some have not come, where that is so."""
        replies, batch = self.replies, self.batch
        self.settled = True
        for index, (key, part, start, stop) in enumerate(self.pieces):
            reply = replies[index] if index < len(replies) else None
            if type(reply) is bytes:
                self.stored += stop - start
                outcome = Outcome(start, stop, reply.decode(), None)
            elif type(reply) is list:
                known = {start + each.at: RecordAddress(each.entry_id, each.line, True) for each in duplicates(reply)}
                self.stored += stop - start - len(known)
                self.duplicate += len(known)
                outcome = Outcome(start, stop, reply[0].decode() if reply[0] else "", None, known)
            else:
                error = self._fault(index, missing)
                self.dropped += stop - start
                if reply is not None and is_own(str(reply)):
                    if not self.faults or self.faults[-1][0] != key:
                        self.faults.append((key, error))  # the pieces of a destination are next to each other
                else:
                    self.error = self.error or error
                outcome = Outcome(start, stop, None, error)
            if batch is not None:
                part.outcomes.append(outcome)
        if batch is None:
            return
        if self._tail and len(replies) == self.expected:
            batch.level_error = self._waits.outcome(self._level, replies[-1])
        elif self._tail and missing is not None and len(replies) == len(self.pieces):
            batch.level_error = SinkError("durability-timeout", missing.detail)
        batch.failed = self.error is not None or bool(self.faults) or batch.level_error is not None
        batch.done = True

    def _fault(self, index: int, missing: SinkError | None) -> SinkError:
        """Return why a piece has no entry ID: its error reply, or that there is none."""
        if index < len(self.replies):
            text = " ".join(str(self.replies[index]).split())
            if text.startswith("NOSCRIPT"):
                self.unloaded = True
                return SinkError("sink-unavailable", "the store has lost the script of INLET_DEDUP_SECONDS")
            return script_refusal(text)
        assert missing is not None
        if index < self.taken:
            return missing
        return SinkError("sink-unavailable", f"not sent, because of an entry before it: {missing.detail}")


def is_own(reply: str) -> bool:
    """Return whether an error reply is about one store key only, so that other destinations may still be written."""
    if reply.startswith("NOPERM"):  # Redis 7.0: "one of the keys"; Valkey and later ones: "a key"
        return "permissions to access" in reply and " key" in reply
    return reply.startswith(OWN_FAULTS)


def cut(batch: Batch, entry_bytes_max: int) -> list[Piece]:
    """Return what each entry of a batch holds; of one that fits, an entry a destination."""
    pieces: list[Piece] = []
    for key, part in batch.parts.items():
        lines = part.lines
        if not lines:
            continue
        if batch.bytes + len(lines) - 1 <= entry_bytes_max:
            pieces.append((key, part, 0, len(lines)))
        else:
            pieces += [(key, part, start, stop) for start, stop in spans(lines, part.starts, entry_bytes_max)]
    return pieces


def xadd(key: bytes, lines: list[bytes]) -> bytes:
    """Return one packed XADD (RESP2) of ``lines`` to ``key``.

    PERF: redis-py, which packs word by word, takes several times as long (bench/commits.py: pack).
    """
    records = b"\n".join(lines)
    count = b"%d" % len(lines)
    return b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
        len(key), key, _RECORDS_WORD, len(records), records, _COUNT_WORD, len(count), count,
    )  # fmt: skip
