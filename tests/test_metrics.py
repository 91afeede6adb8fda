"""What a commit counts is moved late, whole, and once."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, Counter

from wsgi import metrics

THREADS = 4
EACH = 20_000


@pytest.fixture
def counter() -> Counter:
    return Counter("some", "Help.", registry=CollectorRegistry())


def moved(counter: Counter) -> float:
    return next(iter(counter.collect())).samples[0].value


def histogram() -> dict[str, float]:
    samples = next(iter(metrics.COMMIT_SECONDS.collect())).samples
    return {sample.name + sample.labels.get("le", ""): sample.value for sample in samples}


def test_what_is_counted_moves_with_the_flush_and_once(counter: Counter) -> None:
    late = metrics.Late()
    add = late.counter(counter)
    add(1)
    add(2)
    assert moved(counter) == 0
    late.flush()
    late.flush()
    assert moved(counter) == 3


def test_a_commit_after_a_pause_moves_everything_at_once_and_the_next_one_waits(counter: Counter) -> None:
    late = metrics.Late()
    add = late.counter(counter)
    add(1)
    now = 1e9  # seconds: after every deadline
    late.commit(1, 0.001, now)
    assert moved(counter) == 1
    add(1)
    late.commit(1, 0.001, late._due - 0.001)
    assert moved(counter) == 1
    late.commit(1, 0.001, late._due)
    assert moved(counter) == 2


@pytest.mark.parametrize("seconds", [0.0001, 0.00011, 0.3, 5, 7])
def test_a_commits_seconds_fall_into_the_bucket_that_the_library_would_choose(seconds: float) -> None:
    metrics.LATE.flush()
    before = histogram()
    metrics.COMMIT_SECONDS.observe(seconds)
    by_library = {name: value - before[name] for name, value in histogram().items()}
    before = histogram()
    metrics.LATE.commit(1, seconds, 0.0)
    metrics.LATE.flush()
    ours = {name: value - before[name] for name, value in histogram().items()}
    assert ours.keys() == by_library.keys()
    for name, value in ours.items():
        assert value == pytest.approx(by_library[name]), name


def test_threads_that_count_and_threads_that_flush_lose_nothing(counter: Counter) -> None:
    late = metrics.Late()
    add = late.counter(counter)

    def count() -> None:
        for _ in range(EACH):
            add(1)

    def flush() -> None:
        for _ in range(200):
            late.flush()

    threads = [threading.Thread(target=target) for target in (count, flush) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    late.flush()
    assert moved(counter) == THREADS * EACH


def test_the_exposition_has_what_this_process_has_counted_so_far() -> None:
    before = metrics.exposition().decode()
    metrics.LATE.commit(5, 0.001, 0.0)
    after = metrics.exposition().decode()
    name = "inlet_records_stored_total "
    values = [float(text.split(name)[-1].split("\n")[0]) for text in (before, after)]
    assert values[1] == values[0] + 5
