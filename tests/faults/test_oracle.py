"""The oracle finds what it is there to find: a suite that cannot fail proves nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from tests.faults import content
from tests.faults.aftermath import delivered
from tests.faults.load import NOTHING_STORED, Answer, request_body, summary, understand
from tests.faults.oracle import LAST_ID, PAGE_ENTRIES, Verdict, judge, judge_lines, read_back
from tests.faults.rig import STREAM, Rig, Store
from tests.faults.scenario import ANSWERED_MIN, REFUSED_MIN, Fault, anything, reported, run, too_little
from tests.faults.store_faults import FAULTS


def answer(status: int, promised: str = "", refused: str = "", unknown: str = "", reason: str = "") -> Answer:
    """An answer whose event ids are single letters."""
    return Answer(status, reason, 1.0, 2.0, tuple(promised), tuple(refused), tuple(unknown))


@pytest.mark.parametrize(
    ("answers", "stored", "fault"),
    [
        ([answer(202, promised="ab")], "ab", ""),
        ([answer(202, promised="ab")], "a", "1 lost"),
        ([answer(202, promised="ab")], "aba", "1 doubled"),
        ([answer(503, unknown="a")], "", ""),
        ([answer(503, unknown="a")], "a", ""),
        ([answer(503, unknown="a")], "aa", "1 doubled"),
        ([answer(422, refused="a")], "", ""),
        ([answer(422, refused="a")], "a", "1 refused, but stored"),
        ([answer(202, promised="a")], "ab", "1 never sent, but stored"),
    ],
)
def test_the_oracle_tells_what_breaks_a_promise_from_what_does_not(
    answers: list[Answer], stored: str, fault: str
) -> None:
    assert judge(answers, stored).faults() == fault


def test_a_level_that_may_lose_still_may_not_double_or_invent() -> None:
    assert judge([answer(202, promised="ab")], "").faults(may_lose=True) == ""
    assert judge([answer(202, promised="ab")], "aaz").faults(may_lose=True) == "1 doubled, 1 never sent, but stored"


def test_the_counts_of_a_verdict_are_of_records() -> None:
    answers = [answer(202, promised="abc", refused="d"), answer(503, unknown="ef"), answer(422, refused="g")]
    assert judge(answers, "abe") == Verdict(
        answered=3, found=2, lost=1, doubled=0, false_refusals=0, unknown_found=1, strangers=0
    )


def test_a_bulk_answer_is_understood_record_by_record() -> None:
    ids, _, invalid = request_body("n", 7)
    assert len(ids) == 5
    assert invalid == (ids[1],)
    body = b'{"status":"queued","accepted":4,"rejected":1,"errors":[{"index":1,"event_id":"x","reason":"r"}]}'
    understood = understand(202, body, ids, invalid, time.time())
    assert understood.promised == (ids[0], *ids[2:])
    assert understood.refused == (ids[1],)


@pytest.mark.parametrize("reason", sorted(NOTHING_STORED))
def test_a_503_that_says_that_nothing_was_stored_is_held_to_it(reason: str) -> None:
    body = b'{"reason":"%b","detail":"no"}' % reason.encode()
    assert understand(503, body, ("a",), (), 0.0).refused == ("a",)
    partly = b'{"reason":"%b","detail":"2 of 5 records were stored before: no"}' % reason.encode()
    assert understand(503, partly, ("a",), (), 0.0).unknown == ("a",)


def test_a_503_of_unknown_outcome_promises_nothing_of_its_valid_records() -> None:
    understood = understand(503, b'{"reason":"sink-outcome-unknown"}', ("a", "b"), ("b",), 0.0)
    assert (understood.unknown, understood.refused) == (("a",), ("b",))
    assert summary([understood]) == "503 sink-outcome-unknown 1"


def test_a_stream_of_several_pages_is_read_back_whole_over_entries_of_others() -> None:
    store = Store({})
    try:
        store.start()
        with store.client() as client:
            for number in range(2_500):
                client.xadd("s", {"r": f'["{number}"]', "n": 1} if number % 2 else {"other": 1})
            assert list(read_back(client, "s")) == [str(number) for number in range(1, 2_500, 2)]
    finally:
        store.close()


def test_records_deleted_behind_inlets_back_are_found_lost_over_the_real_server() -> None:
    with Rig("stored") as rig:
        rig.load.start()
        while len(rig.load.accepted()) < 50:
            time.sleep(0.01)
        rig.load.stop()
        assert rig.verdict().faults() == ""
        rig.store.command("XTRIM", rig.streams[0], "MAXLEN", 1)
        assert rig.verdict().lost > 0


def test_a_scenario_whose_fault_does_not_show_fails() -> None:
    never = reported("no such reason")
    harmless = Fault(name="nothing at all", inject=FAULTS[0].inject, seen=never, seen_seconds=0.5)
    with pytest.raises(AssertionError, match="nothing at all shows in the answers"):
        run(harmless, "stored")


@pytest.fixture
def store() -> Iterator[Store]:
    started = Store({})
    try:
        started.start()
        yield started
    finally:
        started.close()


def test_what_a_record_holds_follows_from_its_id_and_ids_differ_in_every_member() -> None:
    lines = [content.stored(f"c-{number}") for number in range(500)]
    assert lines[7] == content.stored("c-7")
    for member in range(1, 5):
        assert len({str(line[member]) for line in lines}) >= 4


@pytest.mark.parametrize("member", range(1, 5))
def test_a_record_that_is_not_stored_as_it_was_sent_is_found(member: int) -> None:
    members = list(content.stored("a"))
    members[member] = {"k": "v"} if member == 4 else "other"
    changed = json.dumps(members, separators=(",", ":")).encode()
    assert judge_lines([answer(202, promised="a")], [content.line("a")]).faults() == ""
    assert judge_lines([answer(202, promised="a")], [changed]).faults() == "1 not stored as sent"


def test_a_line_with_the_right_members_in_other_bytes_is_found() -> None:
    spaced = json.dumps(content.stored("a")).encode()
    assert judge_lines([answer(202, promised="a")], [spaced]).faults() == "1 not stored as sent"


def test_a_line_that_is_no_record_is_a_stranger() -> None:
    verdict = judge_lines([answer(202, promised="a")], [content.line("a"), b"[]", b"{"])
    assert (verdict.strangers, verdict.altered) == (2, 2)


def test_a_group_that_gets_all_that_the_stream_holds_satisfies_the_oracle(store: Store) -> None:
    with store.client() as client:
        for number in range(20):
            client.xadd(STREAM, {"r": content.line(f"d-{number}"), "n": 1})
        client.xadd(STREAM, {"of": "the test"})
        assert delivered(store.url, client, STREAM) == (20, "")


def test_a_record_that_no_group_gets_is_found(store: Store) -> None:
    with store.client() as client:
        for number in range(20):
            client.xadd(STREAM, {"r": content.line(f"d-{number}"), "n": 1})
        # The oracle's group is past the first ones, as if someone else had read them under its name.
        client.xgroup_create(STREAM, "oracle", id=client.xrange(STREAM)[4][0])
        assert delivered(store.url, client, STREAM) == (15, "5 not delivered")


def test_a_system_that_accepts_nothing_afterwards_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.scenario.RECOVERED_ANSWERS", 0)
    monkeypatch.setattr("tests.faults.aftermath.ACCEPT_SECONDS", 2.0)

    @contextlib.contextmanager
    def for_good(rig: Rig) -> Iterator[None]:
        yield
        rig.store.config(maxmemory=1)

    with pytest.raises(AssertionError, match="a record is accepted afterwards"):
        run(Fault(name="out of memory for good", inject=for_good, seen=anything), "stored")


@pytest.mark.parametrize(
    ("answered", "refused", "words"),
    [
        (ANSWERED_MIN, REFUSED_MIN, ""),
        (
            ANSWERED_MIN - 1,
            REFUSED_MIN,
            f"only {ANSWERED_MIN - 1} records answered 202, where {ANSWERED_MIN} are needed",
        ),
        (ANSWERED_MIN, REFUSED_MIN - 1, f"only {REFUSED_MIN - 1} records refused, where {REFUSED_MIN} are needed"),
    ],
)
def test_a_scenario_that_saw_too_little_fails(answered: int, refused: int, words: str) -> None:
    verdict = Verdict(answered, answered, 0, 0, 0, 0, 0)
    assert too_little(verdict, [answer(422, refused="r" * refused)]) == words


def test_a_stream_whose_last_id_is_taken_is_read_to_its_end(store: Store) -> None:
    """Regression: where that entry ended a page, the next XRANGE was refused, and the soak ended after six minutes."""
    with store.client() as client:
        for _ in range(PAGE_ENTRIES - 1):
            client.xadd(STREAM, {"r": '["a"]', "n": 1})
        client.xadd(STREAM, {"r": '["b"]', "n": 1}, id=LAST_ID)
        assert [*read_back(client, STREAM)][-2:] == ["a", "b"]
