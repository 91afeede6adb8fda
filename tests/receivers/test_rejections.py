"""wsgi.receivers.parsed and bulk: what is kept of a bulk's rejections, and what of them an answer and the metrics say.

What lives here: many rejections. What must not: why a record is rejected (test_native).
"""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import pytest

from inlet.stream.limits import RecordLimits
from inlet.stream.rejected import TEXT_BYTES_MAX, Rejected, bytes_of, rejected
from tests.receivers.plain import Plain
from tests.receivers.support import LIMITS, NDJSON, ONE, MemorySink, account, application, ask, counted, environ, moved
from wsgi.receivers.excerpt import excerpt
from wsgi.receivers.native import Native
from wsgi.receivers.parsed import REJECTIONS_KEPT_MAX, ROWS_BYTES_MAX, ROWS_MAX, NothingAccepted, Rejections
from wsgi.receivers.slices import finish

BAD: dict[str, bytes] = {
    "number": b"0", "no json": b"{", "nothing": b"{}", "wrong": b'{"event_id":1,"timestamp":1,"service":1,"message":1}',
    "bad number": b'{"event_id":-01}', "array": b"[]", "latin-1": b'"\xe9"', "surrogate": b'"\xed\xa0\x80"',
    "long": ONE.replace(b'"api"', b'"' + b"a" * 257 + b'"'), "mark": b"\xef\xbb\xbf{", "valid": ONE,
    "digits": b"9" * 5_000, "unknown": ONE[:-1] + b',"x":[1]}', "unknown bad": ONE[:-1] + b',"x":[1.]}',
}  # fmt: skip


def test_the_first_are_kept_in_words_and_all_are_counted() -> None:
    rejections = Rejections()
    for index in range(0, 2 * REJECTIONS_KEPT_MAX + 2, 2):
        assert rejections.full == (index >= 2 * REJECTIONS_KEPT_MAX)
        rejections.add(index, None, "a" if index % 4 else "b", str(index))
    assert [each.index for each in rejections.kept] == list(range(0, 2 * REJECTIONS_KEPT_MAX, 2))
    assert list(rejections.indexes) == list(range(0, 2 * REJECTIONS_KEPT_MAX + 2, 2))
    assert len(rejections) == REJECTIONS_KEPT_MAX + 1 == sum(rejections.counts.values())


@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_beyond_those_kept_each_record_comes_to_what_it_came_to_before(content_type: str | None) -> None:
    # Where words are dropped, other code decides: it must decide alike.
    texts = [b"0"] * REJECTIONS_KEPT_MAX + [text for text in BAD.values() for _ in range(3)]
    if content_type is None:
        texts = [
            text for text in texts if text not in [BAD[name] for name in ("no json", "latin-1", "surrogate", "mark")]
        ]
        texts = [text for text in texts if b"1.]" not in text and b"-01" not in text]
    body = b"\n".join(texts) if content_type else b"[" + b",".join(texts) + b"]"
    env = environ(body, CONTENT_TYPE=content_type)
    expected = account(lambda: Plain(LIMITS, RecordLimits()).read(body, ndjson=content_type is not None))
    assert account(lambda: finish(Native(LIMITS, RecordLimits()).slices(env, body))) == expected


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("number", None), ("nothing", None), ("wrong", None), ("no json", NDJSON), ("number", NDJSON), ("wrong", NDJSON)],
)
def test_a_bulk_of_bad_records_holds_little_memory(name: str, content_type: str | None) -> None:
    # Found from outside: 100 bodies of 226 bytes as gzip took 550 MiB, 5.5 MB each.
    texts = [ONE] + [BAD[name]] * (LIMITS.bulk_records_max - 1)
    body = b"\n".join(texts) if content_type else b"[" + b",".join(texts) + b"]"
    env = environ(body, CONTENT_TYPE=content_type)
    native = Native(LIMITS, RecordLimits())
    finish(native.slices(env, ONE))

    def held() -> int:
        """Bytes that a whole bulk takes: and what threads of earlier tests take meanwhile, so the least of three."""
        tracemalloc.start()
        try:
            parsed = finish(native.slices(env, body))
            bytes_held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert parsed.rejections is not None
        assert len(parsed.rejections) == LIMITS.bulk_records_max - 1
        return bytes_held

    assert min(held() for _ in range(3)) < 900_000


def test_an_answer_lists_the_first_and_counts_all_and_so_do_the_metrics() -> None:
    body = b"\n".join([ONE, *[b"0"] * 1_500, *[b"{"] * 500, ONE])
    before = counted()
    answer: Any = ask(application(MemorySink()), environ(body, CONTENT_TYPE=NDJSON, QUERY_STRING="receipt=1")).json
    assert (answer["accepted"], answer["rejected"], len(answer["errors"])) == (2, 2_000, REJECTIONS_KEPT_MAX)
    assert [each["index"] for each in answer["errors"]] == list(range(1, REJECTIONS_KEPT_MAX + 1))
    assert [each["index"] for each in answer["records"]] == [0, 2_001]
    counts = {name: value for name, value in moved(before).items() if "rejected" in name}
    assert counts == {
        'inlet_records_rejected_total{reason="invalid-record"}': 1_500,
        'inlet_records_rejected_total{reason="malformed-record"}': 500,
    }
    refused: Any = ask(application(MemorySink()), environ(b"0\n" * 2_000, CONTENT_TYPE=NDJSON)).json
    assert (refused["accepted"], refused["rejected"], len(refused["errors"])) == (0, 2_000, REJECTIONS_KEPT_MAX)


KEEPING = Native(LIMITS, RecordLimits(), keep_rejected=True)


def rows(body: bytes, content_type: str | None = NDJSON, native: Native = KEEPING) -> list[Rejected]:
    """What is kept of a body's rejected records; reading it at once and in slices must keep the same."""
    env = environ(body, CONTENT_TYPE=content_type)

    def kept(read: Any) -> list[Rejected] | None:
        try:
            parsed = read()
        except NothingAccepted as error:
            return error.rejections.rows
        return parsed and (parsed.rejections.rows if parsed.rejections else [])

    in_slices = kept(lambda: finish(native.slices(env, body)))
    assert kept(lambda: native.read(env, body)) in (None, in_slices)
    assert in_slices is not None
    return in_slices


def test_texts_are_kept_only_where_they_are_wanted() -> None:
    for native in (Native(LIMITS, RecordLimits()), Native(LIMITS, RecordLimits(), keep_rejected=False)):
        assert rows(b"\n".join([ONE, b"{", b"{}"]), NDJSON, native) == []
        assert rows(b"[{},1]", None, native) == []


@pytest.mark.parametrize("good", [[], [ONE], [ONE] * 200])
def test_each_line_is_kept_as_it_came(good: list[bytes]) -> None:
    bad = [
        b'{"event_id": "e-7",  "service":""}', b"{", b" 0\t", b"\xff\xfe\x00", b'"\xed\xa0\x80"', b"[1, 2]",
        b'{"event_id":-01}',
    ]  # fmt: skip
    found = rows(b"\n".join([*good, *bad[:3], b""]) + b"\r\n" + b"\n".join([*bad[3:]]))
    assert [row.text for row in found] == bad
    assert [row.event_id for row in found] == ["e-7", None, None, None, None, None, None]
    assert [row.size for row in found] == [len(text) for text in bad]
    assert {row.reason for row in found} == {"invalid-record", "malformed-record"}
    assert found[0].detail.startswith("missing: timestamp, message")


def test_an_end_of_a_line_is_not_the_records() -> None:
    assert [row.text for row in rows(b"{}\r\n{}\n{} \r\n{}")] == [b"{}", b"{}", b"{} ", b"{}"]


@pytest.mark.parametrize("good", [0, 1, 200])
def test_an_element_of_an_array_is_kept_written_anew(good: int) -> None:
    bad = [{"event_id": "e", "service": ""}, 7, "m\u00e9", [], {}, None, [[1, 2.5, True], {"a": [{}]}]]
    body = json.dumps([json.loads(ONE)] * good + bad, indent=1).encode()
    found = rows(body, None)
    assert [json.loads(row.text) for row in found] == bad
    assert found[2].text == '"m\u00e9"'.encode()
    assert [row.size for row in found] == [len(row.text) for row in found]


@pytest.mark.parametrize("size", [TEXT_BYTES_MAX, TEXT_BYTES_MAX + 1, 100_000, 300_000])
def test_a_long_text_is_cut_and_its_size_noted(size: int) -> None:
    line = b'{"event_id":"e-1","x":"' + b"a" * (size - 25) + b'"}'
    [row] = rows(ONE + b"\n" + line + b"\n")
    assert (row.text, row.size, row.event_id) == (line[:TEXT_BYTES_MAX], size, "e-1")
    [row] = rows(b"[" + line + b"," + ONE + b"]", None)
    # Nobody counts what is not written anew.
    assert (row.text, row.size) == (line[:TEXT_BYTES_MAX], size if size <= TEXT_BYTES_MAX else None)


@pytest.mark.parametrize("size", [100, 70_000])
def test_a_line_that_is_refused_before_it_is_decoded_is_kept_too(size: int) -> None:
    for line in (b"[" + b"0," * 110_000 + b"0]", b"[" * size, b'{"x":"' + b"a" * size, b'{"x":"\xff' + b"a" * size):
        [row] = rows(ONE + b"\n" + line)
        assert (row.text, row.size) == (line[:TEXT_BYTES_MAX], len(line))


@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_so_many_texts_of_a_request_are_kept_and_no_more(content_type: str | None) -> None:
    for records in (ROWS_MAX - 1, ROWS_MAX, ROWS_MAX + 1, 3 * REJECTIONS_KEPT_MAX):
        texts = [str(number).encode() for number in range(records)]
        body = b"\n".join(texts) if content_type else b"[" + b",".join(texts) + b"]"
        assert [row.text for row in rows(body, content_type)] == texts[:ROWS_MAX]


def test_so_many_bytes_of_a_request_are_kept_and_no_more() -> None:
    row = rejected("invalid-record", "d", None, bytes(TEXT_BYTES_MAX))
    fitting = ROWS_BYTES_MAX // bytes_of(row)
    assert fitting < ROWS_MAX
    rejections = Rejections()
    for number in range(fitting + 5):
        assert rejections.wants_rows == (number <= fitting)
        if rejections.wants_rows:
            rejections.keep(row)
    assert len(rejections.rows) == fitting


@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_a_bulk_whose_texts_are_kept_holds_little_more_memory(content_type: str | None) -> None:
    # Strings of their own, of about 160 bytes each: all of them would be 8 MB.
    texts = [ONE] + [b'{"event_id":"%d","x":"%b"}' % (n, b"a" * 130) for n in range(LIMITS.bulk_records_max - 1)]
    body = b"\n".join(texts) if content_type else b"[" + b",".join(texts) + b"]"
    del texts
    env = environ(body, CONTENT_TYPE=content_type)
    finish(KEEPING.slices(env, ONE))
    tracemalloc.start()
    try:
        parsed = finish(KEEPING.slices(env, body))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert parsed.rejections is not None
    assert len(parsed.rejections.rows) == ROWS_MAX
    assert held < 900_000 + ROWS_BYTES_MAX


@pytest.mark.parametrize("content_type", [None, NDJSON])
def test_keeping_texts_makes_no_cycle(content_type: str | None) -> None:
    texts = [ONE, *[text for text in BAD.values() if content_type or text not in (b"{", BAD["mark"])]]
    body = b"\n".join(texts) if content_type else b"[" + b",".join([ONE, b"{}", b"[]", b"0"]) + b"]"
    assert rows(body, content_type)
    left = []
    gc.disable()
    try:
        # Threads of other tests may leave some too, now and then.
        for _ in range(5):
            gc.collect()
            assert rows(body, content_type)
            left.append(gc.collect())
    finally:
        gc.enable()
    assert min(left) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [({}, b"{}"), ([], b"[]"), ({"a": [1, {"b": None}], "c": "\u00e9"}, '{"a":[1,{"b":null}],"c":"\u00e9"}'.encode()),
     ("\ud800", b'"\xed\xa0\x80"'), (float("inf"), b"Infinity"), ("\0\n", b'"\\u0000\\n"'),
     (10**600, b"1" + b"0" * 600)],
)  # fmt: skip
def test_an_excerpt_is_the_values_text_up_to_a_bound(value: object, text: bytes) -> None:
    assert excerpt(value, len(text)) == (text, True)
    for size in (0, 1, len(text) - 1):
        assert excerpt(value, size) == (text[:size], False)


def test_an_excerpt_of_something_huge_or_deep_costs_no_more() -> None:
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep, 1]
    for value in (deep, "\0" * 10**7, [0] * 10**6, {str(n): n for n in range(10**5)}, [[""] * 10**5] * 10):
        text, whole = excerpt(value, TEXT_BYTES_MAX)
        assert (len(text), whole) == (TEXT_BYTES_MAX, False)
    while type(deep) is list:  # freed step by step: it is deeper than the interpreter's stack
        deep = deep[0]
