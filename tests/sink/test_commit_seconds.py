"""inlet_commit_seconds: from the first byte of a commit to its last reply."""

from __future__ import annotations

import time

import pytest

from tests.sink.support import Sink, refused
from wsgi import metrics
from wsgi.sink.driver import Driver

CONNECT_SECONDS = 0.5


def observed() -> tuple[float, float]:
    """How many commits were observed, and the sum of their seconds."""
    metrics.LATE.flush()
    samples = next(iter(metrics.COMMIT_SECONDS.collect())).samples
    values = {sample.name: sample.value for sample in samples}
    return values["inlet_commit_seconds_count"], values["inlet_commit_seconds_sum"]


def test_a_commits_seconds_included_connecting(valkey: str, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the first commit of a worker, and each after a reconnect, counted as slow."""
    connect = Driver.connect

    def slow(self: Driver) -> None:
        time.sleep(CONNECT_SECONDS)
        connect(self)

    monkeypatch.setattr(Driver, "connect", slow)
    count, seconds = observed()
    began = time.monotonic()
    Sink(valkey, stream).append([b"1"]).commit()
    passed = time.monotonic() - began
    assert observed()[0] == count + 1
    assert observed()[1] - seconds <= passed - CONNECT_SECONDS


def test_a_commit_that_could_not_connect_is_not_observed(stream: str) -> None:
    before = observed()
    ticket = Sink("unix:///nonexistent/valkey.sock", stream).append([b"1"])
    with refused("sink-unavailable"):
        ticket.commit()
    assert observed() == before
