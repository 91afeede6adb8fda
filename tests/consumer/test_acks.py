"""inlet.consumer.acks: when acks are sent, and the commands for them."""

from __future__ import annotations

from inlet.consumer.acks import ACKS_MAX, Acks


def test_acks_of_all_partitions_go_together_and_are_counted_once() -> None:
    acks = Acks(("logs:{0}", "logs:{1}", "logs:{2}"), "g", 100)
    assert [acks.add(0, b"1-0", 5.0), acks.add(2, b"2-0", 5.0), acks.add(0, b"3-0", 5.05)] == [False] * 3
    assert acks.take() == (3, [("XACK", "logs:{0}", "g", b"1-0", b"3-0"), ("XACK", "logs:{2}", "g", b"2-0")])
    assert acks.take() == (0, [])


def test_acks_are_due_after_their_delay_or_at_their_bound() -> None:
    acks = Acks(("logs",), "g", 100)
    assert [acks.add(0, b"1-0", 5.0), acks.add(0, b"2-0", 5.09), acks.add(0, b"3-0", 5.11)] == [False, False, True]
    acks.take()
    found = [acks.add(0, b"%d-0" % number, 6.0) for number in range(ACKS_MAX)]
    assert (found.index(True), sum(found)) == (ACKS_MAX - 1, 1)
