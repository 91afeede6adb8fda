"""wsgi.receivers.packed: MessagePack as Fluent Bit sends it, and whatever else arrives under its name."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.errors import InletError
from wsgi.receivers import packed
from wsgi.receivers.documents import Document
from wsgi.receivers.packed import DOCUMENT_BYTES_MAX, FED_BYTES, VALUES_MAX

EVENT_TIME = msgpack.ExtType(0, struct.pack(">II", 1_600_000_000, 123_456_789))
MOMENT = "2020-09-13T12:26:40.123456789Z"


def read(body: bytes) -> list[Document]:
    return [found for found in packed.read(body) if found is not None]


def values(*sent: Any) -> list[Any]:
    found = read(b"".join(map(msgpack.packb, sent)))
    assert not [each for each in found if each.fault]
    return [each.value for each in found]


@pytest.mark.parametrize(
    ("time", "date"),
    [
        (EVENT_TIME, MOMENT),
        (msgpack.Timestamp(1_600_000_000, 123_456_789), MOMENT),
        (1_600_000_000, 1_600_000_000),
        (1_600_000_000.5, 1_600_000_000.5),
    ],
)
def test_a_record_with_its_time_in_either_form(time: Any, date: Any) -> None:
    assert values([time, {"log": "a"}]) == [{"log": "a", "date": date}]
    assert values([[time, {}], {"log": "a"}]) == [{"log": "a", "date": date}]
    meta = {"tag": "x"}
    assert values([[time, meta], {"log": "a"}]) == [{"log": "a", "date": date, "metadata": meta}]
    own = {"date": "mine", "metadata": "mine"}
    assert values([[time, meta], dict(own)]) == [own]


def test_records_one_after_the_other_in_arrays_and_without_a_time() -> None:
    pair, plain = [EVENT_TIME, {"log": "a"}], {"log": "b"}
    expected = [plain, {"log": "a", "date": MOMENT}]
    assert values(plain, pair) == values([plain, pair]) == expected
    assert values([pair, pair], plain) == [expected[1], expected[1], plain]
    assert values([], 1, "a", [1, 2], [None, {}]) == [1, "a", 1, 2, None, {}]


def test_what_json_does_not_know_becomes_text() -> None:
    sent = {1: b"\xff", b"k": b"v", "x": msgpack.ExtType(9, b"z"), "t": msgpack.Timestamp(0, 0), None: [b"a", {2: 3}]}
    expected = {"1": "\ufffd", "k": "v", "x": "z", "t": "1970-01-01T00:00:00Z", "None": ["a", {"2": 3}]}
    (found,) = values(sent)
    found["t"] = found["t"].replace(".000000000", "")
    assert found == expected
    assert values({"a": "\ud800"}.keys() and {"a": 1}) == [{"a": 1}]
    assert read(b"\x81\xa1a\xa1\xff")[0].value == {"a": "\ufffd"}
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    (found,) = values({"a": deep})
    assert str(found).count("[") == packed.DEPTH_MAX - 1


def test_a_record_over_many_pieces_is_whole_and_one_past_its_bound_is_a_fault_alone() -> None:
    overhead = len(msgpack.packb({"log": "x" * 100_000})) - 100_000
    for size, is_whole in ((DOCUMENT_BYTES_MAX - overhead, True), (DOCUMENT_BYTES_MAX + 2 * FED_BYTES, False)):
        found = read(b"".join(map(msgpack.packb, ({"log": "é"}, {"log": "x" * size}, {"log": "z"}))))
        assert [bool(each.fault) for each in found] == [False, not is_whole, False]
        assert not is_whole or len(found[1].value["log"]) == size
        assert found[2].value == {"log": "z"}


def test_a_record_of_values_max_is_whole_and_one_past_it_is_a_fault_alone() -> None:
    for size, fault in ((VALUES_MAX - 1, False), (VALUES_MAX, True)):
        for sent in ({"a": [1] * size}, [1.5e9, {"a": [1] * size}]):
            found = read(msgpack.packb(sent) + msgpack.packb({"b": 1}))
            assert [bool(each.fault) for each in found] == [fault, False]


@pytest.mark.parametrize("body", [b"\xc1", b"\x81\x90\x01", b"\x92" * 2_000, b"\xc7\x0c\xff" + b"\xff" * 12])
def test_what_is_no_messagepack_is_one_fault_behind_what_was_read(body: bytes) -> None:
    good, bad = read(msgpack.packb({"a": 1}) + body)
    assert good.value == {"a": 1}
    assert bad.fault.isprintable()
    assert bad.fault.isascii()
    assert bad.text == body[: len(bad.text)]


def test_a_body_that_is_cut_or_empty() -> None:
    assert [each.fault for each in read(msgpack.packb({"a": 1})[:-1])] == ["the last value is cut off"]
    with pytest.raises(InletError):
        read(b"")


def test_an_array_of_records_is_read_element_by_element_whatever_its_size() -> None:
    small, pair = {"log": "x" * 100}, [EVENT_TIME, {"log": "a"}]
    count = DOCUMENT_BYTES_MAX // 50
    assert values([small, pair] * (count // 2)) == [small, {"log": "a", "date": MOMENT}] * (count // 2)
    large = {"log": "x" * (DOCUMENT_BYTES_MAX + 2 * FED_BYTES)}
    several: list[list[Any]] = [[small, large, small], [large, small], [small, large], [pair, [EVENT_TIME, large]]]
    for sent in several:
        found = read(msgpack.packb(sent) + msgpack.packb(small))
        assert [bool(each.fault) for each in found] == [*(each not in (small, pair) for each in sent), False]
        assert found[-1].value == small
    one: list[list[Any]] = [[1.5, large], [[EVENT_TIME, {}], large], [pair, large]]
    for sent in one:
        assert [bool(each.fault) for each in read(msgpack.packb(sent) + msgpack.packb(small))] == [True, False]


def test_where_a_piece_ends_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, plain = [EVENT_TIME, {"log": "a"}], {"log": "b"}
    sent = [plain, [plain] * 20, pair, [pair, pair], [[EVENT_TIME, {"m": 1}], plain], [], [1, 2]]
    expected = values(*sent)
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(packed, "FED_BYTES", size)
        assert values(*sent) == expected


def test_an_array_that_is_cut_off_keeps_what_was_read() -> None:
    for cut in (b"\xdd\xff\xff\xff\xff", b"\x93", b"\x92"):
        good, bad = read(cut + msgpack.packb({"a": 1}))
        assert (good.value, bad.fault) == ({"a": 1}, "the last value is cut off")
    good, bad = read(b"\x93" + msgpack.packb({"a": 1}) + b"\xc1")
    assert (good.value, bad.fault) == ({"a": 1}, "not MessagePack that this service reads")
    assert [each.fault for each in read(b"\xdd\x00")] == ["the last value is cut off"]


def test_arrays_that_nest_too_deep_are_a_fault_in_plain_words() -> None:
    assert [each.fault for each in read(b"\x91" * 2_000)] == ["arrays and maps nest too deep"]


def test_empty_arrays_are_passed_in_slices_and_one_within_another_is_given_up_soon() -> None:
    assert len(list(packed.read(b"\x90" * FED_BYTES))) >= FED_BYTES // packed.EMPTY_MAX
    body = b"\x91\xdd" + struct.pack(">I", 7_000_000) + b"\x90" * 7_000_000
    steps = list(packed.read(body))
    assert len(steps) <= len(body) // FED_BYTES + DOCUMENT_BYTES_MAX // FED_BYTES + 5
    assert [step.fault for step in steps if step] == [f"a record takes over {DOCUMENT_BYTES_MAX} bytes"]


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_body_gives_values_and_faults_or_is_empty(body: bytes) -> None:
    found, reason = [], ""
    try:
        found = read(body)
    except InletError as error:
        reason = error.reason
    assert reason == ("" if body else "malformed-payload")
    assert all(each.value is None and each.fault.isprintable() for each in found if each.fault)
