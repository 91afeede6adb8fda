"""wsgi.sink.backpressure: samples in, refusals out."""

from __future__ import annotations

from collections import deque

import pytest

from inlet.stream.retention import Hold
from wsgi.problems import SinkError
from wsgi.sink.backpressure import RETRY_AFTER_SECONDS_MAX, SAMPLES_MAX, Backpressure, retry_after
from wsgi.sink.probe import Sample, StreamSample

KEY = b"logs"


def sample(used: int | None = None, of: int | None = None) -> Sample:
    return Sample(used, of, "noeviction", True, {}, None, {})


def unread(backlog: int | None = None, full: Hold | None = None) -> StreamSample:
    return StreamSample(None, backlog, full)


def reason(verdict: SinkError | None) -> str | None:
    return None if verdict is None else verdict.reason


@pytest.mark.parametrize(("backlog", "refused"), [(100, False), (101, True)])
def test_the_backlog_at_its_bound_and_one_past_it(backlog: int, refused: bool) -> None:
    verdict = Backpressure(backlog_max=100, memory_percent_max=95).judge_stream(0, KEY, unread(backlog))
    assert reason(verdict) == ("backlog-full" if refused else None)


@pytest.mark.parametrize(("used", "refused"), [(950, False), (951, True)])
def test_the_memory_at_its_bound_and_one_past_it(used: int, refused: bool) -> None:
    verdict = Backpressure(backlog_max=0, memory_percent_max=95).judge(0, sample(used, 1_000))
    assert reason(verdict) == ("store-full" if refused else None)


def test_a_full_retention_refuses_and_names_what_holds_it() -> None:
    verdict = Backpressure(backlog_max=0, memory_percent_max=95).judge_stream(
        0, KEY, unread(full=Hold("missing", "mail"))
    )
    assert verdict is not None
    assert verdict.reason == "backlog-full"
    assert "INLET_RETENTION" in verdict.detail
    assert "group 'mail' is missing" in verdict.detail
    assert "inlet groups forget mail" in verdict.detail


def test_no_bound_and_no_answer_refuse_nothing() -> None:
    subject = Backpressure(backlog_max=0, memory_percent_max=95)
    assert subject.judge(0, sample(10**12, 0)) is None
    assert subject.judge(1, sample()) is None
    assert subject.judge_stream(0, KEY, unread(10**9)) is None
    assert subject.judge_stream(1, KEY, unread()) is None


def test_it_accepts_again_once_the_backlog_is_back() -> None:
    subject = Backpressure(backlog_max=100, memory_percent_max=95)
    assert subject.judge_stream(0, KEY, unread(101)) is not None
    assert subject.judge_stream(1, KEY, unread(100)) is None


def test_retry_after_is_the_time_until_the_bound_at_the_rate_of_the_samples() -> None:
    assert retry_after(deque([(0.0, 1_000), (1.0, 900), (2.0, 800)]), 500) == 3
    assert retry_after(deque([(0.0, 1_000), (1.0, 999)]), 500) == RETRY_AFTER_SECONDS_MAX
    assert retry_after(deque([(0.0, 1_000), (1.0, 1_000)]), 500) == RETRY_AFTER_SECONDS_MAX
    assert retry_after(deque([(0.0, 1_000)]), 500) == RETRY_AFTER_SECONDS_MAX
    assert retry_after(deque([(0.0, 1_000), (1.0, 501)]), 500) == 1


def test_only_the_last_samples_count() -> None:
    subject = Backpressure(backlog_max=10, memory_percent_max=95)
    for second in range(50):
        subject.judge_stream(second, KEY, unread(10_000))
    for second in range(SAMPLES_MAX):
        verdict = subject.judge_stream(50 + second, KEY, unread(10_000 - 1_000 * second))
    assert verdict is not None
    assert verdict.retry_after == 1


def test_each_stream_has_samples_of_its_own_and_those_of_a_removed_one_are_freed() -> None:
    subject = Backpressure(backlog_max=10, memory_percent_max=95)
    for second in range(SAMPLES_MAX):
        falling = subject.judge_stream(second, b"falls", unread(1_000 - 90 * second))
        steady = subject.judge_stream(second, b"steady", unread(1_000))
    assert falling is not None
    assert steady is not None
    assert (falling.retry_after, steady.retry_after) == (2, RETRY_AFTER_SECONDS_MAX)
    subject.forget_others([b"steady"])
    assert list(subject._backlog) == [b"steady"]
    again = subject.judge_stream(SAMPLES_MAX, b"falls", unread(100))
    assert again is not None
    assert again.retry_after == RETRY_AFTER_SECONDS_MAX  # nothing is known of how fast it falls
