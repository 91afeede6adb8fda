"""wsgi.sink.circuit: whether records may be taken now, and if not, why."""

from __future__ import annotations

import logging
import threading

import pytest

from wsgi.problems import SinkError
from wsgi.sink.barred import LINES_MAX
from wsgi.sink.circuit import Circuit, fresh

AWAY = SinkError("sink-unavailable", "the store cannot be reached")
DENIED = SinkError("sink-misconfigured", "the store refuses: NOPERM")
BACKLOG = SinkError("backlog-full", "too many wait", 7)


def test_it_takes_records_until_a_commit_fails_and_again_after_a_look_without_a_finding() -> None:
    subject = Circuit()
    assert subject.state.refusal is None
    subject.fail(AWAY)
    refusal = subject.state.refusal
    assert refusal is not None
    assert (refusal.reason, subject.state.open) == ("sink-unavailable", True)
    assert refusal.detail == "not tried, since a commit failed just now: the store cannot be reached"
    subject.look(subject.state, None)
    assert (subject.state.refusal, subject.state.open) == (None, False)
    assert subject.state.failing == "sink-unavailable"
    subject.succeed()
    assert subject.state.failing is None


def test_what_only_the_operator_can_fix_is_passed_on_as_it_is_and_logged_as_critical(
    caplog: pytest.LogCaptureFixture,
) -> None:
    subject = Circuit()
    subject.fail(DENIED)
    assert subject.state.refusal is DENIED
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_a_reason_is_logged_once_and_a_new_one_again(caplog: pytest.LogCaptureFixture) -> None:
    subject = Circuit()
    for error in (AWAY, AWAY, DENIED, DENIED, AWAY):
        subject.fail(error)
    assert [record.levelname for record in caplog.records] == ["ERROR", "CRITICAL", "ERROR"]


def test_backpressure_refuses_while_it_lasts_and_does_not_hide_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    subject = Circuit()
    for _ in range(2):
        subject.look(subject.state, BACKLOG)
    assert (subject.state.refusal, subject.state.open) == (BACKLOG, False)
    subject.fail(AWAY)
    assert subject.state.open
    subject.look(subject.state, BACKLOG)
    assert subject.state.refusal is BACKLOG
    subject.look(subject.state, None)
    assert subject.state.refusal is None
    assert len([record for record in caplog.records if "refusing, reason=backlog-full" in record.getMessage()]) == 1


def test_a_look_that_began_before_a_commit_failed_does_not_close_the_circuit() -> None:
    subject = Circuit()
    seen = subject.state
    subject.fail(AWAY)
    subject.look(seen, None)
    assert subject.state.open
    assert subject.opened.is_set()


def test_the_state_is_one_value_so_who_reads_it_once_sees_no_mixture() -> None:
    subject = Circuit()
    done = threading.Event()

    def change() -> None:
        for _ in range(2_000):
            subject.fail(AWAY)
            subject.look(subject.state, None)
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not done.is_set():
        state = subject.state
        assert (state.refusal is not None) is state.open
    thread.join()


def test_each_refusal_raised_is_a_copy() -> None:
    copy = fresh(BACKLOG)
    assert copy is not BACKLOG
    assert (copy.reason, copy.detail, copy.retry_after) == ("backlog-full", "too many wait", 7)


def test_a_destination_is_barred_alone_until_a_look_finds_it_well() -> None:
    subject = Circuit()
    subject.bar([(b"ill", DENIED)])
    assert (subject.state.refusal, subject.state.open) == (None, False)
    assert dict(subject.state.barred) == {b"ill": DENIED}
    subject.look(subject.state, None, streams={b"well": None, b"ill": BACKLOG})
    assert dict(subject.state.barred) == {b"ill": BACKLOG}
    subject.look(subject.state, None, streams={b"well": None, b"ill": None})
    assert dict(subject.state.barred) == {}


def test_a_look_that_began_before_a_destination_failed_does_not_free_it() -> None:
    subject = Circuit()
    subject.bar([(b"old", DENIED)])
    seen = subject.state
    subject.bar([(b"new", DENIED)])
    subject.look(seen, None, streams={b"old": None, b"new": None})
    assert subject.state.barred.keys() == {b"new"}
    again = SinkError("sink-misconfigured", "WRONGTYPE")
    seen = subject.state
    subject.bar([(b"new", again)])
    subject.look(seen, None, streams={b"old": None, b"new": None})
    assert dict(subject.state.barred) == {b"new": again}


def test_a_destination_stays_barred_while_the_circuit_opens_and_closes() -> None:
    subject = Circuit()
    subject.bar([(b"ill", DENIED)])
    subject.fail(AWAY)
    assert subject.state.barred.keys() == {b"ill"}
    subject.look(subject.state, None, streams={b"ill": DENIED})
    assert (subject.state.open, dict(subject.state.barred)) == (False, {b"ill": DENIED})


def test_a_destination_that_only_a_commit_shows_to_fail_is_logged_once_until_a_commit_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stream whose last ID is taken passes every check of a look, so each look frees it."""
    caplog.set_level(logging.INFO, "inlet")
    subject = Circuit()
    for _ in range(3):
        subject.bar([(b"ill", DENIED)])
        subject.look(subject.state, None, streams={b"ill": None})
    assert subject.failing_for == {b"ill": "sink-misconfigured"}
    subject.succeed_for([b"ill"])
    subject.look(subject.state, None, streams={b"ill": None})
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert subject.failing_for == {}


@pytest.mark.parametrize(("streams", "lines"), [(LINES_MAX, LINES_MAX), (LINES_MAX + 1, LINES_MAX + 1)])
def test_so_many_lines_are_logged_at_once_and_one_for_the_rest(
    streams: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    subject = Circuit()
    subject.look(subject.state, None, streams={b"%d" % number: BACKLOG for number in range(streams)})
    assert len(caplog.records) == lines
    assert ("the same for 1 more streams" in caplog.text) is (streams > LINES_MAX)


def test_nothing_is_remembered_of_a_destination_that_is_no_longer_looked_at() -> None:
    subject = Circuit()
    subject.bar([(b"gone", DENIED)])
    subject.look(subject.state, None, streams={b"gone": BACKLOG})
    subject.look(subject.state, None, streams={b"here": None, b"too": None})
    assert (dict(subject.state.barred), subject.failing_for, subject._log._found) == ({}, {}, {})


def test_a_name_in_the_log_holds_no_control_character(caplog: pytest.LogCaptureFixture) -> None:
    Circuit().bar([(b"a\n\x1b[1m\xff", DENIED)])
    assert caplog.records[0].getMessage().isprintable()
