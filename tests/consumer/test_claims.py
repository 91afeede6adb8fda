"""inlet.consumer.claims: which pending entries are due, and when."""

from __future__ import annotations

from inlet.consumer.claims import Due, Pending, due, retry_idle_ms
from inlet.consumer.options import Options


def test_the_wait_for_a_claim_doubles_with_each_delivery_up_to_its_bound() -> None:
    options = Options(claim_idle_ms=100, claim_idle_ms_max=1_000)
    assert [retry_idle_ms(number, options) for number in (0, 1, 2, 3, 4, 5, 10**9)] == [
        100, 100, 200, 400, 800, 1_000, 1_000,
    ]  # fmt: skip


def test_due_are_entries_idle_for_as_long_as_their_deliveries_ask_and_not_held() -> None:
    options = Options(claim_idle_ms=100, claim_idle_ms_max=1_000)
    rows = [
        Pending(b"1-0", b"dead", 100, 1), Pending(b"2-0", b"dead", 199, 2), Pending(b"3-0", b"dead", 200, 2),
        Pending(b"4-0", b"me", 5_000, 1),
    ]  # fmt: skip
    assert due(rows, {b"4-0"}, options, own=False) == [Due(100, {b"1-0": 1}), Due(200, {b"3-0": 2})]


def test_what_is_pending_under_ones_own_name_is_due_at_once() -> None:
    rows = [Pending(b"1-0", b"me", 0, 7), Pending(b"2-0", b"me", 0, 1)]
    assert due(rows, {b"2-0"}, Options(), own=True) == [Due(0, {b"1-0": 7})]
