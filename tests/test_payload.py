"""wsgi.payload: every format, media type and content encoding, each bound at its limit and one past it, and a fuzz.

What lives here: bodies in, lines and rejections out. What must not: what makes a record valid (test_record), HTTP.
"""

from __future__ import annotations

import functools
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi import errors, payload
from wsgi.errors import ClientError, MalformedPayload, NothingAccepted, PayloadTooLarge, RecordInvalid
from wsgi.payload import MALFORMED_RECORD, Parsed, PayloadLimits, Rejection, check_nesting, parser
from wsgi.record import RecordLimits, decode, encoder

PROPERTY = settings(derandomize=True, deadline=None, max_examples=300)
LIMITS = PayloadLimits()
NDJSON, BOM = "application/x-ndjson", b"\xef\xbb\xbf"
encode = encoder(RecordLimits())


def record(event_id: str = "e-1", **members: Any) -> dict[str, Any]:
    """A valid record, with ``members`` in place of or beside its own."""
    own = {"event_id": event_id, "timestamp": "2026-01-31T23:59:59Z", "service": "api", "message": "m", "metadata": {}}
    return {**own, **members}


def body_of(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


ONE = body_of(record())
LINE = encode(record())
parse = parser(LIMITS, RecordLimits()).parse


def parse_with(**bounds: int) -> Callable[..., Parsed]:
    return parser(PayloadLimits(**bounds), RecordLimits()).parse


def refused(
    error: type[ClientError], body: bytes, content_type: str | None = None, coding: str | None = None, **bounds: int
) -> str:
    """The detail that ``body`` is refused with, by exactly this error."""
    with pytest.raises(ClientError) as caught:
        parse_with(**bounds)(body, content_type, coding)
    assert type(caught.value) is error
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value.detail


def outcome(
    body: bytes, content_type: str | None, coding: str | None = None, parse: Callable[..., Parsed] = parse
) -> tuple[list[bytes], list[Rejection], ClientError | None]:
    """Lines, rejections, and the error if one was raised. Any that is no ClientError fails the test."""
    try:
        parsed = parse(body, content_type, coding)
    except NothingAccepted as error:
        return [], [each for each in error.rejections if isinstance(each, Rejection)], error
    except ClientError as error:
        return [], [], error
    return parsed.lines, parsed.rejections, None


# ---- formats


def test_an_object_is_one_record_an_array_and_ndjson_are_bulks() -> None:
    assert parse(ONE, None, None) == Parsed([LINE], [], False, 0)
    two = [record("a"), record("b")]
    lines = [encode(value) for value in two]
    assert parse(body_of(two), "application/json", None) == Parsed(lines, [], True, 0)
    for between, end in ((b"\n", b""), (b"\n", b"\n"), (b"\r\n", b""), (b"\r\n", b"\r\n")):
        assert parse(between.join(map(body_of, two)) + end, NDJSON, None) == Parsed(lines, [], True, 0)
    assert parse(ONE, NDJSON, None).bulk


@pytest.mark.parametrize("content_type", [None, "application/json", NDJSON])
@pytest.mark.parametrize("body", [b"", b" ", b"\n", b"\r\n\t \n", BOM, BOM + b" \n"])
def test_an_empty_or_blank_body_is_malformed(body: bytes, content_type: str | None) -> None:
    assert refused(MalformedPayload, body, content_type) == "the body is empty"


def test_an_empty_array_is_json_with_nothing_to_accept() -> None:
    for body in (b"[]", b" [ ]\n", BOM + b"[]"):
        assert refused(NothingAccepted, body) == "the bulk holds no record"


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[", b'{"a":1,}', b"[" + ONE + b",]", b"[," + ONE + b"]", ONE[:-1], ONE + b"x", ONE + ONE,
        ONE + b"\n" + ONE, b"[" + ONE + b"]]", b"{'a':1}", b"{1:2}", b"nul", b"\xff\xfe{\0}\0", b"/**/{}", ONE + b"\0",
        b'{"a":"\\x"}', b'{"x":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_one_json_text_is_malformed(body: bytes) -> None:
    assert refused(MalformedPayload, body).startswith("not ")


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xe9", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\x80"]
)
def test_what_is_not_utf8_is_malformed_in_any_member_known_or_not(text: bytes) -> None:
    for place in (ONE.replace(b'"m"', b'"' + text + b'"'), ONE[:-1] + b',"x":"' + text + b'"}'):
        refused(MalformedPayload, place)
        parsed = parse(ONE + b"\n" + place, NDJSON, None)
        assert [(each.index, each.reason) for each in parsed.rejections] == [(1, MALFORMED_RECORD)]
    whole = ONE.replace(b'"m"', '"\ud7ff\ue000\U0010ffff"'.encode())
    assert decode(parse(whole, None, None).lines[0]).message == "\ud7ff\ue000\U0010ffff"


@pytest.mark.parametrize("value", [b"null", b"true", b"1", b'"text"', b"NaN", b"1e400", b"-Infinity"])
def test_a_body_that_is_no_object_and_no_array_is_an_invalid_record(value: bytes) -> None:
    assert refused(RecordInvalid, value).startswith("a record is a JSON object, not ")


@pytest.mark.parametrize(("kind", "error"), [(None, MalformedPayload), (NDJSON, NothingAccepted)])
def test_one_byte_order_mark_is_ignored_and_thousands_exhaust_no_stack(kind: str, error: type[ClientError]) -> None:
    assert parse(BOM + ONE, kind, None).lines == [LINE]
    # Found by this test: one recursion a mark let a RecursionError out of the project's tree.
    assert type(outcome(BOM * 3000 + ONE, kind)[2]) is error


def test_of_duplicate_members_the_last_wins() -> None:
    assert parse(b'{"event_id":1,' + ONE[1:], None, None).lines == [LINE]
    assert refused(RecordInvalid, ONE[:-1] + b',"event_id":1}') == "event_id must be a string, not a number"


@pytest.mark.parametrize(
    ("members", "count"), [({}, 0), ({"x": 1}, 1), ({"x": float("nan"), "y": float("inf"), "z": []}, 3)]
)
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
        Rejection(3, "c", errors.RecordTooLarge.reason, "service is 257 characters long; at most 256 are allowed"),
    ]
    lines = [encode(record("a")), encode(record("d"))]
    assert parse(body_of(bulk), None, None) == Parsed(lines, rejections, bulk=True, unknown=0)


def test_ndjson_rejects_malformed_lines_alone_and_counts_no_blank_ones() -> None:
    parsed = parse(b"\n \t\r\n" + b"\n\n\r\n".join([b"{", ONE, b"{}", b'{"a":1,}', ONE, ONE[:-1]]), NDJSON, None)
    assert parsed.lines == [LINE, LINE]
    bad, invalid = MALFORMED_RECORD, RecordInvalid.reason
    assert [(each.index, each.reason) for each in parsed.rejections] == [(0, bad), (2, invalid), (3, bad), (5, bad)]


def test_a_rejection_echoes_the_event_id_up_to_its_bound() -> None:
    at = "é" * payload.EVENT_ID_ECHO_CHARS_MAX
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
        assert [each.index for each in parsed.rejections] == list(range(records_max - 1))
        more = body.replace(ONE, ONE + between + b"0")
        detail = refused(PayloadTooLarge, more, content_type, bulk_records_max=records_max)
        assert detail == f"a bulk holds at most {records_max} records"


# ---- bytes and nesting

Compress = Callable[[bytes], bytes]
gz: Compress = gzip.compress
zst: Compress = zstandard.ZstdCompressor().compress
raw: Compress = functools.partial(zlib.compress, wbits=-15)
CODINGS: dict[str, tuple[str, Compress]] = {
    "gzip": ("gzip", gz), "x-gzip": ("x-gzip", gz), "spaced": (" GZip ,", gz), "with identity": ("identity, gzip", gz),
    "zlib": ("deflate", zlib.compress), "raw": ("Deflate", raw), "zstd": ("zstd", zst), "none": ("identity", bytes),
}  # fmt: skip


@pytest.mark.parametrize("name", CODINGS)
def test_a_body_of_payload_bytes_max_once_decoded_is_read_and_one_byte_more_is_too_large(name: str) -> None:
    coding, compress = CODINGS[name]
    for bytes_max in (200, LIMITS.payload_bytes_max):
        read = parse_with(payload_bytes_max=bytes_max)
        assert read(compress(ONE.ljust(bytes_max)), None, coding).lines == [LINE]
        detail = refused(PayloadTooLarge, compress(ONE.ljust(bytes_max + 1)), None, coding, payload_bytes_max=bytes_max)
        assert detail.startswith(f"the body is over {bytes_max} bytes")


def test_a_compressed_body_is_bounded_as_it_came_too() -> None:
    body = gzip.compress(ONE, compresslevel=0)
    assert parse_with(payload_bytes_max=len(body))(body, None, "gzip").lines == [LINE]
    refused(PayloadTooLarge, body, None, "gzip", payload_bytes_max=len(body) - 1)


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw", "zstd"])
def test_a_bomb_is_too_large_and_takes_no_memory_beyond_the_bound(name: str) -> None:
    coding, compress = CODINGS[name]
    bomb = compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        refused(PayloadTooLarge, bomb, None, coding, payload_bytes_max=1 << 20)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw", "zstd"])
def test_a_compressed_body_that_is_cut_short_damaged_or_followed_by_more_is_malformed(name: str) -> None:
    coding, compress = CODINGS[name]
    body = compress(ONE)
    for cut in range(len(body)):
        assert refused(MalformedPayload, body[:cut], NDJSON, coding).startswith("the compressed body is corrupt")
    for junk in (b"x", b"\0" * 20, ONE, body[:-1], body[:9]):
        assert refused(MalformedPayload, body + junk, None, coding).startswith("the compressed body is corrupt")
    refused(MalformedPayload, ONE, None, coding)
    if name in ("zlib", "raw"):  # These have one member, unlike the others.
        refused(MalformedPayload, body + compress(b""), None, coding)
    if name == "gzip":  # Its checksum is looked at.
        refused(MalformedPayload, body[:-8] + bytes([body[-8] ^ 1]) + body[-7:], None, coding)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_are_joined_and_counted_up_to_their_bound(name: str) -> None:
    coding, compress = CODINGS[name]
    assert parse(compress(ONE[:50]) + compress(ONE[50:]), None, coding).lines == [LINE]
    many = compress(ONE) + compress(b"") * (payload.MEMBERS_MAX - 1)
    assert parse(many, None, coding).lines == [LINE]
    assert refused(PayloadTooLarge, many + compress(b""), None, coding).endswith("in more than 1024 parts")
    halves = compress(ONE.ljust(200)) + compress(b" ")
    refused(PayloadTooLarge, halves, None, coding, payload_bytes_max=200)


def test_a_zstd_window_at_its_bound_is_read_and_a_wider_one_is_not_allocated() -> None:
    def framed(window_log: int) -> bytes:
        # A stream's frame names no content size, so a decoder has to believe its window.
        params = zstandard.ZstdCompressionParameters(window_log=window_log, chain_log=6, hash_log=6)
        stream = zstandard.ZstdCompressor(compression_params=params).compressobj()
        return stream.compress(ONE) + stream.flush()

    assert payload.ZSTD_WINDOW_BYTES_MAX == 1 << 23
    assert parse(framed(23), None, "zstd").lines == [LINE]
    refused(MalformedPayload, framed(24), None, "zstd")


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "gzip,zstd", "deflate,identity,gzip", "gzip;q=1"])
def test_other_and_several_codings_are_unsupported(coding: str) -> None:
    assert "gzip, deflate, zstd" in refused(errors.UnsupportedContentEncoding, ONE, None, coding)


json_values = st.recursive(
    st.none() | st.text(st.sampled_from('[]{}"\\a,:\n'), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[{"\\')), inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@PROPERTY
@given(json_values)
def test_nesting_counts_brackets_of_structure_and_none_in_strings(value: object) -> None:
    depth = depth_of(value)
    check_nesting(body_of(value), depth)
    if depth:
        with pytest.raises(MalformedPayload):
            check_nesting(body_of(value), depth - 1)


@pytest.mark.parametrize("depth_max", [3, LIMITS.nesting_depth_max])
def test_nesting_at_its_bound_is_read_and_one_deeper_is_malformed(depth_max: int) -> None:
    def nested(depth: int) -> bytes:
        return ONE[:-1] + b',"x\\"[":' + b"[" * (depth - 1) + b'"]}"' + b"]" * (depth - 1) + b',"y":"[[[[\\\\"}'

    read = parse_with(nesting_depth_max=depth_max)
    assert read(nested(depth_max), None, None).unknown == 2
    assert read(b"[" + nested(depth_max - 1) + b"]", None, None).unknown == 2
    for body in (nested(depth_max + 1), b"[" + nested(depth_max) + b"]", b"[" * 100_000, b'{"a":' * 100_000):
        detail = refused(MalformedPayload, body, nesting_depth_max=depth_max)
        assert detail == f"arrays and objects nest more than {depth_max} deep"
    assert [each.index for each in read(ONE + b"\n" + nested(depth_max + 1), NDJSON, None).rejections] == [1]


# ---- media types


@pytest.mark.parametrize("parameters", ["", ";charset=utf-8", '; Charset="UTF-8"', " ; charset=us-ascii", "; v=1;"])
def test_the_media_types_that_work_do_so_in_any_case_and_with_parameters(parameters: str) -> None:
    for media_type in ("application/json", "", "text/plain", "Application/JSON", "application/vnd.x+json", "a/b+JSON"):
        assert parse(ONE, media_type + parameters, None) == Parsed([LINE], [], False, 0)
    for media_type in (NDJSON, "application/jsonl", "application/jsonlines", "Application/X-NDJSON"):
        assert parse(ONE, media_type + parameters, None) == Parsed([LINE], [], True, 0)


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/xml", "json", "application/", "+json", "application/+json", "a/b/c+json", "*/*", "ü",
     "application/json2", "multipart/form-data; boundary=x", "application/json, text/plain"],
)  # fmt: skip
def test_another_media_type_is_unsupported_and_the_detail_names_those_that_work(content_type: str) -> None:
    detail = refused(errors.UnsupportedMediaType, ONE, content_type)
    for works in ("application/json", NDJSON, "application/jsonl", "application/jsonlines"):
        assert works in detail
    # curl's default type is told what to add.
    hint = refused(errors.UnsupportedMediaType, ONE, "application/x-www-form-urlencoded")
    assert hint == f"with curl, add -H 'Content-Type: application/json'. {detail}"


@pytest.mark.parametrize("charset", ["latin1", "utf-16", '"iso-8859-1"', "", "utf-8x"])
def test_a_charset_other_than_utf8_is_unsupported(charset: str) -> None:
    for media_type in ("application/json", NDJSON, "text/plain"):
        sent = f'{media_type}; q="a;charset=utf-8"; charset={charset}'
        assert "utf-8" in refused(errors.UnsupportedMediaType, ONE, sent)
    assert parse(ONE, f'application/json; q="a;charset={charset.strip(chr(34))}"', None).lines == [LINE]


def test_a_content_type_at_its_bound_is_read_and_one_past_it_unsupported() -> None:
    assert parse(ONE, "application/json;".ljust(payload.CONTENT_TYPE_CHARS_MAX), None).lines == [LINE]
    refused(errors.UnsupportedMediaType, ONE, "application/json;".ljust(payload.CONTENT_TYPE_CHARS_MAX + 1))


# ---- fuzz

SEEDS = [ONE, body_of([record(), 1, record(x=[{"y": "z\\"}])]), ONE + b"\n\n{\n" + ONE, b'["\\ud800",1e400,NaN]']
SEEDS += [compress(seed) for seed in SEEDS[:3] for compress in (gz, zlib.compress, raw, zst)]
TYPES = [None, "application/json", NDJSON, "text/plain; charset=utf-8", "application/x-www-form-urlencoded"]
snippets = st.sampled_from([b"\xed\xa0\x80", rb"\ud800", b"\t", b"[", b'"', b"\\", BOM, b"\n"]) | st.binary(max_size=4)
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), snippets, st.sampled_from([1, 1, 9])), max_size=4)
small = parser(PayloadLimits(4_000, 6, 8), RecordLimits(event_id_chars_max=8)).parse


@PROPERTY
@given(
    st.binary(max_size=80) | st.sampled_from(SEEDS), edits, st.sampled_from(TYPES) | st.text(max_size=20),
    st.sampled_from([None, "gzip", "deflate", "zstd"]) | st.text(max_size=8),
)  # fmt: skip
def test_only_client_errors_escape_parse_and_only_lines_leave_it(
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
    for detail in [each.detail for each in rejections] + ([error.detail] if error else []):
        assert detail.isascii()
        assert detail.isprintable()
        assert len(detail) < 400
