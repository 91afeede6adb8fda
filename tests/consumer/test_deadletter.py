"""inlet.consumer.deadletter: a letter reads back as it was written, whatever is in it."""

from __future__ import annotations

from typing import Any

import pytest

from inlet.consumer.deadletter import FIELDS_MAX, Letter, letter, read, replay
from inlet.consumer.entries import INVALID_LINE, WHOLE, Bad, Entry, parse
from inlet.stream.errors import ConsumerError
from tests.consumer.support import line


def entry_of(*lines: bytes) -> list[bytes]:
    return [b"r", b"\n".join(lines), b"n", b"%d" % len(lines)]


def round_trip(entry: Entry, bad: Bad) -> Letter:
    """The letter as the store gives it back."""
    flat = [part if isinstance(part, bytes) else str(part).encode() for part in letter("logs", "mail", entry, bad)]
    return read([b"9-0", flat])


def replayed(back: Letter) -> list[Any]:
    """The letter's ID and the fields that the script is to add."""
    command = replay("logs", back)
    return list(command[3 + int(command[2]) :])


def test_a_letter_reads_back_as_it_was_written() -> None:
    entry = parse(0, b"5-1", entry_of(line("a"), b"junk"), 3)
    back = round_trip(entry, entry.bad[0])
    assert (back.reason, back.stream, back.entry_id, back.line) == (INVALID_LINE, "logs", "5-1", 1)
    assert (back.group, back.attempts, back.deliveries, back.record, back.fields) == ("mail", 0, 3, b"junk", [])
    assert replayed(back) == ["9-0", b"r", b"junk", b"n", 1]


def test_a_letter_of_a_whole_entry_keeps_the_fields_of_the_other_writer() -> None:
    entry = parse(0, b"5-1", [b"message", b"hello"])
    back = round_trip(entry, entry.bad[0])
    assert (back.line, back.fields) == (WHOLE, [b"message", b"hello"])
    assert replayed(back) == ["9-0", b"message", b"hello"]


@pytest.mark.parametrize("count", [FIELDS_MAX, FIELDS_MAX + 2])
def test_any_number_of_fields_is_kept(count: int) -> None:
    fields = [b"%d:\xff" % number for number in range(count)]
    entry = parse(0, b"5-1", fields)
    assert len(letter("logs", "mail", entry, entry.bad[0])) <= FIELDS_MAX + 20, "what a script can add"
    back = round_trip(entry, entry.bad[0])
    assert back.fields == fields
    if count <= FIELDS_MAX:
        assert replayed(back)[1:] == fields
    else:
        with pytest.raises(ConsumerError, match="too many fields"):
            replay("logs", back)


def test_a_letter_with_junk_in_it_still_reads() -> None:
    back = read([b"9-0", [b"line", b"x", b"deliveries", b"\xff", b"fields", b"3:abc9:x"]])
    assert (back.line, back.deliveries, back.reason, back.fields) == (WHOLE, 0, "", [b"abc"])


def test_a_long_detail_is_cut() -> None:
    entry = parse(0, b"5-1", entry_of(line("a")))
    assert len(letter("logs", "g", entry, Bad(0, "x", "d" * 201, b""))[3]) == 200
    assert len(letter("logs", "g", entry, Bad(0, "x", "d" * 200, b""))[3]) == 200
