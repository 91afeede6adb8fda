"""The Elasticsearch receiver reads any body in short steps, and comes to the same whatever the steps are."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream.limits import RecordLimits
from inlet.stream.record import decode
from tests.receivers.elastic_support import app_of, bulk_of, create, statuses
from tests.receivers.support import MemoryAddress, MemorySink, account, ask, environ
from wsgi.problems import ClientError
from wsgi.receivers import elasticbulk, ndjson
from wsgi.receivers.elastic import SHORT_BYTES_MAX, SHORT_LINES_MAX, Elasticsearch, mount
from wsgi.receivers.elasticbulk import GROUP_LINES
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.parsed import Parsed
from wsgi.receivers.slices import finish

SIZES: dict[tuple[Any, str], list[int]] = {
    (elasticbulk, "PIECE_BYTES"): [8, 60, 300], (ndjson, "PIECE_BYTES"): [8, 60, 300],
    (elasticbulk, "GROUP_LINES"): [1, 2, 7], (elasticbulk, "LONG_BYTES"): [20, 200],
    (elasticbulk, "BLANK_LINES_MAX"): [0, 2], (ndjson, "JOINED_BYTES_MAX"): [100, 65_536],
    (elasticbulk, "REMEMBERED_MAX"): [0, 1],
}  # fmt: skip
"""Sizes that decide about nothing but steps, and what to set them to for bodies of a few hundred bytes."""
ENDS = [b"\n", b"\r\n", b"\n\n"]
MEBIBYTES = 8_388_608

names = st.sampled_from(
    ["a", "@timestamp", "message", "service", "service.name", "log", "b.c", "é", "\ud800", "_index"]
)
leaves = st.sampled_from([None, True, 1, -1.5, 10**20, 10**30, float("nan"), "", "x", "2026-01-31T23:59:59Z", "\ud800"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
ids = st.sampled_from([None, "1", "2", "é", '"', 7, "", "x" * 600])
actions = st.builds(
    lambda operation, own_id, index: {operation: {"_index": index, "_id": own_id}},
    st.sampled_from(["index", "create", "create", "update", "delete"]), ids,
    st.sampled_from(["logs", None, "i" * 300, 'a"b', 5]),
)  # fmt: skip
odd = st.sampled_from([b"", b" ", b"x", b'{"a":\xff}', b"[1]", b"{", b'{"a":' * 40 + b"1" + b"}" * 40, b"1},{"])


def made(values: dict[str, Any]) -> bytes:
    """A document as Python would write it, for better or worse."""
    return json.dumps(values).encode()


pairs = st.tuples(actions, st.dictionaries(names, values, max_size=4).map(made) | odd)


def receiver(**limits: int) -> Elasticsearch:
    found = mount(Bounds(PayloadLimits(**limits), RecordLimits())).receivers["/_bulk"]
    assert isinstance(found, Elasticsearch)
    return found


def outcome(read: Any) -> Any:
    """What a reading came to, its moment and its random ids apart."""
    found = account(read)
    if found is None or len(found) < 4:
        return found
    lines, rejections, unknown, bulk = found
    return [decode(line)[2:] for line in lines], rejections, unknown, bulk.actions  # type: ignore[attr-defined]


@given(st.lists(pairs, max_size=12), st.data())
def test_a_bulk_is_answered_item_by_item_and_exactly_what_has_201_is_stored(
    found: list[tuple[Any, bytes]], data: st.DataObject
) -> None:
    lines: list[bytes] = []
    for action, document in found:
        lines.append(made(action))
        if "delete" not in action:
            lines.append(document)
    body = b"".join(line + data.draw(st.sampled_from(ENDS[:2])) for line in lines)
    sink = MemorySink()
    reply = ask(app_of(sink), environ(body, "/_bulk"))
    if not found:
        assert reply.status == 400
        return
    assert reply.status == 200, reply.body
    items = reply.json["items"]
    assert [next(iter(item)) for item in items] == [next(iter(action)) for action, _ in found]
    assert set(statuses(reply)) <= {201, 400}
    assert statuses(reply).count(201) == len(sink.stored)
    assert reply.json["errors"] is (400 in statuses(reply))
    for line in sink.stored:
        decode(line)


@given(st.lists(pairs | st.tuples(odd, odd), max_size=10), st.data())
def test_whatever_the_steps_a_body_comes_to_the_same(found: list[tuple[Any, Any]], data: st.DataObject) -> None:
    lines = [made(part) if isinstance(part, dict) else part for pair in found for part in pair]
    body = b"".join(line + data.draw(st.sampled_from(ENDS)) for line in lines)
    if data.draw(st.booleans()):
        body = body[:-1]
    reader, env = receiver(bulk_records_max=8), environ(b"", "/logs/_bulk")
    expected = outcome(lambda: finish(reader.slices(env, body)))
    at_once = outcome(lambda: reader.read(env, body))
    assert at_once is None or at_once == expected
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), sizes in SIZES.items():
            patch.setattr(module, name, data.draw(st.sampled_from(sizes), label=name))
        assert outcome(lambda: finish(reader.slices(env, body))) == expected


@given(st.binary(max_size=300) | st.text('{}[]":,\\\n\r indexcreate_1', max_size=300).map(str.encode))
def test_any_bytes_at_all_get_an_answer_of_the_table(body: bytes) -> None:
    sink = MemorySink()
    reply = ask(app_of(sink), environ(body, "/_bulk"))
    assert reply.status in (200, 400)
    if reply.status == 400:
        assert not sink.appended


@pytest.mark.parametrize("records", [SHORT_LINES_MAX // 2, SHORT_LINES_MAX // 2 + 1])
def test_a_short_ordinary_bulk_is_read_at_once_and_a_longer_one_in_slices(records: int) -> None:
    body = bulk_of(*[create(_id=str(n)) for n in range(records)])
    found = receiver().read(environ(b"", "/_bulk"), body)
    assert (found is None) is (records > SHORT_LINES_MAX // 2)


def test_a_long_body_is_read_in_slices() -> None:
    body = bulk_of(create({"message": "m" * SHORT_BYTES_MAX}))
    assert receiver().read(environ(b"", "/_bulk"), body) is None


def counted_steps(work: Generator[None, None, Parsed]) -> tuple[int, Parsed | None]:
    """How often the work yielded, and what it came to; None where the body is malformed."""
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            return steps, done.value
        except ClientError:
            return steps, None
        steps += 1


HOSTILE = {
    "brackets": b'{"index":{}}\n' + b"[" * MEBIBYTES,
    "braces": b'{"index":{}}\n' + b'{"a":' * (MEBIBYTES // 5),
    "line feeds": b"\n" * MEBIBYTES,
    "blank lines": b" \t\n" * (MEBIBYTES // 3),
    "empty documents": b'{"index":{}}\n{}\n' * 50_000,
    "bad documents": b'{"index":{}}\nx\n' * 50_000,
    "missing documents": b'{"index":{}}\n\n' * 50_000,
    "deletes": b'{"delete":{"_id":"1"}}\n' * 50_000,
    "nesting": (b'{"index":{}}\n{"a":' + b"[" * 1_000 + b"]" * 1_000 + b"}\n") * 1_000,
    "a huge integer": b'{"index":{}}\n{"a":' + b"9" * MEBIBYTES + b"}",
    "many values": b'{"index":{}}\n{"a":[' + b"1," * 200_000 + b"1]}",
    "many members": b'{"index":{}}\n{' + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}",
    "invalid UTF-8": b'{"index":{}}\n{"a":"' + b"\xff" * MEBIBYTES + b'"}',
    "half pairs": b'{"index":{}}\n{"a":"\\ud800"}\n' * 40_000,
    "a long action": b'{"index":{"_id":"' + b"a" * MEBIBYTES + b'"}}\n{}\n',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_read_in_steps_and_answered_in_steps(name: str) -> None:
    body, reader = HOSTILE[name], receiver()
    # A step reads one group of lines at most, however fast the machine is.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elasticbulk, "SLICE_SECONDS", 0)
        steps, parsed = counted_steps(reader.slices(environ(b"", "/_bulk"), body))
    if parsed is None:
        return
    records = len(parsed.context.actions)
    assert steps >= records // GROUP_LINES
    assert len(parsed.lines) + len(parsed.rejections or ()) == records
    answer = reader.accepted(parsed, 0, [MemoryAddress("1-0", n) for n in range(len(parsed.lines))])
    _, _, text = answer if isinstance(answer, tuple) else finish(answer)
    assert text.count(b'"status":') == records


def test_an_index_in_every_item_does_not_make_an_answer_of_hundreds_of_megabytes() -> None:
    reader, path = receiver(), "/" + "i" * 8_000 + "/_bulk"
    parsed = finish(reader.slices(environ(b"", path), b'{"index":{}}\n{}\n' * 50_000))
    assert not parsed.lines
    answer = reader.accepted(parsed, 0, ())
    _, _, text = answer if isinstance(answer, tuple) else finish(answer)
    assert len(text) < 2 * MEBIBYTES
