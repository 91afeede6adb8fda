"""Slow work: in which order connections take their steps, and that a bounded number of them has begun."""

from __future__ import annotations

from wsgi.server.slow import BEGUN_MAX, SlowWork


class Work:
    """Stands for a connection with so many steps; notes each in ``log``."""

    def __init__(self, name: str, steps: int, log: list[str]) -> None:
        self.name, self.left, self.log = name, steps, log

    def work(self) -> bool:
        self.log.append(self.name)
        self.left -= 1
        return self.left > 0


def run(*steps: tuple[str, int]) -> str:
    log: list[str] = []
    slow = SlowWork()
    for name, count in steps:
        slow.add(Work(name, count, log))
    while slow:
        slow.step()
    return "".join(log)


def test_new_work_goes_ahead_of_long_work_and_alternates_with_it() -> None:
    assert run(("a", 4), ("b", 1), ("c", 1), ("d", 1)) == "aabacad"


def test_of_the_long_work_the_oldest_goes_on_until_it_is_done() -> None:
    assert run(("a", 4), ("b", 4)) == "aabaabbb"


def test_no_more_is_begun_than_the_bound() -> None:
    log: list[str] = []
    slow = SlowWork()
    works = [Work(str(number), 300, log) for number in range(BEGUN_MAX + 10)]
    for work in works:
        slow.add(work)
    most = 0
    while slow:
        slow.step()
        most = max(most, sum(0 < work.left < 300 for work in works))
    assert most == BEGUN_MAX
    assert len(log) == 300 * len(works)


def test_it_is_false_once_all_is_done() -> None:
    slow = SlowWork()
    assert not slow
    slow.add(Work("a", 2, []))
    assert slow
    slow.step()
    assert slow
    slow.step()
    assert not slow
