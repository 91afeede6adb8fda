"""The account of unfinished bodies: each bound at it and one past it, who waits, who is read on, and who is refused."""

from __future__ import annotations

from collections.abc import Hashable

from wsgi.server.held import HeldBytes
from wsgi.server.refusal import HttpError
from wsgi.server.states import BODY, BUSY


class Holder:
    """A connection that notes what is done with it."""

    def __init__(self, account: HeldBytes, owner: Hashable = None, state: int = BODY) -> None:
        self.account, self.owner, self.state = account, owner, state
        self.held, self.since, self.reads, self.refused = 0, 0.0, True, 0

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def fail(self, error: HttpError) -> None:
        self.refused = error.status
        self.account.free(self, 9.0)


def filled(account: HeldBytes, *bodies: tuple[Hashable, int]) -> list[Holder]:
    """Holders of so many bytes each, by owner."""
    holders = [Holder(account, owner) for owner, _ in bodies]
    for holder, (_, size) in zip(holders, bodies, strict=True):
        account.add(holder, size)
    return holders


def test_all_together_are_read_up_to_the_bound_and_not_one_byte_past_it() -> None:
    account = HeldBytes(100, 10)
    one, other = filled(account, (None, 60), (None, 40))
    assert (one.reads, other.reads) == (True, True)
    account.add(other, 1)
    assert (one.reads, other.reads) == (True, False)
    account.free(one, 5.0)
    assert (other.reads, other.since, account.total, account.waiting) == (True, 5.0, 41, set())


def test_one_owner_is_read_up_to_half_of_it_and_not_one_byte_past_it() -> None:
    account = HeldBytes(100, 10)
    first, second, other, nobody = filled(account, ("a", 30), ("a", 20), ("b", 10), (None, 40))
    assert all(each.reads for each in (first, second, other, nobody))
    account.free(nobody, 1.0)
    account.add(second, 1)
    account.add(first, 1)
    account.add(other, 1)
    assert [each.reads for each in (first, second, other)] == [False, False, True]
    account.free(other, 2.0)
    assert [each.reads for each in (first, second)] == [False, False], "there is no more room for this owner"
    account.free(second, 3.0)
    assert first.reads
    account.free(first, 4.0)
    assert (account.total, account.owned) == (0, {})


def test_one_body_always_fits() -> None:
    account = HeldBytes(100, 80)
    (whole,) = filled(account, ("a", 80))
    assert whole.reads
    account.add(whole, 1)
    assert not whole.reads


def test_over_its_own_bound_the_largest_of_an_owner_are_refused_and_nobody_elses() -> None:
    account = HeldBytes(100, 10)
    small, large, middle, other = holders = filled(account, ("a", 15), ("a", 30), ("a", 25), ("b", 30))
    account.shed(holders)
    assert [each.refused for each in (small, large, middle, other)] == [0, 503, 0, 0]
    assert all(each.reads for each in (small, middle, other))
    account.shed(holders)
    assert (account.total, middle.refused) == (70, 0)


def test_over_the_bound_of_all_the_owner_that_holds_most_loses_its_largest() -> None:
    account = HeldBytes(100, 10)
    mine, most, less, nobody = holders = filled(account, ("a", 20), ("a", 25), ("b", 40), (None, 16))
    account.shed(holders)
    assert [each.refused for each in (mine, most, less, nobody)] == [0, 503, 0, 0]
    account = HeldBytes(100, 10)
    nobody, less, *rest = holders = filled(account, (None, 60), ("a", 30), (None, 5), (None, 6))
    account.shed(holders)
    assert [each.refused for each in (nobody, less, *rest)] == [503, 0, 0, 0], "nobody in particular is one of them"


def test_finished_bodies_count_and_are_not_refused() -> None:
    account = HeldBytes(100, 10)
    finished, unfinished = holders = filled(account, ("a", 40), ("a", 20))
    finished.state = BUSY
    account.shed(holders)
    assert [each.refused for each in (finished, unfinished)] == [0, 0]
    assert not unfinished.reads
    account.free(finished, 1.0)
    assert unfinished.reads
