"""wsgi.receivers.foreign and flatten: any record becomes a line within the bounds, and the same one each time."""

from __future__ import annotations

from typing import Any

import pytest
import ujson
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.limits import RecordLimits
from inlet.stream.record import Record, decode, encoder
from wsgi.problems import ClientError
from wsgi.receivers.flatten import DEPTH_MAX, PREFIX_CHARS_MAX, flatten, put, text
from wsgi.receivers.foreign import GROWTH_MAX, TRUNCATED, UNKNOWN_SERVICE, Foreign, Lines
from wsgi.receivers.parsed import REJECTIONS_KEPT_MAX

TIME = "2026-01-31T23:59:59Z"


def line(limits: RecordLimits | None = None, /, position: int = 0, **parts: Any) -> Record:
    """The record of a line with ``parts``, which must satisfy the contract."""
    limits = limits or RecordLimits()
    own: dict[str, Any] = {"event_id": "", "timestamp": TIME, "service": "api", "message": "m", "metadata": {}, **parts}
    written = Foreign("test", limits).line(**own, position=position)
    record = decode(written)
    assert encoder(limits)(record._asdict()) == written
    return record


def test_a_record_within_the_bounds_is_kept_as_it_is() -> None:
    assert line(event_id="e-1", metadata={"a": "b"}) == ("e-1", TIME, "api", "m", {"a": "b"})


def test_an_id_is_of_the_content_the_position_and_the_receiver() -> None:
    first = line().event_id
    assert len(first) == 32
    assert line().event_id == first
    others = [
        line(position=1),
        line(message="n"),
        line(service="b"),
        line(metadata={"a": ""}),
        line(timestamp="2026-01-31T23:59:58Z"),
    ]
    other_receiver = decode(Foreign("other", RecordLimits()).line("", TIME, "api", "m", {}, 0))
    assert len({first, other_receiver.event_id, *(record.event_id for record in others)}) == 7


def test_two_records_without_a_time_are_two_events() -> None:
    records = [line(timestamp=None) for _ in range(2)]
    assert records[0].event_id != records[1].event_id


def test_a_record_without_service_or_with_half_a_character_is_stored() -> None:
    record = line(service="", message="a\ud800b", metadata={"\udc00": "\udfff"}, event_id="\ud834")
    assert record == ("\ufffd", TIME, UNKNOWN_SERVICE, "a\ufffdb", {"\ufffd": "\ufffd"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"message": "m" * 131_072 + "a"}, {"message": "m" * 131_072 + "b"}),
        ({"service": "s" * 256 + "a"}, {"service": "s" * 256 + "b"}),
        ({"metadata": {"a": "v" * 16_384 + "a"}}, {"metadata": {"a": "v" * 16_384 + "b"}}),
        ({"metadata": {"k" * 256 + "a": "v"}}, {"metadata": {"k" * 256 + "b": "v"}}),
        ({"message": "\x01" * 100_000 + "a"}, {"message": "\x01" * 100_000 + "b"}),
    ],
)
def test_the_id_is_of_the_whole_record_and_not_of_what_is_left_of_it(one: Any, other: Any) -> None:
    """Regression: with deduplication, the second of two records that differ where they were cut was lost."""
    first = line(**one)
    assert TRUNCATED in first.metadata
    assert (line(**one).event_id, line(**other)[1:]) == (first.event_id, first[1:])
    assert line(**other).event_id != first.event_id


@pytest.mark.parametrize("metadata", [{str(n): "" for n in range(129)}, {TRUNCATED: "a"}])
def test_a_record_that_was_not_read_as_a_whole_is_another_event_each_time(metadata: dict[str, str]) -> None:
    assert line(metadata=dict(metadata)).event_id != line(metadata=dict(metadata)).event_id


@pytest.mark.parametrize(
    ("member", "bound"),
    [("service", "service_chars_max"), ("message", "message_chars_max"), ("event_id", "event_id_chars_max")],
)
def test_a_member_at_its_bound_is_whole_and_one_past_it_is_marked(member: str, bound: str) -> None:
    limits = RecordLimits()
    size = getattr(limits, bound)
    whole, cut = line(**{member: "e" * size}), line(**{member: "e" * (size + 1)})
    assert (getattr(whole, member), whole.metadata) == ("e" * size, {})
    assert cut.metadata == {TRUNCATED: member}
    if member == "event_id":
        assert cut.event_id == line(event_id="e" * (size + 1)).event_id != line(event_id="e" * (size + 2)).event_id
    else:
        assert getattr(cut, member) == "e" * size


def test_metadata_at_its_bounds_is_whole_and_one_past_them_is_marked() -> None:
    limits = RecordLimits(metadata_pairs_max=3, metadata_key_chars_max=20, metadata_value_chars_max=30)
    three = {"a": "x" * 30, "k" * 20: "", "c": ""}
    assert line(limits, metadata=dict(three)).metadata == three
    assert line(limits, metadata={**three, "d": ""}).metadata == {"a": "x" * 30, "k" * 20: "", TRUNCATED: "metadata"}
    assert line(limits, metadata={"a": "x" * 31}).metadata == {"a": "x" * 30, TRUNCATED: "a"}
    assert line(limits, metadata={"k" * 21: "v"}).metadata == {"k" * 20: "v", TRUNCATED: "k" * 20}
    assert line(RecordLimits(metadata_pairs_max=0), metadata={"a": "b"}).metadata == {}


def test_a_line_over_its_bytes_loses_its_longest_part_first() -> None:
    limits = RecordLimits(record_bytes_max=16_384)
    record = line(limits, message="\x01" * 20_000, metadata={"a": "kept"})
    assert 1_000 < len(record.message) < 20_000
    assert record.metadata == {"a": "kept", TRUNCATED: "message"}
    record = line(limits, message="kept", metadata={"a": "x" * 16_000, "b": "kept"})
    assert (record.message, record.metadata["b"], record.metadata[TRUNCATED]) == ("kept", "kept", "a")


TEXTS = st.text(st.characters(exclude_categories=()), max_size=60).map(lambda text: text * 40)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([4_096, 8_192, 262_144]), st.sampled_from([0, 1, 2, 128]), st.sampled_from([1, 15, 256]),
    TEXTS, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=6), st.sampled_from([None, TIME]),
)  # fmt: skip
def test_every_record_becomes_a_valid_line(
    size: int,
    pairs: int,
    keys: int,
    event_id: str,
    service: str,
    message: str,
    metadata: dict[str, str],
    time: str | None,
) -> None:
    limits = RecordLimits(record_bytes_max=size, metadata_pairs_max=pairs, metadata_key_chars_max=keys)
    line(limits, event_id=event_id, service=service, message=message, metadata=metadata, timestamp=time)


def lines(records_max: int = 10, bytes_max: int = 100_000) -> Lines:
    return Lines(Foreign("test", RecordLimits()), records_max=records_max, bytes_max=bytes_max, keep_rejected=True)


def test_a_request_holds_so_many_records_refused_ones_included_and_no_more() -> None:
    found = lines(records_max=2)
    found.take("e-1", TIME, "api", "m", {})
    found.reject("invalid-record", "no object", b"1", "e-2")
    with pytest.raises(ClientError, match="at most 2 records") as caught:
        found.take("e-3", TIME, "api", "m", {})
    assert caught.value.reason == "payload-too-large"
    parsed = found.parsed("context")
    assert (len(parsed.lines), parsed.context) == (1, "context")
    assert parsed.rejections is not None
    assert parsed.rejections.kept == [(1, "e-2", "invalid-record", "no object")]
    assert parsed.rejections.rows[0].text == b"1"


def test_what_records_share_may_not_grow_without_bound() -> None:
    found = lines(records_max=1_000, bytes_max=1_000)
    shared = {"shared": "x" * 900}
    while sum(map(len, found.lines)) < GROWTH_MAX * 1_000 - 1_000:
        found.take("", TIME, "api", "m", dict(shared))
    with pytest.raises(ClientError, match="over 8000 bytes"):
        found.take("", TIME, "api", "m" * 2_000, {})


def test_refusals_without_words_are_counted() -> None:
    found = lines(records_max=2 * REJECTIONS_KEPT_MAX)
    for _ in range(REJECTIONS_KEPT_MAX + 1):
        found.reject("invalid-record", "no object", b"")
    rejections = found.parsed().rejections
    assert rejections is not None
    assert (len(rejections), len(rejections.kept)) == (REJECTIONS_KEPT_MAX + 1, REJECTIONS_KEPT_MAX)


# ---- flatten


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    into: dict[str, str] = {}
    flatten(value, prefix, into)
    return into


def test_objects_become_names_and_everything_else_text_as_json_writes_it() -> None:
    value = {"a": {"b": {"c": "x"}}, "n": 1, "f": 1.5, "t": True, "z": None, "l": [1, {"k": "v"}], "e": {}, "s": "a/b"}
    assert flat(value, "p.") == {
        "p.a.b.c": "x", "p.n": "1", "p.f": "1.5", "p.t": "true", "p.z": "null", "p.l": '[1,{"k":"v"}]', "p.e": "{}",
        "p.s": "a/b",
    }  # fmt: skip


def test_two_members_that_come_to_one_name_are_both_kept() -> None:
    assert flat({"a.b": 1, "a": {"b": 2}, "a.b#2": 3}) == {"a.b": "1", "a.b#2": "2", "a.b#2#2": "3"}


def test_what_json_cannot_say_is_text_all_the_same() -> None:
    assert text(float("inf")) == "Infinity"
    assert text([float("-inf"), float("nan"), 10**30, "\ud800", {"a": None}]) == (
        '[-Infinity,NaN,1000000000000000000000000000000,"\\ud800",{"a":null}]'
    )
    assert text(10**5_000).startswith("0x")


@pytest.mark.parametrize("depth", [DEPTH_MAX, DEPTH_MAX + 1, 900])
def test_objects_up_to_a_depth_become_names_and_deeper_ones_json(depth: int) -> None:
    value = ujson.loads('{"a":' * depth + "1" + "}" * depth)
    ((name, found),) = flat(value).items()
    assert name.count("a") == min(depth, DEPTH_MAX)
    assert found == ("1" if depth <= DEPTH_MAX else '{"a":' * (depth - DEPTH_MAX) + "1" + "}" * (depth - DEPTH_MAX))


def test_long_names_and_many_of_one_name_cost_no_square() -> None:
    # Found by reading: each value carried the names around it, however long, and each equal name counted from 2.
    into: dict[str, str] = {}
    flatten({"n" * (PREFIX_CHARS_MAX - 1): {"a": 1}, "m" * PREFIX_CHARS_MAX: {"a": 1}}, "", into)
    assert into == {"n" * (PREFIX_CHARS_MAX - 1) + ".a": "1", "m" * PREFIX_CHARS_MAX: '{"a":1}'}
    into = {}
    for _ in range(3_000):
        put(into, "a", "")
    assert len(into) == 3_000
    assert list(into)[:16] == ["a", *(f"a#{count}" for count in range(2, 17))]
    into = {}
    flatten(dict.fromkeys(map(str, range(9)), 1), "", into, pairs_max=3)
    assert len(into) == 4
