"""inlet.stream.record: what makes a record valid, the line it becomes, and that nothing else can become one.

What lives here: properties against the standard library's json, and each bound at its limit and one past it. What must
not: payload formats, HTTP, Redis.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

import pytest
import ujson
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.errors import RecordInvalid, RecordTooLarge
from inlet.stream.faults import FAULTS_NAMED_MAX, QUOTED_CHARS_MAX
from inlet.stream.limits import RecordLimits
from inlet.stream.record import KNOWN_MEMBERS, Record, decode, encoder, unknown_members

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)
LIMITS = RecordLimits()
STAMP = "2026-01-31T23:59:59.123Z"
encode = encoder(LIMITS)


def record(**members: Any) -> dict[str, Any]:
    """A valid record, with ``members`` in place of its own."""
    own = {"event_id": "e-1", "timestamp": STAMP, "service": "api", "message": "hello", "metadata": {"k": "v"}}
    return {**own, **members}


def fault(value: Any, limits: RecordLimits = LIMITS) -> RecordInvalid:
    """The error that ``value`` is refused with; its detail is safe to show whatever the value was."""
    with pytest.raises(RecordInvalid) as caught:
        encoder(limits)(value)
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value


def outcome(value: Any) -> bytes | RecordInvalid:
    """The line, or the error. Any other exception goes through, and fails the test."""
    try:
        return encode(value)
    except RecordInvalid as error:
        return error


def strict(line: bytes) -> Any:
    """Parse as the standard library does, with its extensions (NaN, Infinity) refused."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line.decode("utf-8", "strict"), parse_constant=refuse)


def compact(value: object) -> bytes:
    """The line as the standard library would write it: the reference for the wire layout."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# Characters a JSON writer can get wrong are drawn as often as all the others together.
_AWKWARD = st.sampled_from('"\\/\b\f\n\r\t\x00\x01\x1f\x7f\x85\u2028\u2029\ufeff\uffff\U0001f600\U0010ffff')
texts = st.text(_AWKWARD | st.characters(exclude_categories=["Cs"]), max_size=40)
names = texts.filter(bool)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
stamps = st.datetimes(min_value=datetime(1, 1, 1), timezones=offsets).map(datetime.isoformat)
valid_records = st.fixed_dictionaries(
    {"event_id": names, "timestamp": stamps, "service": names, "message": texts},
    optional={"metadata": st.dictionaries(texts, texts, max_size=5), "unknown": texts},
)
# What ujson can give: lone surrogates, NaN and infinities are among it.
_any_text = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _any_text | st.just(STAMP)
junk = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_any_text, inner, max_size=4), max_leaves=12
)
junk_records = st.fixed_dictionaries(
    {}, optional={name: junk | texts | st.just(record()[name]) for name in sorted(KNOWN_MEMBERS)}
)


@PROPERTY
@given(valid_records)
def test_a_line_is_compact_utf8_json_of_the_five_members_and_decode_is_its_inverse(value: dict[str, Any]) -> None:
    expected = Record(value["event_id"], value["timestamp"], value["service"], value["message"], {})
    expected = expected._replace(metadata=value.get("metadata", {}))
    line = encode(value)
    assert type(line) is bytes
    assert strict(line) == list(expected)
    assert b"\n" not in line
    assert min(line) >= 0x20
    assert line == compact(expected)
    assert decode(line) == expected
    assert encode(decode(line)._asdict()) == line
    assert unknown_members(value) == ("unknown" in value)


@PROPERTY
@given(junk | junk_records)
def test_only_record_invalid_escapes_encode_and_only_valid_json_leaves_it(value: Any) -> None:
    got = outcome(value)
    if isinstance(got, bytes):
        assert strict(got) == [*(value[name] for name in Record._fields[:4]), value.get("metadata", {})]
    else:
        assert got.detail.isascii()
        assert got.detail.isprintable()
        assert len(got.detail) < 1200


def test_every_character_below_256_crosses_as_the_standard_library_writes_it() -> None:
    text = "".join(map(chr, range(256))) + "</script>\u2028\u2029\ufffe\uffff\U0010ffff"
    value = record(event_id=text[:256], service=text[1:200], message=text, metadata={text[:256]: text})
    assert encode(value) == compact(list(value.values()))


# ---- types and presence


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [1, 2, 3, 4, 5], float("nan")])
def test_what_is_not_an_object_is_no_record(value: Any) -> None:
    assert fault(value).detail.startswith("a record is a JSON object, not ")


@pytest.mark.parametrize("name", ["event_id", "timestamp", "service", "message"])
def test_a_required_member_must_be_there_and_the_detail_names_it(name: str) -> None:
    value = record()
    del value[name]
    assert fault(value).detail == f"missing: {name}"
    assert fault({}).detail == "missing: event_id, timestamp, service, message"


@pytest.mark.parametrize("name", ["event_id", "timestamp", "service", "message"])
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("null", "null"), ("true", "a boolean"), ("[]", "an array"), ("{}", "an object"), ("1.5", "a number"),
        ("NaN", "a number"), ("Infinity", "a number"), ("-Infinity", "a number"), ("1e400", "a number"),
    ],
)  # fmt: skip
def test_a_member_that_is_no_string_is_refused_by_name_and_type(name: str, text: str, kind: str) -> None:
    detail = fault(record(**{name: ujson.loads(text)})).detail
    epoch = name == "timestamp" and kind == "a number"
    hint = f": convert epoch time to RFC 3339, such as {STAMP}" if epoch else ""
    assert detail == f"{name} must be a string, not {kind}{hint}"
    value = record(metadata={"ok": "v", "bad": ujson.loads(text)})
    assert fault(value).detail == f"metadata 'bad' must be a string, not {kind}"


@pytest.mark.parametrize(("metadata", "kind"), [(None, "null"), ([], "an array"), ("", "a string"), (0, "a number")])
def test_metadata_may_be_absent_but_not_of_another_type(metadata: Any, kind: str) -> None:
    assert fault(record(metadata=metadata)).detail == f"metadata must be an object of strings, not {kind}"
    absent = record()
    del absent["metadata"]
    assert decode(encode(absent)).metadata == {}


def test_only_the_message_may_be_empty() -> None:
    assert decode(encode(record(message="", metadata={"": ""}))) == Record("e-1", STAMP, "api", "", {"": ""})
    for name in ("event_id", "timestamp", "service"):
        assert fault(record(**{name: ""})).detail == f"{name} must not be empty"


def test_unknown_members_are_ignored_and_counted() -> None:
    value = record(extra=float("nan"), more={"deep": ["\ud800"]})
    assert encode(value) == encode(record())
    assert unknown_members(value) == 2
    del value["metadata"]
    assert unknown_members(value) == 2
    del value["more"]
    assert len(value) == 5
    assert unknown_members(value) == 1
    assert unknown_members(record()) == 0


# ---- what ujson reads and JSON forbids

PLACES: list[Callable[[str], dict[str, Any]]] = [
    lambda text: record(event_id=text),
    lambda text: record(service=text),
    lambda text: record(message=text),
    lambda text: record(metadata={text: "v"}),
    lambda text: record(metadata={"k": text}),
]


@pytest.mark.parametrize("place", PLACES)
# Escaped and in UTF-8's old form (CESU-8), which ujson reads: alone, in the wrong order, as a pair.
@pytest.mark.parametrize("raw", [rb"\ud800", rb"\ude00\ud83d", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80"])
def test_a_lone_surrogate_reaches_no_line_from_anywhere(place: Callable[[str], dict[str, Any]], raw: bytes) -> None:
    detail = fault(place(ujson.loads(b'"' + raw + b'"'))).detail
    assert "holds a lone surrogate, \\ud" in detail or "holds a lone surrogate, \\ude" in detail
    assert detail.startswith(("event_id ", "service ", "message ", "a metadata key ", "metadata 'k' "))


def test_a_surrogate_in_the_timestamp_is_no_timestamp_and_an_escaped_pair_is_one_character() -> None:
    assert fault(record(timestamp=STAMP + "\ud800")).detail.startswith("timestamp ")
    assert b"\xf0\x9f\x98\x80" in encode(record(message=ujson.loads(b'"\\ud83d\\ude00"')))


@pytest.mark.parametrize("place", PLACES)
def test_raw_control_characters_leave_escaped(place: Callable[[str], dict[str, Any]]) -> None:
    raw = bytes(range(1, 0x20)) + b"\x7f"
    line = encode(place(ujson.loads(b'"' + raw + b'"')))
    assert min(line) >= 0x20
    assert strict(line) == list(place(raw.decode()).values())


# ---- bounds

# Bound -> how the detail begins, and a record of n of what the bound counts.
BOUNDS: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "event_id_chars_max": ("event_id is ", lambda n: record(event_id="é" * n)),
    "service_chars_max": ("service is ", lambda n: record(service="é" * n)),
    "message_chars_max": ("message is ", lambda n: record(message="x" * n)),
    "timestamp_chars_max": ("timestamp is ", lambda n: record(timestamp="2026-01-31T23:59:59." + "1" * (n - 21) + "Z")),
    "metadata_pairs_max": ("metadata has ", lambda n: record(metadata={str(i): "" for i in range(n)})),
    "metadata_key_chars_max": ("a metadata key is ", lambda n: record(metadata={"a": "", "é" * n: ""})),
    "metadata_value_chars_max": ("metadata 'k' is ", lambda n: record(metadata={"a": "", "k": "é" * n})),
}


def test_every_bound_of_a_record_has_a_case() -> None:
    assert {*BOUNDS, "record_bytes_max"} == {bound.name for bound in fields(RecordLimits)}


@pytest.mark.parametrize("limits", [LIMITS, RecordLimits(262_144, 40, 41, 42, 3, 44, 45, 46)], ids=["default", "small"])
@pytest.mark.parametrize("bound", sorted(BOUNDS))
def test_a_member_at_its_bound_is_accepted_and_one_past_it_refused(bound: str, limits: RecordLimits) -> None:
    at, (named, of) = getattr(limits, bound), BOUNDS[bound]
    assert strict(encoder(limits)(of(at))) == list(of(at).values())
    error = fault(of(at + 1), limits)
    assert type(error) is RecordTooLarge
    assert error.detail.startswith(f"{named}{at + 1} ")
    assert error.detail.endswith(f"; at most {at} are allowed")


def test_a_line_at_record_bytes_max_is_accepted_and_one_past_it_refused() -> None:
    value = record(message="", metadata={str(i): "x" * 16_000 for i in range(16)})
    room = LIMITS.record_bytes_max - len(encode(value))
    line = encode({**value, "message": "x" * room})
    assert len(line) == LIMITS.record_bytes_max
    error = fault({**value, "message": "x" * (room + 1)})
    assert type(error) is RecordTooLarge
    assert error.detail == "the record takes 262145 bytes; at most 262144 are allowed"


def test_record_bytes_max_counts_bytes_of_the_line_not_characters_sent() -> None:
    limits = RecordLimits(record_bytes_max=len(encode(record(message="é\x01"))))
    assert encoder(limits)(record(message="é\x01"))
    assert type(fault(record(message="é\x01x"), limits)) is RecordTooLarge
    assert type(fault(record(message="\x01" * LIMITS.message_chars_max))) is RecordTooLarge


def test_metadata_values_are_bounded_together_before_they_are_encoded() -> None:
    full = {str(i): "x" * 16_384 for i in range(16)}
    assert sum(map(len, full.values())) == LIMITS.record_bytes_max
    assert fault(record(metadata=full)).detail.startswith("the record takes ")
    error = fault(record(metadata={**full, "z": "x"}))
    assert type(error) is RecordTooLarge
    assert error.detail == "metadata holds 262145 characters; a record takes at most 262144 bytes"


def test_keys_and_values_are_bounded_each_and_not_by_their_total() -> None:
    small = encoder(RecordLimits(metadata_key_chars_max=3, metadata_value_chars_max=4))
    metadata = {f"k{i:02}": "four" for i in range(20)}
    assert decode(small(record(metadata=metadata))).metadata == metadata


def test_a_detail_quotes_a_key_escaped_and_cut() -> None:
    def quoted(key: str) -> str:
        detail = fault(record(metadata={key: 1})).detail.rpartition("; ")[2]
        return detail.removeprefix("metadata ").removesuffix(" must be a string, not a number")

    whole = "k" * (QUOTED_CHARS_MAX - 2)
    assert quoted(whole) == f"'{whole}'"
    assert quoted(whole + "k") == f"'{whole}k"
    for key in ("\n\u2028" * 100, "\U0010ffff" * 256, "\ud800" * 256, "'\"\\" * 80):
        assert len(quoted(key)) == QUOTED_CHARS_MAX


# ---- every fault


def test_a_refused_record_is_told_every_fault_and_not_only_the_first() -> None:
    bad = record(event_id="", timestamp="now", service=1, metadata={"a": None, "b": "x" * 16_385})
    del bad["message"]
    error = fault(bad)
    assert type(error) is RecordInvalid
    assert error.detail == (
        "missing: message; event_id must not be empty; timestamp is not RFC 3339; send a form such as "
        f"{STAMP}; service must be a string, not a number; metadata 'a' must be a string, not null; "
        "metadata 'b' is 16385 characters long; at most 16384 are allowed"
    )


def test_a_record_over_several_bounds_is_too_large_and_one_other_fault_makes_it_invalid() -> None:
    large = record(event_id="e" * 257, service="s" * 257)
    error = fault(large)
    assert type(error) is RecordTooLarge
    assert error.detail.count("at most 256 are allowed") == 2
    assert type(fault({**large, "message": None})) is RecordInvalid


def test_a_detail_names_as_many_faults_as_its_bound_and_says_that_there_are_more() -> None:
    def named(count: int) -> str:
        return fault(record(metadata={str(n): n for n in range(count)})).detail

    assert named(FAULTS_NAMED_MAX).count("must be a string") == FAULTS_NAMED_MAX
    assert not named(FAULTS_NAMED_MAX).endswith("and more")
    assert named(FAULTS_NAMED_MAX + 1) == named(FAULTS_NAMED_MAX) + "; and more"


# ---- decode

NOT_LINES = {
    "not valid JSON": [
        b"", b"[", b"\xff", b'["\xff","t","s","m",{}]', b"[" * 5000, b"[" + b"9" * 5000 + b"]",
        b'["e","t","s","m",{}]x', b'["e","t","s","m",{}]\n["e","t","s","m",{}]',
    ],
    "array of five": [b"{}", b"null", b'"abcde"', b"[]", b'["e","t","s","m"]', b'["e","t","s","m",{},1]'],
    "first four elements": [
        b'[1,"t","s","m",{}]', b'["e",null,"s","m",{}]', b'["e","t",[],"m",{}]', b'["e","t","s",NaN,{}]',
    ],
    "fifth element": [
        b'["e","t","s","m",null]', b'["e","t","s","m",[]]', b'["e","t","s","m",{"k":1e400}]', b'["","","","",{"":{}}]',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("line", "detail"), [(line, detail) for detail, some in NOT_LINES.items() for line in some])
def test_decode_refuses_what_is_no_line(line: bytes, detail: str) -> None:
    with pytest.raises(RecordInvalid, match=detail):
        decode(line)


@PROPERTY
@given(st.binary(max_size=60), st.integers(0, 70), st.integers(0, 5))
def test_only_record_invalid_escapes_decode(noise: bytes, start: int, gone: int) -> None:
    whole = encode(record())
    for line in (noise, whole[:start] + noise[:4] + whole[start + gone :]):
        with contextlib.suppress(RecordInvalid):
            value = decode(line)
            assert {type(member) for member in value[:4]} == {str}
            assert all(type(text) is str for pair in value.metadata.items() for text in pair)
