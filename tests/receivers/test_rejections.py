"""wsgi.receivers.parsed and bulk: what is kept of a bulk's rejections, and what of them an answer and the metrics say.

What lives here: many rejections. What must not: why a record is rejected (test_native).
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from inlet.stream.limits import RecordLimits
from tests.receivers.plain import Plain
from tests.receivers.support import LIMITS, NDJSON, ONE, MemorySink, account, application, ask, counted, environ, moved
from wsgi.receivers.native import Native
from wsgi.receivers.parsed import REJECTIONS_KEPT_MAX, Rejections
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
    tracemalloc.start()
    try:
        parsed = finish(native.slices(env, body))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert parsed.rejections is not None
    assert len(parsed.rejections) == LIMITS.bulk_records_max - 1
    assert held < 900_000


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
