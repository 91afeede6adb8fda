"""wsgi.receivers.jsontext: nesting, numbers, long integers, and what is said of a text that is not JSON.

What lives here: texts in, values or words out. What must not: records (test_native).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.receivers.support import LIMITS, NDJSON, ONE, body_of, outcome, parse, parse_with, refusal
from wsgi.problems import ClientError
from wsgi.receivers import jsontext, structure
from wsgi.receivers.bulk import MALFORMED_RECORD
from wsgi.receivers.jsontext import (
    LONG_DIGITS,
    check,
    check_nesting,
    check_slices,
    load,
    load_slices,
    with_short_numbers,
    with_texts_of_numbers,
)
from wsgi.receivers.slices import finish
from wsgi.receivers.structure import NO_COMMA, VALUES_MAX, count_values, last_comma

PROPERTY = settings(derandomize=True, deadline=None, max_examples=300)


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
    for look in (check, check_nesting):
        look(body_of(value), depth)
        if depth:
            with pytest.raises(ClientError):
                look(body_of(value), depth - 1)


@pytest.mark.parametrize("depth_max", [3, LIMITS.nesting_depth_max])
def test_nesting_at_its_bound_is_read_and_one_deeper_is_malformed(depth_max: int) -> None:
    def nested(depth: int) -> bytes:
        return ONE[:-1] + b',"x\\"[":' + b"[" * (depth - 1) + b'"]}"' + b"]" * (depth - 1) + b',"y":"[[[[\\\\"}'

    read = parse_with(nesting_depth_max=depth_max)
    assert read(nested(depth_max), None, None).unknown == 2
    assert read(b"[" + nested(depth_max - 1) + b"]", None, None).unknown == 2
    for body in (nested(depth_max + 1), b"[" + nested(depth_max) + b"]", b"[" * 100_000, b'{"a":' * 100_000):
        said = refusal("malformed-payload", body, nesting_depth_max=depth_max)
        assert said == f"arrays and objects nest more than {depth_max} deep"
    assert [each.index for each in read(ONE + b"\n" + nested(depth_max + 1), NDJSON, None).rejections] == [1]


# ---- chunk by chunk


def account_of(look: Callable[[], object]) -> str | None:
    """What is said of a text, or None."""
    try:
        look()
    except ClientError as error:
        return error.detail
    return None


pieces = st.sampled_from(
    ["[", "]", "{", "}", ",", ":", "1", "0", "-", ".", "e", "NaN", "Infinity", '"', '"', "\\", '"', "a", " ", "[[[["]
)


@pytest.fixture
def _chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of sixteen bytes."""
    monkeypatch.setattr(structure, "CHUNK_BYTES", 16)
    monkeypatch.setattr(jsontext, "CHECKED_BYTES", 0)


@pytest.mark.usefixtures("_chunks")
@settings(PROPERTY, max_examples=500)
@given(
    st.lists(json_values, max_size=6).map(body_of) | st.lists(pieces, max_size=60).map(lambda p: "".join(p).encode())
)
def test_a_text_is_checked_chunk_by_chunk_as_it_is_in_one_go(text: bytes) -> None:
    outside = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    assume(outside.count(b'"') % 2 == 0)
    assert account_of(lambda: finish(check_slices(text, 3))) == account_of(lambda: check(text, 3))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 16, 1_000])
@pytest.mark.parametrize("text", ["-0", "1.5e-05", "100200.003e00", "-", "01", "1.", "-01", "2.e3", "NaN", "-Infinity"])
def test_a_number_is_judged_alike_wherever_a_chunk_ends(
    text: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(jsontext, "CHECKED_BYTES", 0)
    for before in range(20):
        body = b"[" + b" " * before + text.encode() + b',"\\\\",3]'
        assert account_of(partial(finish, check_slices(body, 3))) == account_of(partial(check, body, 3))


@pytest.mark.parametrize("chunk_bytes", [1, 3, 16, 1_000])
@PROPERTY
@given(st.lists(json_values, min_size=1, max_size=6))
def test_the_comma_found_separates_two_elements(chunk_bytes: int, values: list[object]) -> None:
    texts = [body_of(value) for value in values]
    body = b"[" + b" , ".join(texts) + b"] , 1"
    ends = [1 + sum(map(len, texts[:n])) + 3 * (n - 1) + 1 for n in range(1, len(texts))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "CHUNK_BYTES", chunk_bytes)
        found = finish(last_comma(body, 1))
    assert (found in ends) if ends else found == NO_COMMA
    if chunk_bytes == 1_000 and ends:
        assert found == ends[-1]


def test_values_are_counted_outside_of_strings() -> None:
    assert finish(count_values(b'{"a,[{":[1,2,"\\",,"],"b":{}}')) == 6


# ---- numbers

GOOD = ["-0", "10", "-10", "1.5", "0.5", "-0.0", "1e5", "1E+05", "1e-05", "0e0", "10.01", "100200.003e00", "1e9"]
BAD = {
    "NaN": "NaN is no number", "Infinity": "Infinity is no number", "-Infinity": "its minus sign",
    "-": "its minus sign",
    "-.5": "its minus sign", "01": "a leading zero", "00": "a leading zero", "-01": "a leading zero",
    "007.5": "a leading",
    "1.": "after its point", "2.e3": "after its point", "-0.": "after its point", "0" * 5000: "a leading zero",
}  # fmt: skip


def with_unknown(text: str) -> bytes:
    """A record, valid but for an unknown member of this text."""
    return ONE[:-1] + b',"x":' + text.encode() + b',"y":"-01. NaN \\" \\\\"}'


@pytest.mark.parametrize("text", GOOD)
def test_every_number_that_json_has_is_read_in_an_unknown_member(text: str) -> None:
    for each in (text, f"[{text} ,{text}]", f'{{"a":{text}}}'):
        assert parse(with_unknown(each), None, None).unknown == 2
        assert parse(b"[" + with_unknown(each) + b"]", None, None).unknown == 2
        assert parse(with_unknown(each), NDJSON, None).unknown == 2


@pytest.mark.parametrize("text", BAD)
def test_a_number_that_json_forbids_is_refused_wherever_it_stands(text: str) -> None:
    # Found from outside: ujson reads these, and so did Inlet in unknown members.
    for each in (text, f"[1, {text} ]", f'{{"a":{text}}}'):
        body = with_unknown(each)
        assert BAD[text] in refusal("malformed-payload", body)
        assert BAD[text] in refusal("malformed-payload", b"[" + ONE + b"," + body + b"]")
        parsed = parse(ONE + b"\n" + body, NDJSON, None)
        assert [(each.index, each.reason) for each in parsed.rejections] == [(1, MALFORMED_RECORD)]
        assert BAD[text] in parsed.rejections[0].detail
    assert BAD[text] in refusal("malformed-payload", ONE.replace(b'"m"', text.encode()))


json_numbers = st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr)


@PROPERTY
@given(st.lists(json_numbers | st.text("-+.eE0123456789", min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_number_passes_exactly_where_the_standard_library_takes_it(texts: list[str]) -> None:
    text = "[" + ",".join(texts) + "]"
    try:
        json.loads(text)
    except ValueError:
        with pytest.raises(ClientError):
            _read(text)
    else:
        _read(text)


def _read(text: str) -> None:
    load(text.encode(), 32)
    check(text.encode(), 32)


@pytest.mark.parametrize("digits", [LONG_DIGITS, LONG_DIGITS + 1, 4300, 4301, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_of_any_length_is_json_in_an_unknown_member(digits: int, sign: str) -> None:
    # Found from outside: valid JSON with more than 4,300 digits was refused.
    number = sign + "9" * digits
    keeps = b'"note":"' + b"7" * digits + b'\\"' + b"8" * digits + b'"'
    body = ONE.replace(b'"m"', b'"' + b"1" * digits + b'"')[:-1] + b"," + keeps + b',"x":[' + number.encode() + b"]}"
    for each, kind in ((body, None), (b"[" + body + b"]", None), (body, NDJSON), (b"\xef\xbb\xbf" + body, None)):
        parsed = parse(each, kind, None)
        assert parsed.unknown == 2
        assert b'"' + b"1" * digits + b'"' in parsed.lines[0]
    bulk = b'[{"event_id":"bad","message":' + number.encode() + b"}," + body + b"]"
    (rejection,) = parse(bulk, None, None).rejections
    assert (rejection.index, rejection.event_id) == (0, "bad")
    assert "message must be a string, not a number" in rejection.detail
    refusal("malformed-payload", body[:-1])


@pytest.mark.parametrize(
    "text",
    ["1" + "0" * 8_000_000, "[" + "10," * 2_600_000 + "1]", "[" + ("9" * 4_301 + ",") * 1_900 + "1]",
     '"' + "0-" * 4_000_000 + '"', "[" + '"",' * 2_600_000 + '""]', '"' + '\\"' * 4_000_000 + '"',
     "-" + "1" * 8_000_000, "0." + "0" * 8_000_000]
     ,
    ids=["digits", "numbers", "long numbers", "string", "strings", "escapes", "minus", "fraction"],
)  # fmt: skip
def test_hostile_bodies_of_eight_mib_are_read_in_linear_time(text: str) -> None:
    # Quadratic time would take hours; the bound is far over what a busy machine needs.
    body = ONE[:-1] + b',"x":' + text.encode() + b"}"
    began = time.monotonic()
    _, _, error = outcome(body, None, parse=parse_with(payload_bytes_max=2 * len(body)))
    assert time.monotonic() - began < 60
    # Millions of values are not decoded.
    assert (error is not None) == (text.count(",") > VALUES_MAX)


@pytest.mark.parametrize("digits", [LONG_DIGITS + 1, 4_300, 4_301, 100_000])
def test_a_long_integer_is_kept_as_text_where_records_may_hold_numbers(digits: int) -> None:
    # Found from outside: it became 1, also where it was a time.
    nines = "9" * digits
    text = f'{{"s":"{nines}\\"-{nines}","a":[{nines} ,-{nines}],"b":{nines}.50,"c":-{nines}E+07,"d":0.{nines},"e":7}}'
    forced = text[:-1] + ',"f":' + "9" * 4_301 + "}"
    for body in (forced.encode(), b"\xef\xbb\xbf" + forced.encode()):
        for value in (load(body, 32, with_texts_of_numbers), finish(load_slices(body, 32, with_texts_of_numbers))):
            assert value == {
                "s": f'{nines}"-{nines}', "a": [nines, "-" + nines], "b": nines + ".50", "c": f"-{nines}E+07", "d": 1.0,
                "e": 7, "f": "9" * 4_301,
            }  # fmt: skip
    assert load(forced.encode(), 32)["f"] == 1


@PROPERTY
@given(st.lists(pieces | st.sampled_from(["9" * 4_301, "-" + "9" * 700, ':"x"', "+", "E"]), max_size=12))
def test_what_is_no_json_does_not_become_json_as_its_numbers_become_texts(found: list[str]) -> None:
    text = "".join(found).encode()
    for body in (text, b"[" + text + b"]", b'{"a":' + b"9" * 4_301 + b"," + text + b"}"):
        short, long = (
            account_of(partial(load, body, 32, each)) for each in (with_short_numbers, with_texts_of_numbers)
        )
        # Long fractions and exponents are shortened by the one, and left for ujson by the other.
        assert long is None or short is not None or b"." in body or b"e" in body.lower()
        assert short is None or long is not None


def test_many_numbers_of_just_as_many_digits_as_are_short_are_looked_through_once() -> None:
    # From each of their digits it took nine seconds.
    body = b"[" + b",".join([b"9" * LONG_DIGITS] * 12_000) + b"," + b"9" * 4_301 + b"]"
    for numbers in (with_short_numbers, with_texts_of_numbers):
        began = time.monotonic()
        assert len(load(body, 32, numbers)) == 12_001
        assert time.monotonic() - began < 5


# ---- words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (ONE + b"\n" + ONE, "not one JSON value but several"), (ONE + b"\n{", "not one JSON value but several"),
        (ONE + b"x", "there is more text behind"), (ONE + ONE, "there is more text behind the value"),
        ("\ufeff".encode("utf-16-le") + ONE.decode().encode("utf-16-le"), "looks like UTF-16"),
        (ONE.decode().encode("utf-16-be"), "looks like UTF-16"),
        (ONE.decode().encode("utf-16-le"), "looks like UTF-16"),
        (ONE.replace(b"m", b"\xe9"), "byte 0xE9 at offset 23; encode the text as UTF-8"),
        (ONE.replace(b'"m"', b'"\0"'), "a NUL byte at offset "), (ONE + b"\0", "a NUL byte at offset "),
        (b"{", "not valid JSON: "), (b"\xef\xbb\xbf ", "the body is empty"),
    ],
)  # fmt: skip
def test_a_text_that_is_not_json_is_told_what_was_found_and_what_to_do(body: bytes, words: str) -> None:
    assert words in refusal("malformed-payload", body)


def test_ndjson_sent_as_json_is_told_its_content_type() -> None:
    said = refusal("malformed-payload", ONE + b"\r\n" + ONE)
    assert "Content-Type: application/x-ndjson" in said


def test_utf16_sent_as_ndjson_is_refused_whole() -> None:
    assert "UTF-16" in refusal("malformed-payload", (ONE + b"\n" + ONE).decode().encode("utf-16"), NDJSON)


def test_an_array_in_a_line_of_ndjson_is_told_how_arrays_are_sent() -> None:
    _, (rejection,), _ = outcome(b"[" + ONE + b"]", NDJSON)
    assert "not an array; send an array with Content-Type: application/json" in rejection.detail
    assert rejection.reason == "invalid-record"


def test_a_lone_surrogate_is_told_its_member() -> None:
    assert "message holds a lone surrogate, \\ud83d" in refusal("invalid-record", ONE.replace(b'"m"', b'"\\ud83d"'))
