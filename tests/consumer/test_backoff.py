"""inlet.consumer.backoff: how long a reader waits for a store that is away."""

from __future__ import annotations

from inlet.consumer.backoff import BACKOFF_SECONDS_MAX, backoff_seconds


def test_the_backoff_grows_up_to_its_bound_and_is_spread() -> None:
    waits = [backoff_seconds(attempt, 0.999) for attempt in range(12)]
    assert waits == sorted(waits)
    assert waits[0] < 0.06
    assert backoff_seconds(10**6, 1.0) == BACKOFF_SECONDS_MAX
    assert backoff_seconds(0, 0.0) == backoff_seconds(0, 1.0) / 2
