"""wsgi.receivers.documents: where values end, what stands in place of a bad one, and that no body takes long."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.errors import InletError
from wsgi.receivers import documents
from wsgi.receivers.documents import WINDOW_BYTES, Document
from wsgi.receivers.jsontext import LONG_DIGITS
from wsgi.receivers.structure import VALUES_MAX

MIB = 1_048_576


def read(body: bytes, *, envelopes: bool = False) -> list[Document]:
    return [found for found in documents.read(body, envelopes=envelopes) if found is not None]


def values(body: bytes, *, envelopes: bool = False) -> list[Any]:
    """The values of a body without a fault."""
    found = read(body, envelopes=envelopes)
    assert not [each for each in found if each.fault]
    return [each.value for each in found]


def dumps(value: object, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


LONG = {"x": "ü" * WINDOW_BYTES}
RECORDS = [{"a": 1}, {"b": [1, {"c": ']}\\"'}]}, {}, {"é": "\U0001f600"}, LONG, {"n": -1.5e3, "t": True, "z": None}]


@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"indent": 2}], ids=str)
def test_every_way_to_put_records_into_a_body_gives_the_same(options: dict[str, Any]) -> None:
    texts = [dumps(each, **options) for each in RECORDS]
    bodies = [dumps(RECORDS, **options), *(between.join(texts) for between in (b"", b"\n", b"\r\n\r\n", b",\n", b" "))]
    bodies += [b"\xef\xbb\xbf" + bodies[0], b"\n" * 200_000 + bodies[1], bodies[0] + b"\n" + bodies[1]]
    for body in bodies[:-1]:
        assert values(body) == RECORDS
    assert values(bodies[-1]) == RECORDS + RECORDS
    for name in documents.ENVELOPES:
        envelope = dumps({name: RECORDS}, **options)
        assert values(envelope, envelopes=True) == RECORDS
        assert values(envelope * 2 + texts[0], envelopes=True) == [*RECORDS, *RECORDS, RECORDS[0]]
        assert values(envelope) == [{name: RECORDS}]
        # More than the one member: that is a record which has such a member.
        for more in ({name: RECORDS, "x": 1}, {"x": 1, name: RECORDS}, {name: {"a": 1}}):
            assert values(dumps(more, **options), envelopes=True) == [more]


@settings(max_examples=200)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
            max_leaves=8,
        ), max_size=4),
        max_size=8,
    ),
    st.sampled_from([b"", b"\n", b", ", b"\r\n"]),
    st.integers(20, 200),
)  # fmt: skip
def test_where_a_window_ends_does_not_matter(records: list[Any], between: bytes, width: int) -> None:
    body = between.join(map(dumps, records))
    if not body.strip():
        return
    usual, narrow = documents.WINDOW_BYTES, documents.NARROW_BYTES
    try:
        documents.WINDOW_BYTES = documents.NARROW_BYTES = width
        for each in (body, dumps(records, ensure_ascii=True)):
            assert values(each) == records
        if records:
            assert values(dumps({"logs": records}), envelopes=True) == records
    finally:
        documents.WINDOW_BYTES, documents.NARROW_BYTES = usual, narrow


def test_more_than_json_is_read() -> None:
    (found,) = values(b'{"a":NaN,"b":-Infinity,"c":"tab\tline\n","d":"\xff\xed\xa0\x80"}')
    assert math.isnan(found["a"])
    assert (found["b"], found["c"], found["d"]) == (-math.inf, "tab\tline\n", "\ufffd\ufffd\ufffd\ufffd")
    for digits, kind in ((LONG_DIGITS, int), (4_301, str)):
        (found,) = values(b'{"a":%b}' % (b"1" * digits))
        assert type(found["a"]) is kind
    long = "9" * 4_301
    (found,) = values(f'{{"a":-{long},"b":-{long}.5,"c":{long}e7,"d":0.{long},"e":1e5}}'.encode())
    assert found == {"a": "-" + long, "b": f"-{long}.5", "c": long + "e7", "d": 1.0, "e": 1e5}
    assert values(b'1 "a" null true [] [2]') == [1, "a", None, True, 2]


@pytest.mark.parametrize(
    ("body", "good", "fault"),
    [
        (b'{"a":1,}\n{"b":2}', [{"b": 2}], b'{"a":1,}\n'),
        (b'{"b":1}\n{"a":"cut\n{"b":2}\n', [{"b": 1}, {"b": 2}], b'{"a":"cut\n'),
        (b'{\n  "a": 1,\n}\n{\n  "b": 2\n}\n', [{"b": 2}], b'{\n  "a": 1,\n}\n'),
        (b'[{"b":1},{"a":},{"b":2}]', [{"b": 1}, {"b": 2}], b'{"a":}'),
        (b'{"b":1}{"a"', [{"b": 1}], b'{"a"'),
        (b"plain text\n", [], b"plain text\n"),
        (b'{"b":1}]', [{"b": 1}], b"]"),
        (b'[{"b":1},{"a":"x', [{"b": 1}], b'{"a":"x'),
    ],
)
def test_a_bad_value_is_one_fault_and_the_others_stay(body: bytes, good: list[Any], fault: bytes) -> None:
    found = read(body)
    assert [each.value for each in found if not each.fault] == good
    (bad,) = [each for each in found if each.fault]
    assert (bad.value, bad.text) == (None, fault)
    assert bad.fault.isascii()
    assert bad.fault.isprintable()


def test_an_array_that_does_not_end_is_a_fault() -> None:
    assert read(b'[{"a":1}') == [({"a": 1}, "", b""), (None, "the array does not end", b"")]
    assert read(b'{"logs":[' + dumps(LONG) + b"," + dumps(LONG) + b"]", envelopes=True)[-1].fault


def test_a_long_bad_value_is_one_fault_and_the_others_stay() -> None:
    bad = b'{"a":1,"b":"' + b"x" * WINDOW_BYTES + b'",}'
    for body in (b"[%b,{}]" % bad, b"%b\n{}" % bad):
        found = read(body)
        assert ([each.value for each in found], bool(found[0].fault)) == ([None, {}], True)


def test_a_value_of_values_max_is_read_and_one_past_it_is_not() -> None:
    padding = b" " * WINDOW_BYTES
    for size, faults in ((VALUES_MAX - 1, [""]), (VALUES_MAX, [f"it holds more than {VALUES_MAX} values"])):
        body = b'{"a":[%b%b]}' % (padding, b",".join([b"1"] * size))
        assert [each.fault for each in read(body)] == faults


@pytest.mark.parametrize("body", [b"", b" \r\n", b"\xef\xbb\xbf", b"\n" * 300_000, b"\x1f\x8b\x08\0", b"\xff\xfe{\0"])
def test_a_body_that_is_blank_or_encoded_is_malformed(body: bytes) -> None:
    with pytest.raises(InletError) as caught:
        read(body)
    assert caught.value.reason == "malformed-payload"


HOSTILE = {
    "brackets": b"[" * MIB, "braces": b'{"a":' * (MIB // 5), "empty arrays": b"[]," * (MIB // 3),
    "a rich value": b'{"a":[' + b"[]," * (MIB // 3) + b"[]]}", "open lines": b'{"a":[1,1,1,1,\n' * (MIB // 15),
    "unterminated": b'{"a":"\n' * (MIB // 7), "bad lines": b'{"a":}\n' * (MIB // 7), "digits": b"1" * MIB,
    "envelopes": b'{"logs":[' * (MIB // 9), "bad elements": b"[" + b'{"a":},' * (MIB // 7),
    "not UTF-8": b'{"a":"' + b"\xff" * MIB + b'"}', "escapes": b'{"a":"' + b"\\" * MIB, "quotes": b'"' * MIB,
    "records": b"{}" * (MIB // 2), "commas": b"," * MIB,
}  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_ends_after_steps_that_grow_with_its_length(body: bytes) -> None:
    # Each step is a window or a chunk; a hundred of them for each KiB would be the square of the length.
    steps = sum(found is None for found in documents.read(body, envelopes=True))
    assert steps <= 4 * (1_000 + len(body) // 7)


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.text('[]{}",:\\ \n1aeNtf', max_size=60).map(str.encode), st.booleans())
def test_any_body_gives_values_and_faults_or_is_malformed(body: bytes, envelopes: bool) -> None:
    found, reason = [], ""
    try:
        found = read(body, envelopes=envelopes)
    except InletError as error:
        reason = error.reason
    assert reason in ("", "malformed-payload")
    assert all(each.value is None and re.fullmatch(r"[ -~]+", each.fault) for each in found if each.fault)
