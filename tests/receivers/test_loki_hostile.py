"""Bodies that somebody made to hurt, and any bodies at all: bounded, in slices, and answered as documented.

Slices are counted by what happens between two yields, not timed: a test must pass while the machine is busy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.receivers.loki_support import (
    JSON,
    NANOS,
    PROTOBUF,
    app_of,
    bounds,
    field,
    json_request,
    push,
    request,
    snappy,
    untimed,
    varint,
)
from tests.receivers.support import MemorySink, account, ask, environ
from wsgi.problems import SinkError
from wsgi.receivers import loki_json, loki_labels, loki_push
from wsgi.receivers.foreign import Lines
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.loki import PUSH, mount
from wsgi.receivers.loki_push import PushReader
from wsgi.receivers.slices import finish

MIB = 1_048_576
ENTRY_BYTES = field(2, field(2, b"x"))


def outcome(body: bytes, content_type: str = PROTOBUF) -> tuple[int, int]:
    """Status, and records stored; of a body that ``read`` must leave to the slices."""
    receiver = mount(bounds()).receivers[PUSH]
    assert account(lambda: receiver.read(environ(body, PUSH, CONTENT_TYPE=content_type), body)) is None
    sink = MemorySink()
    reply = ask(app_of(sink), environ(body, PUSH, CONTENT_TYPE=content_type))
    return reply.status, len(sink.stored)


def test_eight_mebibytes_of_empty_entries_are_refused() -> None:
    raw = field(1, field(2, b"") * (4 * MIB - 8))
    assert len(raw) <= 8 * MIB
    assert outcome(snappy(raw)) == (400, 0)


def test_as_many_empty_entries_as_a_request_may_have_are_stored() -> None:
    assert outcome(snappy(field(1, field(2, b"") * 50_000))) == (204, 50_000)
    assert outcome(snappy(field(1, field(2, b"") * 50_001))) == (400, 0)


def test_eight_mebibytes_of_empty_streams_are_refused() -> None:
    assert outcome(snappy(field(1, b"") * (4 * MIB))) == (400, 0)


def test_labels_of_a_mebibyte_shared_by_all_entries_are_cut_once_and_bounded_as_they_grow() -> None:
    labels = b'{a="' + b"x" * MIB + b'"}'
    raw = field(1, field(1, labels) + ENTRY_BYTES * 50_000)
    # 16 KiB of them in each of 50,000 records would be 800 MB.
    assert outcome(snappy(raw)) == (400, 0)
    raw = field(1, field(1, labels) + ENTRY_BYTES * 1_000)
    assert outcome(snappy(raw)) == (204, 1_000)


def test_many_labels_shared_by_all_entries_are_bounded_as_they_grow() -> None:
    labels = "{" + ",".join(f'l{at}="{"x" * 400}"' for at in range(150)) + "}"
    assert outcome(snappy(field(1, field(1, labels.encode()) + ENTRY_BYTES * 20_000))) == (400, 0)
    body = json_request(({f"l{at}": "x" * 400 for at in range(150)}, [["1", "x"]] * 20_000))
    assert outcome(body, JSON) == (400, 0)


def test_an_entry_of_four_million_pairs_is_cut_to_as_many_as_a_record_may_have() -> None:
    raw = field(1, field(2, field(2, b"line") + field(3, field(1, b"n")) * MIB))
    sink = MemorySink()
    assert ask(app_of(sink), environ(snappy(raw), PUSH, CONTENT_TYPE=PROTOBUF)).status == 204
    record = json.loads(sink.stored[0])
    assert (record[3], record[4]) == ("line", {"n": ""})
    pairs = b"".join(field(3, field(1, b"%d" % at)) for at in range(100_000))
    sink = MemorySink()
    assert ask(app_of(sink), environ(snappy(field(1, field(2, pairs))), PUSH, CONTENT_TYPE=PROTOBUF)).status == 204
    record = json.loads(sink.stored[0])
    assert (len(record[4]), record[4]["inlet.truncated"]) == (128, "metadata")


def test_long_parts_of_an_entry_are_cut() -> None:
    pair = field(1, b"n" * MIB) + field(1, b"name") + field(2, b"v" * MIB) + b"\x18\x01" * MIB
    entry = field(1, b"\x08\x01") + field(2, b"\xff" * (2 * MIB)) + field(3, pair) + field(9, b"z" * MIB)
    raw = field(1, field(2, entry) + ENTRY_BYTES)
    assert len(raw) <= 8 * MIB
    sink = MemorySink()
    assert ask(app_of(sink), environ(snappy(raw), PUSH, CONTENT_TYPE=PROTOBUF)).status == 204
    first, second = map(json.loads, sink.stored)
    assert first[1] == "1970-01-01T00:00:01.000000000Z"
    assert set(first[3]) == {"\ufffd"}
    assert first[4]["name"] == "v" * len(first[4]["name"])
    assert first[4]["inlet.truncated"]
    assert second[3] == "x"


def test_a_timestamp_of_megabytes_is_malformed() -> None:
    entry = field(1, b"\x08\x01" * 100_000) + field(2, b"x")
    assert outcome(snappy(field(1, field(2, entry)))) == (400, 0)


def test_a_snappy_bomb_is_refused_by_its_stated_length() -> None:
    assert push(snappy(bytes(100 * MIB)))[0].status == 400
    assert push(varint(2**32 - 1) + b"\0a")[0].status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (8 * MIB),
        b'{"streams":[{"stream":{},"values":[' + b"[],[" * (2 * MIB - 16),
        b'{"streams":[{"stream":{},"values":[["1","x",{"a":[' + b"1," * (4 * MIB - 40) + b"1]}]]}]}",
        b'{"streams":[{"stream":{},"values":[["1","' + b"],[" * (2 * MIB) + b'"',
        b'{"streams":[' + b"{}," * (2 * MIB) + b"{}]}",
        b'{"streams":[{"stream":{},"values":[["1",' + b"9" * (8 * MIB - 60) + b"]]}]}",
    ],
    ids=["brackets", "entries", "numbers", "string", "streams", "digits"],
)
def test_hostile_json_of_eight_mebibytes_is_answered(body: bytes) -> None:
    status, stored = outcome(body[: 8 * MIB], JSON)
    assert (status, stored) in ((400, 0), (204, 0), (204, 1))


def between_yields(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, measure: Callable[..., int], body: bytes, content_type: str
) -> list[int]:
    """Sums of ``measure`` of each call to ``where.name`` between two yields, while a body is read in slices."""
    receiver, sums, real = mount(bounds()).receivers[PUSH], [0], getattr(where, name)

    def counting(*args: Any, **more: Any) -> Any:
        sums[-1] += measure(*args, **more)
        return real(*args, **more)

    monkeypatch.setattr(where, name, counting)
    for module in (loki_json, loki_push):
        # Every look at the clock finds the slice used up.
        monkeypatch.setattr(module, "SLICE_SECONDS", 0)
    for _ in receiver.slices(environ(body, PUSH, CONTENT_TYPE=content_type), body):
        sums.append(0)
    return sums


def test_a_long_request_is_decoded_in_pieces_and_written_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    entries: list[Any] = [(NANOS + at, f"line {at} " + "x" * 200, [("t", str(at))]) for at in range(20_000)]
    body = snappy(request(('{job="a"}', entries)))
    taken = between_yields(monkeypatch, Lines, "take", lambda *args: 1, body, PROTOBUF)
    assert (sum(taken), max(taken)) == (20_000, loki_push.TOGETHER)
    decoded = between_yields(monkeypatch, loki_push, "_decode", lambda kind, raw: len(raw), body, PROTOBUF)
    assert max(decoded) <= 2 * loki_push.GROUP_BYTES
    body = json_request(({"job": "a"}, [[str(nanos), line, dict(pairs)] for nanos, line, pairs in entries]))
    taken = between_yields(monkeypatch, Lines, "take", lambda *args: 1, body, JSON)
    assert (sum(taken), max(taken)) == (20_000, 1)
    decoded = between_yields(monkeypatch, loki_json, "_decoded", lambda text: len(text), body, JSON)
    assert (max(decoded) <= 2 * loki_json.WINDOW_BYTES, len(decoded) > 50) == (True, True)


@pytest.mark.parametrize("escape", ['\\"', "\\\\", "\\n", "\\q", "\\xz", "\\x41", "\\101", "\\u0041"])
def test_labels_full_of_escapes_let_others_in_between_two_streams(monkeypatch: pytest.MonkeyPatch, escape: str) -> None:
    streams = [f'{{n="{at}", a="{escape * (60_000 // len(escape))}"}}' for at in range(20)]
    body = snappy(b"".join(field(1, field(1, labels.encode()) + ENTRY_BYTES) for labels in streams))
    for where, name in ((PushReader, "_shared"), (Lines, "take")):
        with monkeypatch.context() as patch:
            done = between_yields(patch, where, name, lambda *args: 1, body, PROTOBUF)
        assert (sum(done), max(done)) == (20, 1)


def test_the_labels_of_a_short_request_are_left_to_the_slices_if_they_are_full_of_escapes() -> None:
    for count, at_once in ((loki_push.SHORT_ESCAPES_MAX, True), (loki_push.SHORT_ESCAPES_MAX + 1, False)):
        body = snappy(field(1, field(1, b'{a="' + b"\\q" * count + b'"}') + ENTRY_BYTES))
        env = environ(body, PUSH, CONTENT_TYPE=PROTOBUF)
        assert (mount(bounds()).receivers[PUSH].read(env, body) is not None) == at_once


def test_labels_that_come_again_in_a_request_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [b'{n="%d", a="' % (at % 16) + b"x" * 9_000 + b'"}' for at in range(160)]
    body = snappy(b"".join(field(1, field(1, labels) + ENTRY_BYTES) for labels in texts))
    done = between_yields(monkeypatch, PushReader, "_shared", lambda *args: 1, body, PROTOBUF)
    assert sum(done) == 16
    assert outcome(body) == (204, 160)


def test_an_escape_of_a_label_costs_no_call_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for text in ('\\"' * 32_000, "\\\\" * 32_000, "\\x41" * 16_000, "\\101" * 16_000, "\\q" * 32_000):
        sys.setprofile(lambda frame, event, _: calls.append(event) if event == "call" else None)
        try:
            loki_labels.unquote(text)
        finally:
            sys.setprofile(None)
    assert len(calls) < 50


@pytest.mark.parametrize("deep", [31, 40, 900])
def test_an_entry_that_nests_deep_costs_no_other_and_is_written_as_json(deep: int) -> None:
    values: list[Any] = [["1", "before"], ["2", "deep", "DEEP"], ["3", "after"]]
    for opening, closing in (('{"a":', "}"), ("[", "]")):
        nested = opening * deep + "1" + closing * deep
        body = json_request(({"job": "a"}, values)).replace(b'"DEEP"', f'{{"x":{nested}}}'.encode())
        reply, records = push(body, JSON)
        assert (reply.status, [record.message for record in records]) == (204, ["before", "deep", "after"])
        ((name, value),) = [pair for pair in records[1].metadata.items() if pair[0] != "job"]
        names = name.count(".") if opening != "[" else 0
        assert value == opening * (deep - names) + "1" + closing * (deep - names)


def test_a_text_nests_as_deep_as_can_be_decoded_and_no_deeper() -> None:
    for deep, status in ((loki_json.DEPTH_MAX - 5, 204), (loki_json.DEPTH_MAX - 4, 400)):
        body = b'{"streams":[{"values":[["1",' + b"[" * deep + b"]" * deep + b"]]}]}"
        assert push(body, JSON)[0].status == status
        assert push(body + b" " * 200_000, JSON)[0].status == status


# Any bodies at all ----------------------------------------------------------------------------------------------------

texts = st.text(max_size=8)
labels_json = st.dictionaries(
    texts, st.one_of(texts, st.integers(), st.none(), st.dictionaries(texts, texts, max_size=2)), max_size=3
)
entries_json = st.one_of(
    st.tuples(st.one_of(st.integers().map(str), texts), st.one_of(texts, st.integers())).map(list),
    st.tuples(st.integers().map(str), texts, labels_json).map(list),
    st.fixed_dictionaries({"ts": texts, "line": texts}),
    st.none(),
    st.lists(st.integers(), max_size=3),
)
streams_json = st.fixed_dictionaries(
    {},
    optional={
        "stream": labels_json,
        "values": st.lists(entries_json, max_size=5),
        "labels": texts,
        "entries": st.lists(entries_json, max_size=3),
        "x": st.lists(st.dictionaries(texts, st.lists(texts, max_size=2), max_size=2), max_size=2),
    },
)
requests_json = st.fixed_dictionaries(
    {"streams": st.lists(streams_json, max_size=6)}, optional={"y": st.lists(streams_json, max_size=2)}
)


@pytest.fixture
def _tiny_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loki_json, "WINDOW_BYTES", 8)
    monkeypatch.setattr(loki_push, "GROUP_BYTES", 8)


@pytest.mark.usefixtures("_tiny_windows")
class TestPieces:
    """Bodies cut into the smallest pieces come to what they come to as a whole."""

    @given(requests_json, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", " : ")]))
    def test_json(self, value: Any, separators: tuple[str, str]) -> None:
        self.same(json.dumps(value, separators=separators).encode(), JSON)

    @given(
        requests_json,
        st.integers(0, 200),
        st.sampled_from([b'"values":[', b'"streams":[', b'],"values":[1', b"}", b"]", b",", b'"']),
    )
    def test_spoiled_json(self, value: Any, at: int, more: bytes) -> None:
        body = json.dumps(value).encode()
        self.same(body[:at] + more + body[at:], JSON)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"streams":[{"values":[["1","a"],["2","b"],["3","c"]],"values":[["4","d"],["5","e"],["6","f"]]}]}',
            b'{"streams":[{"values":[["1","a"],["2","b"],["3","c"]],"values":null,"entries":[["4","d"],["5","e"]]}]}',
            b'{"streams":[{"values":[["1","a"],["2","b"]]},{"x":[["3","c"],["4","d"]]}],"streams":[{"values":[["5","e"]]}]}',
            b'{"streams":[{"values":[["1","a"],["2","b"]]}],"a":[{"values":[["3","c"],["4","d"],["5","e"]]}]}',
            b'{"a":1,"streams":[],"a":[{"values":[["1","a"],["2","b"],["3","c"],["4","d"]]}]}',
            b'{"streams":[{"values":[],"stream":[["1","a"],["2","b"],["3","c"],["4","d"]]}]}',
            b'\xef\xbb\xbf{"streams":[{"values":[["1","a"],["2","b"],["3","c"]]},{"values":[["4","d"],["5","e"]]}]}',
            b'{"streams":[{"values":[["1","a"],["2","b"],["3","c"],[%b,"d"],["5","e"]]}]}' % (b"9" * 5_000),
        ],
    )  # fmt: skip
    def test_members_of_one_name_and_other_oddities(self, body: bytes) -> None:
        self.same(body, JSON)

    @given(
        st.lists(
            st.tuples(
                texts,
                st.lists(
                    st.tuples(st.integers(-(2**62), 2**62), texts, st.lists(st.tuples(texts, texts), max_size=3)),
                    max_size=5,
                ),
            ),
            max_size=4,
        )
    )
    def test_protobuf(self, streams: Any) -> None:
        self.same(snappy(request(*streams)), PROTOBUF)

    @staticmethod
    def same(body: bytes, content_type: str) -> None:
        receiver = mount(bounds()).receivers[PUSH]
        env = environ(body, PUSH, CONTENT_TYPE=content_type)
        whole = account(lambda: receiver.read(env, body))
        pieces = account(lambda: finish(receiver.slices(env, body)))
        assert whole is not None
        assert pieces is not None
        if len(pieces) == 3:  # an error: in words that may tell of another place
            assert whole[:2] == pieces[:2]
        else:
            assert untimed(whole) == untimed(pieces)


@given(
    st.one_of(
        st.binary(max_size=80),
        st.binary(max_size=60).map(snappy),
        requests_json.map(lambda value: json.dumps(value).encode()),
    ),
    st.sampled_from([PROTOBUF, JSON, None]),
    st.sampled_from([None, "gzip", "snappy", "br"]),
)
def test_any_body_gets_a_documented_answer_and_no_success_is_a_lie(
    body: bytes, kind: str | None, coding: str | None
) -> None:
    sink = MemorySink()
    reply = ask(app_of(sink), environ(body, PUSH, CONTENT_TYPE=kind, HTTP_CONTENT_ENCODING=coding))
    assert reply.status in (204, 400)
    if reply.status == 204:
        assert [line for lines, _ in sink.appended for line in lines] == sink.stored
    away = MemorySink(commit_error=lambda: SinkError("sink-unavailable", "away"))
    again = ask(app_of(away), environ(body, PUSH, CONTENT_TYPE=kind, HTTP_CONTENT_ENCODING=coding))
    # Only what has records to store meets the store.
    assert again.status == (503 if sink.stored else reply.status)
    assert not away.stored


def test_an_otherwise_valid_request_is_refused_where_its_records_are_more_than_allowed() -> None:
    few = bounds(PayloadLimits(bulk_records_max=300))
    body = snappy(request(("{}", [(NANOS, "x", [])] * 301)))
    assert push(body, made_with=few)[0].status == 400
