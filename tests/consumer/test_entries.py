"""inlet.consumer.entries: an entry's fields -> records, and a reason for each line that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.consumer.deadletter import letter, read, replay
from inlet.consumer.entries import COUNT_MISMATCH, INVALID_LINE, MISSING_FIELD, WHOLE, Address, Bad, field, parse
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


def test_a_letter_reads_back_as_it_was_written() -> None:
    entry = parse(0, b"5-1", entry_of(line("a"), b"junk"), 3)
    command = letter("logs", "mail", entry, entry.bad[0])
    flat = [part if isinstance(part, bytes) else str(part).encode() for part in command[3:]]
    back = read([b"9-0", flat])
    assert (back.reason, back.stream, back.entry_id, back.line) == (INVALID_LINE, "logs", "5-1", 1)
    assert (back.group, back.deliveries, back.record, back.fields) == ("mail", 3, b"junk", [])
    assert replay("logs", back)[1] == ("XADD", "logs", "*", b"r", b"junk", b"n", 1)


def test_a_letter_of_a_whole_entry_keeps_the_fields_of_the_other_writer() -> None:
    entry = parse(0, b"5-1", [b"message", b"hello"])
    flat = [
        part if isinstance(part, bytes) else str(part).encode() for part in letter("logs", "g", entry, entry.bad[0])[3:]
    ]
    back = read([b"9-0", flat])
    assert (back.line, back.fields) == (WHOLE, [b"message", b"hello"])
    assert replay("logs", back)[1] == ("XADD", "logs", "*", b"message", b"hello")


def test_a_letter_with_junk_in_it_still_reads() -> None:
    back = read([b"9-0", [b"line", b"x", b"deliveries", b"\xff"]])
    assert (back.line, back.deliveries, back.reason) == (WHOLE, 0, "")


def test_a_long_detail_is_cut() -> None:
    entry = parse(0, b"5-1", entry_of(line("a")))
    assert len(letter("logs", "g", entry, Bad(0, "x", "d" * 201, b""))[6]) == 200
    assert len(letter("logs", "g", entry, Bad(0, "x", "d" * 200, b""))[6]) == 200
