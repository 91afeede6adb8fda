"""inlet.stream.record.bulk_encoder and inlet.stream.faults.verdict: the quick ways come to what the plain ones come to.

What lives here: equivalence with ``encode`` and ``refusal``. What must not: what makes a record valid (test_record).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.errors import RecordInvalid
from inlet.stream.faults import refusal, verdict
from inlet.stream.limits import RecordLimits
from inlet.stream.record import bulk_encoder, encoder, unknown_members

PROPERTY = settings(derandomize=True, deadline=None, max_examples=500)
LIMITS = RecordLimits(
    record_bytes_max=109, event_id_chars_max=5, service_chars_max=4, message_chars_max=12, metadata_pairs_max=2,
    metadata_key_chars_max=3, metadata_value_chars_max=6, timestamp_chars_max=25,
)  # fmt: skip
encode, quiet, encode_bulk = encoder(LIMITS), encoder(LIMITS, verdict), bulk_encoder(LIMITS)

texts = st.text(st.sampled_from('aé€"\\\0\ud800'), max_size=7)
stamps = st.sampled_from(
    [
        "2026-02-28T00:00:00Z",
        "2026-02-28T00:00:00.000000000Z",
        "2024-02-29T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "now",
        "",
    ]
)
anything: st.SearchStrategy[Any] = st.sampled_from([None, 1, True, 1.5, [], {}, ["event_id"], "", "event_id"])
fields = {"event_id": texts, "timestamp": stamps, "service": texts, "message": texts}
metadata = st.dictionaries(texts, texts, max_size=3)
records = st.fixed_dictionaries(fields, optional={"metadata": metadata, "x": anything})
valid = st.fixed_dictionaries(
    {"event_id": st.just("e"), "timestamp": stamps.filter(lambda text: text.startswith("2026-02-28T00:00:00Z")),
     "service": st.just("é"), "message": st.sampled_from(["", "m€"])},
    optional={"metadata": st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "v"])), "x": anything},
)  # fmt: skip
odd = st.builds(
    lambda value, name, member: {**value, name: member}, records, st.sampled_from([*fields, "metadata"]), anything
)


def encoded(value: Any) -> bytes | None:
    try:
        return encode(value)
    except RecordInvalid:
        return None


@PROPERTY
@given(
    st.lists(valid, min_size=1, max_size=5)
    | st.lists(st.one_of(valid, valid, records, odd, anything), min_size=1, max_size=4)
)
def test_a_bulk_is_encoded_as_its_records_are_or_not_at_all(values: list[Any]) -> None:
    lines = [encoded(value) for value in values]
    found = encode_bulk(values)
    if None in lines:
        assert found is None
    elif found is not None:
        regular = all(len(value) == 5 and "metadata" in value for value in values)
        assert found == (lines, sum(map(unknown_members, values)), regular)


def test_ordinary_records_are_encoded_together() -> None:
    value = {
        "event_id": "e",
        "timestamp": "2026-02-28T00:00:00Z",
        "service": "s",
        "message": "m",
        "metadata": {"a": "b"},
    }
    rare = {**value, "timestamp": "2024-02-29T00:00:00Z", "metadata": {"abc": "vvvvvv"}}
    assert encode_bulk([value, rare] * 10) == ([encode(value), encode(rare)] * 10, 0, True)
    assert encode_bulk([value, {**value, "x": 1}]) == ([encode(value)] * 2, 1, False)
    bare = {name: member for name, member in value.items() if name != "metadata"}
    assert encode_bulk([value, bare, {**bare, "x": 1}]) == ([encode(value), *[encode(bare)] * 2], 1, False)


BOUNDS: list[dict[str, Any]] = [
    {"event_id": "e" * 5}, {"service": "s" * 4}, {"message": "m" * 12}, {"metadata": {"a": "b", "c": "d"}},
    {"metadata": {"key": "v"}}, {"metadata": {"k": "v" * 6}}, {"timestamp": "2026-02-28T00:00:00.0000Z"},
]  # fmt: skip
OVER: list[dict[str, Any]] = [
    {"event_id": "e" * 6}, {"service": "s" * 5}, {"message": "m" * 13}, {"metadata": {"a": "b", "c": "d", "e": "f"}},
    {"metadata": {"keys": "v"}}, {"metadata": {"k": "v" * 7}}, {"timestamp": "2026-02-28T00:00:00.00000Z"},
    {"event_id": ""}, {"service": ""}, {"message": "\0" * 12}, {"message": "\ud800"},
]  # fmt: skip


@pytest.mark.parametrize(("members", "over"), [*((m, False) for m in BOUNDS), *((m, True) for m in OVER)])
def test_every_bound_holds_in_a_bulk_at_the_limit_and_one_past_it(members: dict[str, Any], over: bool) -> None:
    value = {"event_id": "e", "timestamp": "2026-02-28T00:00:00Z", "service": "s", "message": "m", "metadata": {}}
    assert (encoded({**value, **members}) is None) == over
    assert (encode_bulk([value, {**value, **members}, value]) is None) == over


@PROPERTY
@given(st.one_of(records, odd, anything))
def test_an_error_without_words_is_of_the_class_that_the_words_would_be_for(value: Any) -> None:
    def raised(encode: Any) -> type | None:
        try:
            encode(value)
        except RecordInvalid as error:
            return type(error)
        return None

    assert raised(quiet) == raised(encode)
    assert type(verdict(value, LIMITS)) is type(refusal(value, LIMITS))
