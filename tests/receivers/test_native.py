"""wsgi.receivers.native: every format, and what becomes of each record of a body; and a fuzz.

What lives here: bodies in, lines and rejections out. What must not: what makes a record valid (test_record), the words
for what is not JSON (test_jsontext), content codings (test_decompress).
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.errors import RecordInvalid, RecordTooLarge
from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode
from tests.receivers.support import (
    LIMITS,
    LINE,
    NDJSON,
    ONE,
    Read,
    body_of,
    encode,
    outcome,
    parse,
    parse_with,
    parser,
    record,
    refusal,
)
from wsgi.receivers.bulk import EVENT_ID_ECHO_CHARS_MAX, MALFORMED_RECORD
from wsgi.receivers.jsontext import BOM
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.parsed import REJECTIONS_KEPT_MAX, Rejection

PROPERTY = settings(derandomize=True, deadline=None, max_examples=300)


# ---- formats


def test_an_object_is_one_record_an_array_and_ndjson_are_bulks() -> None:
    assert parse(ONE, None, None) == Read([LINE], [], 0, False)
    two = [record("a"), record("b")]
    lines = [encode(value) for value in two]
    assert parse(body_of(two), "application/json", None) == Read(lines, [], 0, True)
    for between, end in ((b"\n", b""), (b"\n", b"\n"), (b"\r\n", b""), (b"\r\n", b"\r\n")):
        assert parse(between.join(map(body_of, two)) + end, NDJSON, None) == Read(lines, [], 0, True)
    assert parse(ONE, NDJSON, None).context


@pytest.mark.parametrize("content_type", [None, "application/json", NDJSON])
@pytest.mark.parametrize("body", [b"", b" ", b"\n", b"\r\n\t \n", BOM, BOM + b" \n"])
def test_an_empty_or_blank_body_is_malformed(body: bytes, content_type: str | None) -> None:
    assert refusal("malformed-payload", body, content_type) == "the body is empty"


def test_an_empty_array_is_json_with_nothing_to_accept() -> None:
    for body in (b"[]", b" [ ]\n", BOM + b"[]"):
        assert refusal("nothing-accepted", body) == "the bulk holds no record"


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[", b'{"a":1,}', b"[" + ONE + b",]", b"[," + ONE + b"]", ONE[:-1], ONE + b"x", ONE + ONE,
        ONE + b"\n" + ONE, b"[" + ONE + b"]]", b"{'a':1}", b"{1:2}", b"nul", b"\xff\xfe{\0}\0", b"/**/{}", ONE + b"\0",
        b'{"a":"\\x"}', b"NaN", b"-Infinity", b"-", b"01",
    ],
)  # fmt: skip
def test_what_is_not_one_json_text_is_malformed(body: bytes) -> None:
    assert refusal("malformed-payload", body).startswith("not ")


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xe9", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\x80"]
)
def test_what_is_not_utf8_is_malformed_in_any_member_known_or_not(text: bytes) -> None:
    for place in (ONE.replace(b'"m"', b'"' + text + b'"'), ONE[:-1] + b',"x":"' + text + b'"}'):
        refusal("malformed-payload", place)
        parsed = parse(ONE + b"\n" + place, NDJSON, None)
        assert [(each.index, each.reason) for each in parsed.rejections] == [(1, MALFORMED_RECORD)]
    whole = ONE.replace(b'"m"', '"\ud7ff\ue000\U0010ffff"'.encode())
    assert decode(parse(whole, None, None).lines[0]).message == "\ud7ff\ue000\U0010ffff"


@pytest.mark.parametrize("value", [b"null", b"true", b"1", b'"text"', b"1e400", b"-0"])
def test_a_body_that_is_no_object_and_no_array_is_an_invalid_record(value: bytes) -> None:
    assert refusal("invalid-record", value).startswith("a record is a JSON object, not ")


@pytest.mark.parametrize(("kind", "error"), [(None, "malformed-payload"), (NDJSON, "nothing-accepted")])
def test_one_byte_order_mark_is_ignored_and_thousands_exhaust_no_stack(kind: str, error: str) -> None:
    assert parse(BOM + ONE, kind, None).lines == [LINE]
    # Found by this test: one recursion a mark let a RecursionError out of the project's tree.
    refusal(error, BOM * 3000 + ONE, kind)


def test_of_duplicate_members_the_last_wins() -> None:
    assert parse(b'{"event_id":1,' + ONE[1:], None, None).lines == [LINE]
    assert refusal("invalid-record", ONE[:-1] + b',"event_id":1}') == "event_id must be a string, not a number"


@pytest.mark.parametrize(("members", "count"), [({}, 0), ({"x": 1}, 1), ({"x": -1.5e-7, "y": 0, "z": []}, 3)])
def test_unknown_members_of_valid_records_are_counted(members: dict[str, Any], count: int) -> None:
    value = record(**members)
    without = {name: member for name, member in value.items() if name != "metadata"}
    # Found by this test: metadata left out and one unknown member make five, but not the known five.
    for each in (value, without):
        assert parse(body_of(each), None, None).unknown == count
        assert parse(body_of([each, each, {**each, "event_id": 1}]), None, None).unknown == 2 * count
        assert parse(body_of(each), NDJSON, None).unknown == count


# ---- bulks

BAD: list[Any] = [{}, [], None, 1, record(message=1), record(timestamp="now"), record("\ud800"), record("\0" * 300)]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
valid_or_not = st.builds(record, names).map(lambda v: (v, True)) | st.sampled_from(BAD).map(lambda v: (v, False))


@PROPERTY
@given(st.lists(valid_or_not, min_size=1, max_size=12), st.booleans())
def test_a_mixed_bulk_gives_each_record_its_line_or_its_index(values: list[tuple[Any, bool]], as_lines: bool) -> None:
    texts = [json.dumps(value) for value, _ in values]
    body = ("\n \n".join(texts) if as_lines else "[" + ",".join(texts) + "]").encode()
    lines, rejections, error = outcome(body, NDJSON if as_lines else None)
    assert lines == [encode(value) for value, valid in values if valid]
    assert [rejection.index for rejection in rejections] == [i for i, (_, valid) in enumerate(values) if not valid]
    assert (error is None) is any(valid for _, valid in values)


def test_a_rejection_names_the_record_the_reason_and_the_fault() -> None:
    bulk = [record("a"), record("b", message=1), [], record("c", service="x" * 257), record("d")]
    rejections = [
        Rejection(1, "b", RecordInvalid.reason, "message must be a string, not a number"),
        Rejection(2, None, RecordInvalid.reason, "a record is a JSON object, not an array"),
        Rejection(3, "c", RecordTooLarge.reason, "service is 257 characters long; at most 256 are allowed"),
    ]
    lines = [encode(record("a")), encode(record("d"))]
    assert parse(body_of(bulk), None, None) == Read(lines, rejections, unknown=0, context=True)


def test_ndjson_rejects_malformed_lines_alone_and_counts_no_blank_ones() -> None:
    parsed = parse(b"\n \t\r\n" + b"\n\n\r\n".join([b"{", ONE, b"{}", b'{"a":1,}', ONE, ONE[:-1]]), NDJSON, None)
    assert parsed.lines == [LINE, LINE]
    bad, invalid = MALFORMED_RECORD, RecordInvalid.reason
    assert [(each.index, each.reason) for each in parsed.rejections] == [(0, bad), (2, invalid), (3, bad), (5, bad)]


def test_a_rejection_echoes_the_event_id_up_to_its_bound() -> None:
    at = "é" * EVENT_ID_ECHO_CHARS_MAX
    ids = [at, at + "x", "", 1, None, "\ud800", "a" * len(at) + "\ud800"]
    _, rejections, error = outcome(json.dumps([{"event_id": each} for each in ids]).encode(), None)
    assert [each.event_id for each in rejections] == [at, at, "", None, None, None, "a" * len(at)]
    assert str(error) == "no record of the bulk is valid"


@pytest.mark.parametrize("records_max", [3, LIMITS.bulk_records_max])
def test_a_bulk_of_bulk_records_max_is_read_and_one_more_is_too_large(records_max: int) -> None:
    few = parse_with(bulk_records_max=records_max)
    for start, between, end, content_type in ((b"[", b",", b"]", None), (b"\n", b"\n\n", b"\n\n\n", NDJSON)):
        body = start + between.join([b"0"] * (records_max - 1) + [ONE]) + end
        parsed = few(body, content_type, None)
        assert parsed.lines == [LINE]
        assert [each.index for each in parsed.rejections] == list(range(min(records_max - 1, REJECTIONS_KEPT_MAX)))
        more = body.replace(ONE, ONE + between + b"0")
        said = refusal("payload-too-large", more, content_type, bulk_records_max=records_max)
        assert said == f"a bulk holds at most {records_max} records; send several requests"


# ---- fuzz

COMPRESS = (gzip.compress, zlib.compress, lambda body: zlib.compress(body, wbits=-15), zstandard.compress)

SEEDS = [ONE, body_of([record(), 1, record(x=[{"y": "z\\"}])]), ONE + b"\n\n{\n" + ONE, b'["\\ud800",1e400,NaN]']
SEEDS += [compress(seed) for seed in SEEDS[:3] for compress in COMPRESS]
TYPES = [None, "application/json", NDJSON, "text/plain; charset=utf-8", "application/x-www-form-urlencoded"]
snippets = st.sampled_from([b"\xed\xa0\x80", rb"\ud800", b"\t", b"[", b'"', b"\\", BOM, b"\n"]) | st.binary(max_size=4)
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), snippets, st.sampled_from([1, 1, 9])), max_size=4)
small = parser(PayloadLimits(4_000, 6, 8), RecordLimits(event_id_chars_max=8))


@PROPERTY
@given(
    st.binary(max_size=80) | st.sampled_from(SEEDS), edits, st.sampled_from(TYPES) | st.text(max_size=20),
    st.sampled_from([None, "gzip", "deflate", "zstd"]) | st.text(max_size=8),
)  # fmt: skip
def test_only_our_own_errors_escape_and_only_lines_leave_it(
    body: bytes, changes: list[tuple[int, int, bytes, int]], content_type: str | None, coding: str | None
) -> None:
    for start, gone, new, times in changes:
        body = body[:start] + new * times + body[start + gone :]
    lines, rejections, error = outcome(body, content_type, coding, small)
    for line in lines:
        assert b"\n" not in line
        assert encode(decode(line)._asdict()) == line
        assert json.loads(line) == list(decode(line))
    assert len(lines) + len(rejections) <= 6
    assert [each.index for each in rejections] == sorted({each.index for each in rejections})
    for said in [each.detail for each in rejections] + ([error.detail] if error else []):
        assert said.isascii()
        assert said.isprintable()
        assert len(said) < 1200
