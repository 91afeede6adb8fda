"""inlet.consumer.entries: an entry's fields -> records, and a reason for each line that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.consumer.entries import COUNT_MISMATCH, INVALID_LINE, MISSING_FIELD, WHOLE, Address, field, left_by, parse
from inlet.consumer.notes import Note, Unit, Verdict
from inlet.stream.record import Record, decode
from tests.consumer.support import line


def entry_of(*lines: bytes, count: bytes | None = None) -> list[bytes]:
    return [b"r", b"\n".join(lines), b"n", b"%d" % len(lines) if count is None else count]


def test_an_entry_of_the_sink_becomes_its_records_with_their_addresses() -> None:
    lines = [line("a"), line("b", message='quote " and \\ and ü'), line("c", metadata={})]
    entry = parse(3, b"17-4", entry_of(*lines), 2)
    assert entry.records == [decode(text) for text in lines]
    assert all(type(record) is Record for record in entry.records)
    assert [address for address, _ in entry.items()] == [Address(3, "17-4", number) for number in range(3)]
    assert (entry.watermark, entry.deliveries, entry.bad) == ((3, "17-4"), 2, ())
    assert entry.raw(1) == lines[1]


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"{}", b"[]", b"not json", b'["a","b","c","d"]', b'["a","b","c","d",{},1]', b'["a","b","c","d",[]]',
        b'["a","b","c","d","e"]', b'["a","b","c",1,{}]', b'[null,"b","c","d",{}]', b'["a","b","c","d",{"k":1}]',
        b'["a","b","c","d",{"k":["v"]}]', b'"abcde"', b'{"a":1,"b":2,"c":3,"d":4,"e":5}', b"\xff",
        b'["a","b","c","d",{}],["a","b","c","d",{}]', b"1],[2", b"[" * 2_000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_costs_no_other(bad: bytes) -> None:
    entry = parse(0, b"1-0", entry_of(line("a"), bad, line("b")))
    assert [record.event_id for record in entry.records] == ["a", "b"]
    assert list(entry.lines) == [0, 2]
    assert [(fault.line, fault.reason, fault.raw) for fault in entry.bad] == [(1, INVALID_LINE, bad)]


def test_two_lines_that_only_make_json_together_are_two_bad_lines() -> None:
    entry = parse(0, b"1-0", entry_of(b'["a","b","c"', b'"d",{}]'))
    assert (entry.records, [fault.line for fault in entry.bad]) == ([], [0, 1])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], MISSING_FIELD),
        ([b"message", b"hello"], MISSING_FIELD),
        ([b"r", line("a")], MISSING_FIELD),
        ([b"n", b"1"], MISSING_FIELD),
        (entry_of(line("a"), count=b"2"), COUNT_MISMATCH),
        (entry_of(line("a"), count=b""), COUNT_MISMATCH),
        (entry_of(line("a"), count=b"\xff\x00" * 100), COUNT_MISMATCH),
    ],
)
def test_an_entry_of_another_writer_is_one_fault_with_its_reason(fields: list[bytes], reason: str) -> None:
    entry = parse(0, b"1-0", fields)
    assert (entry.records, [(fault.line, fault.reason) for fault in entry.bad]) == ([], [(WHOLE, reason)])


def test_fields_are_found_in_any_order_and_among_others() -> None:
    fields = [b"x", b"y", b"n", b"1", b"r", line("a")]
    assert field(fields, b"z") is None
    assert [record.event_id for record in parse(0, b"1-0", fields).records] == ["a"]


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_no_junk_makes_the_parser_raise(fields: list[bytes]) -> None:
    parse(0, b"1-0", fields)


@given(st.binary(max_size=200))
def test_no_junk_in_the_records_makes_the_parser_raise(lines: bytes) -> None:
    entry = parse(0, b"1-0", [b"r", lines, b"n", b"%d" % (lines.count(b"\n") + 1)])
    assert len(entry.records) + len(entry.bad) == lines.count(b"\n") + 1


def test_a_note_leaves_what_is_left_and_its_verdicts_are_bad_lines() -> None:
    entry = parse(0, b"1-0", entry_of(line("a"), b"junk", line("c"), line("d"), line("e")))
    note = Note((Unit(2, 2, 3), Unit(4, 4, 1)), (Verdict(3, "bad-record", "no", 1), Verdict(9, "x", "no such line", 1)))
    left = left_by(note, entry)
    assert ([record.event_id for record in left.records], list(left.lines), left.attempt) == (["c", "e"], [2, 4], 4)
    assert [(bad.line, bad.raw, bad.attempts) for bad in left.bad] == [(1, b"junk", 0), (3, line("d"), 1)]


def test_a_part_of_an_entry_has_its_lines_in_its_watermark() -> None:
    entry = parse(0, b"1-0", entry_of(line("a"), line("b"), line("c")))
    assert (entry.watermark, entry.span) == ((0, "1-0"), (0, 2))
    part = entry._replace(part=(0, 1))
    assert (part.watermark, part.span) == ((0, "1-0/0-1"), (0, 1))
