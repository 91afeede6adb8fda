"""Reading in slices: any body comes to what the plain way comes to, whatever its pieces, and no step is long.

What lives here: equivalence with ``tests.receivers.plain``, what is read at once, and the size of a step. What must
not: what makes a record valid (test_record), the words for what is not JSON (test_jsontext).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlet.stream.limits import RecordLimits
from tests.receivers.plain import Plain
from tests.receivers.support import LIMITS, NDJSON, ONE, account, body_of, environ, record
from wsgi.receivers import arrays, bulk, jsontext, native, ndjson, structure
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.slices import finish
from wsgi.receivers.structure import VALUES_MAX

PROPERTY = settings(derandomize=True, deadline=None, max_examples=500)
SIZES: dict[tuple[Any, str], list[int]] = {
    (structure, "CHUNK_BYTES"): [16, 50, 300], (jsontext, "CHECKED_BYTES"): [10, 100],
    (jsontext, "DECODED_BYTES"): [16, 100], (arrays, "PIECE_BYTES"): [8, 60, 300, 1_000],
    (ndjson, "PIECE_BYTES"): [8, 60, 300, 1_000], (ndjson, "LONG_BYTES"): [20, 200, 65_536],
    (ndjson, "JOINED_BYTES_MAX"): [100, 65_536], (ndjson, "BLANK_LINES_MAX"): [0, 2],
    (arrays, "GROUP_RECORDS"): [2, 7], (ndjson, "GROUP_RECORDS"): [1, 2, 7], (bulk, "TOGETHER_RECORDS_MIN"): [2, 3],
    (native, "SLOW_RECORDS_MAX"): [1, 4], (native, "LONG_BYTES_MIN"): [100, 16_384],
}  # fmt: skip
"""Sizes that decide about nothing but steps, and what to set them to for bodies of a few hundred bytes."""
SMALL = PayloadLimits(bulk_records_max=30, nesting_depth_max=8), RecordLimits(
    record_bytes_max=400, event_id_chars_max=30, message_chars_max=90, metadata_pairs_max=2,
    metadata_key_chars_max=60, metadata_value_chars_max=60,
)  # fmt: skip

receiver = Native(LIMITS, RecordLimits())

# ---- what bodies are made of

TEXTS = ["m", "},{", '"],["', "\\", '"', "},\n{", "[[[", "é", "\ud800", "€", "a\tb", '\\"},{\\"', "x" * 40]
texts = st.lists(st.sampled_from(TEXTS), max_size=4).map("".join)
leaves = st.sampled_from([None, True, 1, -1.5, 0, 10**20, 1e300]) | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=12
)
stamps = st.sampled_from(
    ["2026-02-28T00:00:00Z"] * 6
    + ["2026-02-28T00:00:00+05:30", "2024-02-29T00:00:00Z", "2026-06-30t23:59:60z", "2026-02-29T00:00:00Z", "now"]
)
good = st.builds(
    lambda *parts: dict(zip(("event_id", "timestamp", "service", "message", "metadata"), parts, strict=True)),
    texts.map(lambda text: text or "i"), stamps, st.just("api"), texts, st.dictionaries(texts, texts, max_size=3),
)  # fmt: skip
odd = st.builds(lambda value, key, more: {**value, key: more}, good, texts | st.sampled_from(["message"]), values)
lacking = st.builds(
    lambda value, key: {name: member for name, member in value.items() if name != key},
    good, st.sampled_from(["metadata", "metadata", "service"]),
)  # fmt: skip
RAW = [
    b"NaN", b"-", b"01", b"1.", b"-0", b"9" * 5_000, b"{", b"}", b"[", b"]", b",", b'"', b"\\", b"\n", b"\r\n", b" ",
    b"\xed\xa0\x80", b"\xff", b"\0", jsontext.BOM, b"1,2", b'{"a":[{}', b'{}]},{"b":1}', b"\x0b", b"[]", b"{}",
    b"-Infinity", b'],["', b"\xe2\x82", b'\\"', b"[" * 9 + b"]" * 9, ONE[:-1] + b',"message":-01,"message":"m"}',
]  # fmt: skip


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


items = st.one_of(*[good.map(encoded)] * 8, odd.map(encoded), lacking.map(encoded), values.map(encoded))
mixed = st.one_of(*[items] * 6, st.sampled_from(RAW))
many = st.lists(items, max_size=40) | st.lists(mixed, max_size=12)
spaces = st.sampled_from([b"", b"", b" ", b"\n", b"\r\n\t"])
arrays_of = st.builds(
    lambda each, before, between: before + b"[" + (between + b"," + between).join(each) + b"]", many, spaces, spaces
)
lines_of = st.builds(
    lambda each, between, end: between.join(each) + end, many, st.sampled_from([b"\n", b"\r\n", b"\n \n"]), spaces
)
edits: st.SearchStrategy[list[tuple[int, int, bytes]]] = st.lists(
    st.tuples(st.integers(0, 2_000), st.integers(0, 3), st.sampled_from([*RAW, b"", b""])), max_size=2
) | st.just([])


def edited(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, new in changes:
        at %= len(body) + 1
        body = body[:at] + new + body[at + gone :]
    return body


@pytest.fixture
def _any_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the sizes as they were, whatever the test sets."""
    for module, name in SIZES:
        monkeypatch.setattr(module, name, getattr(module, name))


def same_both_ways(body: bytes, *, lines: bool, seed: int) -> None:
    choose = random.Random(seed)
    for (module, name), sizes in SIZES.items():
        setattr(module, name, choose.choice(sizes))
    receiver, plain = Native(*SMALL), Plain(*SMALL)
    env = environ(body, CONTENT_TYPE=NDJSON if lines else None)
    expected = account(lambda: plain.read(body, ndjson=lines))
    assert account(lambda: finish(receiver.slices(env, body))) == expected
    assert account(lambda: receiver.read(env, body)) in (None, expected)


@pytest.mark.usefixtures("_any_sizes")
@PROPERTY
@given(arrays_of, edits, st.integers(0, 1_000))
def test_an_array_comes_to_the_same_whatever_its_pieces(
    body: bytes, changes: list[tuple[int, int, bytes]], seed: int
) -> None:
    same_both_ways(edited(body, changes), lines=False, seed=seed)


@pytest.mark.usefixtures("_any_sizes")
@PROPERTY
@given(lines_of, edits, st.integers(0, 1_000))
def test_ndjson_comes_to_the_same_whatever_its_pieces(
    body: bytes, changes: list[tuple[int, int, bytes]], seed: int
) -> None:
    same_both_ways(edited(body, changes), lines=True, seed=seed)


HOSTILE = [
    [b'{"a":[1', b'2]},{"b":1}'], [b'{"a":[{}', b'{}]},{"b":1}'], [b'{"a":"', b'"},{"b":1}'], [b"1,2", b""],
    [b"1],[2", b"3"], [b'1,"x"', b'"', b'"'], [ONE[:-1], b"}"], [b'"', b'"'], [ONE + b"," + ONE, ONE],
    [b"[" + ONE, b"]"], [ONE, b",", ONE], [ONE + b",", ONE], [ONE, b"," + ONE], [b"]", b"["], [ONE + b"]", b"[" + ONE],
    # As many elements as lines and marks, and the mark within one of them.
    [ONE[:-1] + b',"x":[1', b"2]},1," + ONE], [ONE[:-1] + b',"x":{"a"', b'"b":1}},1,' + ONE],
]  # fmt: skip


@pytest.mark.parametrize("texts", HOSTILE)
@pytest.mark.parametrize("more", [0, 20])
def test_lines_that_are_nothing_alone_make_no_record_together(texts: list[bytes], more: int) -> None:
    body = b"\n".join([*[ONE] * more, *texts, *[ONE] * more])
    env = environ(body, CONTENT_TYPE=NDJSON)
    expected = account(lambda: Plain(LIMITS, RecordLimits()).read(body, ndjson=True))
    assert account(lambda: finish(Native(LIMITS, RecordLimits()).slices(env, body))) == expected
    assert account(lambda: Native(LIMITS, RecordLimits()).read(env, body)) in (None, expected)


@pytest.mark.usefixtures("_any_sizes")
@pytest.mark.parametrize("piece_bytes", [1, 8, 100, 200])
@pytest.mark.parametrize("wrong", [b",", b" ,", b"1 ", b"]", b"[", b"}", b'"', b"", b"\xff", b"\0"])
def test_what_breaks_an_array_breaks_it_wherever_it_stands(piece_bytes: int, wrong: bytes) -> None:
    arrays.PIECE_BYTES, structure.CHUNK_BYTES = piece_bytes, 50
    texts = [ONE, b"1", ONE, b'"},{"', b"[]", ONE]
    for at in range(len(texts) + 1):
        for body in (
            b"[" + b",".join([*texts[:at], wrong, *texts[at:]]) + b"]",
            b"[" + b",".join(texts[:at]) + wrong + b",".join(texts[at:]) + b"]",
        ):
            expected = account(partial(Plain(LIMITS, RecordLimits()).read, body, ndjson=False))
            assert account(partial(finish, receiver.slices(environ(body), body))) == expected
    for body in (b"[" + b",".join(texts), b",".join(texts) + b"]", b"[" + b",".join(texts) + b"],", b"[ ]", b"[,]"):
        expected = account(partial(Plain(LIMITS, RecordLimits()).read, body, ndjson=False))
        assert account(partial(finish, receiver.slices(environ(body), body))) == expected


# ---- what is read at once


def at_once(body: bytes, content_type: str | None = None) -> Parsed | None:
    return receiver.read(environ(body, CONTENT_TYPE=content_type), body)


@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_a_short_bulk_of_valid_records_is_read_at_once_and_a_longer_one_in_slices(content_type: str | None) -> None:
    def bulk_of(texts: list[bytes]) -> bytes:
        return b"\n".join(texts) if content_type else b"[" + b",".join(texts) + b"]"

    few = at_once(bulk_of([ONE] * native.SHORT_RECORDS_MAX), content_type)
    assert few is not None
    assert len(few.lines) == native.SHORT_RECORDS_MAX
    assert at_once(bulk_of([ONE] * (native.SHORT_RECORDS_MAX + 1)), content_type) is None
    # A cheap body may not cost much: with a bad record among them, few are read at once.
    assert at_once(bulk_of([ONE] * (native.SLOW_RECORDS_MAX - 1) + [b"0"]), content_type) is not None
    assert at_once(bulk_of([ONE] * native.SLOW_RECORDS_MAX + [b"0"]), content_type) is None
    assert at_once(bulk_of([ONE.ljust(200)] * 100 + [b"0"]), content_type) is not None


@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_a_body_of_short_bytes_max_is_read_at_once_and_a_longer_one_in_slices(content_type: str | None) -> None:
    assert at_once(ONE.ljust(native.SHORT_BYTES_MAX), content_type) is not None
    assert at_once(ONE.ljust(native.SHORT_BYTES_MAX + 1), content_type) is None


# ---- steps


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is decoded in one go."""
    sizes: list[int] = []
    strict = jsontext.strict

    def noting(text: bytes) -> Any:
        sizes.append(len(text))
        return strict(text)

    monkeypatch.setattr(jsontext, "strict", noting)
    monkeypatch.setattr(arrays, "_strict", noting)
    return sizes


def bulk_body(kind: str) -> tuple[bytes, str | None]:
    """A bulk of two megabytes."""
    texts = [body_of(record(f"e-{n}", message="},{" * (n % 100), x=[{"y": n}, {"z": "]},{["}])) for n in range(9_000)]
    if kind == "array":
        return b"[" + b",\n ".join(texts) + b"]", None
    if kind == "numbers":
        return b"[" + b"10," * 45_000 + ONE + b"]", None
    return b"\n".join(texts), NDJSON


@pytest.mark.parametrize("kind", ["array", "numbers", "ndjson"])
def test_no_more_than_a_piece_is_decoded_in_one_go(
    kind: str, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (arrays, ndjson):
        monkeypatch.setattr(module, "SLICE_SECONDS", 0)
    body, content_type = bulk_body(kind)
    assert len(body) > 2 * native.SHORT_BYTES_MAX or kind == "numbers"
    yields = sum(1 for _ in receiver.slices(environ(body, CONTENT_TYPE=content_type), body))
    assert max(decoded) <= max(ndjson.JOINED_BYTES_MAX, arrays.PIECE_BYTES + 16)
    assert yields >= len(body) // arrays.PIECE_BYTES


def nested(values_: int) -> bytes:
    """A record whose text counts so many values: its own, and those of an unknown member."""
    own = ONE.count(b",") + ONE.count(b"{") + len((b",", b"["))
    return ONE[:-1] + b',"x":[' + b",".join([b'"a"'] * (values_ - own + 1)) + b"]}"


def test_a_record_of_values_max_is_read_and_one_of_more_is_too_large() -> None:
    enough, more = nested(VALUES_MAX), nested(VALUES_MAX + 1)

    def read(body: bytes, content_type: str | None = None) -> Any:
        return account(lambda: finish(receiver.slices(environ(body, CONTENT_TYPE=content_type), body)))

    detail = f"the record holds more than {VALUES_MAX} values, those in unknown members included"
    assert read(enough)[2:] == (1, False)
    assert read(more)[1:] == ("record-too-large", detail)
    lines, (kept, counts, indexes), unknown, _ = read(enough + b"\n" + more + b"\n" + ONE, NDJSON)
    assert (len(lines), counts, indexes, unknown) == (2, {"record-too-large": 1}, [1], 1)
    assert (kept[0].event_id, kept[0].detail) == (None, detail)


def test_an_array_with_an_element_of_far_too_many_values_is_too_large_and_is_not_decoded(decoded: list[int]) -> None:
    def read(body: bytes) -> Any:
        return account(lambda: finish(receiver.slices(environ(body), body)))

    assert read(b"[" + nested(VALUES_MAX) + b"," + ONE + b"]")[2:] == (1, True)
    decoded.clear()
    body = b"[" + ONE + b"," + nested(3 * VALUES_MAX) + b"," + ONE + b"]"
    assert read(body)[1] == "payload-too-large"
    assert max(decoded) <= arrays.PIECE_BYTES + 16


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b"[" * n, lambda n: b"[" + b"[" * n, lambda n: b'["' + b"[" * n, lambda n: b" " * n,
        lambda n: b'{"x":' * (n // 5), lambda n: b"[" + b"]" * n, lambda n: b"[" + b"\\" * n, lambda n: b'"' * n,
    ],
)  # fmt: skip
@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_a_long_body_that_is_no_json_gets_the_answer_of_the_plain_way(
    make: Callable[[int], bytes], content_type: str | None
) -> None:
    body = make(90_000)
    expected = account(lambda: Plain(LIMITS, RecordLimits()).read(body, ndjson=content_type is not None))
    assert account(lambda: finish(receiver.slices(environ(body, CONTENT_TYPE=content_type), body))) == expected
