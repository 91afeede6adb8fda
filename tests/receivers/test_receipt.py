"""wsgi.receivers.receipt: who gets a receipt, by query and by ``Prefer`` (RFC 7240); and what one looks like.

What lives here: the two ways to ask, and the answers. What must not: entry IDs of a real store.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import ujson

from inlet.stream.limits import RecordLimits
from tests.receivers.support import LIMITS, LINE, NDJSON, ONE, MemorySink, application, ask, environ, refused
from wsgi.receivers import native
from wsgi.receivers.parsed import Parsed, Rejections
from wsgi.receivers.receipt import preferences, wants_receipt
from wsgi.receivers.slices import finish
from wsgi.sink.batch import RecordAddress
from wsgi.sink.durability import STORED


@pytest.mark.parametrize("query", ["receipt=1", "a=b&receipt=1", "receipt=1&x", "receipt=%31", "receipt=0&receipt=1"])
def test_a_query_with_receipt_1_asks_for_a_receipt(query: str) -> None:
    assert wants_receipt(query, "")


@pytest.mark.parametrize("query", ["", "receipt", "receipt=", "receipt=10", "receipt=01", "xreceipt=1", "%"])
def test_any_other_query_does_not_and_receipt_10_is_not_receipt_1(query: str) -> None:
    # Found from outside: ?receipt=10 switched receipts on.
    assert not wants_receipt(query, "")


@pytest.mark.parametrize(
    "prefer",
    [
        "return=representation", "Return=Representation", 'return="representation"', "return = representation",
        "respond-async, return=representation", "return=representation; foo=bar", "return=representation;",
        "return=representation, return=minimal", ' wait=10 ,\treturn="repre\\sentation" ; a="b,c" ,x',
        'x="return=minimal, y", return=representation', "a=b;return=minimal,return=representation",
        ",,return=representation",
    ],
)  # fmt: skip
def test_prefer_is_read_as_rfc_7240_has_it(prefer: str) -> None:
    # Found from outside: case, quotes and space around "=" were not.
    assert wants_receipt("", prefer)


@pytest.mark.parametrize(
    "prefer",
    [
        "return=minimal", "return=minimal, return=representation", "return, return=representation", "return",
        "respond-async", "x-return=representation", 'x="return=representation"', 'x=", return=representation',
        "x=y; return=representation", "return=representations", 'return="representation', "return==representation",
    ],
)  # fmt: skip
def test_another_preference_does_not_and_of_a_name_the_first_one_counts(prefer: str) -> None:
    assert not wants_receipt("", prefer)


def test_preferences_have_names_and_values_in_lower_case() -> None:
    assert preferences('A, B="C,\\"D", b=x, wait = 5;p=q') == {"a": "", "b": 'c,"d', "wait": "5"}


@pytest.mark.parametrize("text", ['"', '"a,', "a=", "\\", ";", "a;", " ,"])
def test_a_hostile_prefer_is_read_in_linear_time(text: str) -> None:
    began = time.monotonic()
    preferences(text * 100_000)
    assert time.monotonic() - began < 30


def test_a_receipt_names_the_address_of_each_record_and_whether_each_error_can_be_retried() -> None:
    body = ONE + b"\n{\n" + ONE
    for more in ({"QUERY_STRING": "receipt=1"}, {"HTTP_PREFER": "return=representation"}):
        answer = ask(application(MemorySink()), environ(body, CONTENT_TYPE=NDJSON, **more))
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.json["records"] == [
            {"index": 0, "entry_id": "1-0", "line": 0}, {"index": 2, "entry_id": "1-0", "line": 1},
        ]  # fmt: skip
        assert [(error["index"], error["retryable"]) for error in answer.json["errors"]] == [(1, False)]
    single = ask(application(MemorySink()), environ(ONE, QUERY_STRING="receipt=1"))
    assert single.json == {
        "status": "queued", "accepted": 1, "rejected": 0, "errors": [],
        "records": [{"index": 0, "entry_id": "1-0", "line": 0}],
    }  # fmt: skip


@pytest.mark.parametrize("records", [native.WHOLE_RECORDS_MAX, native.WHOLE_RECORDS_MAX + 1, 5_000])
def test_a_long_receipt_is_rendered_in_slices_and_byte_by_byte_as_in_one_go(
    records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "SLICE_SECONDS", 0)
    receiver, rejections = native.Native(LIMITS, RecordLimits()), Rejections()
    for index in (0, 1, 7, records // 2, records + 4):
        rejections.add(index, "é", "invalid-record", 'a "detail"')
    addresses = [RecordAddress("" if n % 3 == 0 else f"{n}-0", n % 25, n % 7 == 0) for n in range(records)]
    parsed = Parsed([LINE] * records, rejections, 0, True)
    found: Any = receiver.accepted(parsed, STORED, addresses)
    if records > native.WHOLE_RECORDS_MAX:
        rendering = iter(found)
        assert next(rendering) is None
        found = finish(rendering)
    status, headers, body = found
    indexes = [n for n in range(records + 5) if n not in set(rejections.indexes)]
    assert body == ujson.dumps(
        {
            "status": "queued", "accepted": records, "rejected": 5,
            "errors": [{**each._asdict(), "retryable": False} for each in rejections.kept],
            "records": [
                {"index": index, "entry_id": entry_id or None, "line": line, **({"duplicate": True} if known else {})}
                for index, (entry_id, line, known) in zip(indexes, addresses, strict=True)
            ],
        },
        ensure_ascii=False, escape_forward_slashes=False,
    ).encode()  # fmt: skip
    assert (status, dict(headers)["content-length"]) == ("202 Accepted", str(len(body)))


def test_the_errors_of_a_receipts_422_say_whether_to_retry() -> None:
    # Found from outside: only those of a 202 did.
    asked = refused(
        ask(application(MemorySink()), environ(b"{}\n{", CONTENT_TYPE=NDJSON, QUERY_STRING="receipt=1")),
        "nothing-accepted",
    )
    assert [error["retryable"] for error in asked["errors"]] == [False, False]
    plain = refused(ask(application(MemorySink()), environ(b"{}\n{", CONTENT_TYPE=NDJSON)), "nothing-accepted")
    assert [sorted(error) for error in plain["errors"]] == [["detail", "event_id", "index", "reason"]] * 2
    assert (plain["accepted"], plain["rejected"]) == (0, 2)
