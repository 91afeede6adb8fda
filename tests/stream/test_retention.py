"""inlet.stream.retention: reading a retention, and every decision on what to trim."""

from __future__ import annotations

import pytest

from inlet.stream.retention import (
    AGE_MS_MAX,
    ENTRIES_MAX,
    MEMORY_MAX,
    Group,
    Observed,
    Retention,
    Trim,
    plan,
    retention,
    safe_id,
)


def test_retention_reads_ages_entries_and_memory() -> None:
    assert retention("age=7d") == Retention(age_ms=7 * 86_400_000)
    assert retention(" entries=5 , memory=2gb,age=30s", "drop") == Retention(30_000, 5, 2 * 2**30, "drop")
    assert retention("memory=100") == Retention(memory_bytes=100)
    assert retention(f"entries={ENTRIES_MAX}").entries == ENTRIES_MAX
    assert retention("age=3650d").age_ms == AGE_MS_MAX
    assert retention("memory=1024tb").memory_bytes == MEMORY_MAX


@pytest.mark.parametrize(
    "text",
    ["", ",", "7d", "age=7", "age=0s", "age=3651d", "entries=-1", "entries=0", "entries=1e6", f"entries={10**12 + 1}",
     "memory=2pb", "memory=1025tb", "age=1d,age=2d", "size=5"],
)  # fmt: skip
def test_retention_refuses_what_it_cannot_mean(text: str) -> None:
    with pytest.raises(ValueError, match="age="):
        retention(text)


def test_retention_refuses_an_unknown_word_for_unread() -> None:
    with pytest.raises(ValueError, match="unread"):
        retention("age=1d", "maybe")


def test_safe_is_what_every_group_has_acked() -> None:
    assert safe_id([]) == (0, 0)
    assert safe_id([Group("a", (10, 3), None)]) == (10, 4)
    assert safe_id([Group("a", (10, 3), None), Group("b", (9, 0), (7, 1))]) == (7, 1)
    assert safe_id([Group("a", (0, 0), None)]) == (0, 1)


ACKED = (Group("a", (1_000, 0), None),)


def state(length: int = 100, memory: int = 1_000, groups: tuple[Group, ...] = ACKED) -> Observed:
    return Observed(10_000, length, memory, groups)


def test_age_trims_what_is_old_and_acked() -> None:
    assert plan(state(), Retention(age_ms=9_500)).trims == [Trim((500, 0), None, False)]
    assert plan(state(), Retention(age_ms=100)).trims == [Trim((1_000, 1), None, False)]
    assert plan(state(), Retention(age_ms=10_000)).trims == []


def test_entries_over_the_bound_are_trimmed_but_never_past_what_is_acked() -> None:
    assert plan(state(), Retention(entries=90)) == ([Trim((1_000, 1), 10, False)], True)
    assert plan(state(), Retention(entries=100)) == ([], False)


def test_memory_over_the_bound_counts_entries_of_average_size() -> None:
    assert plan(state(), Retention(memory_bytes=901)).trims == [Trim((1_000, 1), 10, False)]
    assert plan(state(), Retention(memory_bytes=1_000)).trims == []


def test_without_a_group_nothing_is_trimmed_and_the_stream_gets_full() -> None:
    assert plan(state(groups=()), Retention(entries=99, age_ms=1)) == ([], True)


def test_unread_entries_go_only_where_that_was_said() -> None:
    never = (Group("a", (0, 0), None),)
    kept = plan(state(groups=never), Retention(entries=90, age_ms=5_000))
    assert (all(not item.unread for item in kept.trims), kept.full) == (True, True)
    dropped = plan(state(groups=never), Retention(entries=90, age_ms=5_000, unread="drop"))
    assert [item.unread for item in dropped.trims] == [False, False, True, True]
    assert dropped.trims[2] == Trim((5_000, 0), None, True)
    assert dropped.trims[3].most == 10
    assert not dropped.full


def test_a_stream_that_was_full_stays_so_until_it_is_well_below_its_bound() -> None:
    keep = Retention(entries=100)
    assert not plan(state(96), keep).full
    assert plan(state(96), keep, was_full=True).full
    assert not plan(state(95), keep, was_full=True).full


def test_an_age_alone_never_makes_a_stream_full() -> None:
    assert not plan(state(groups=()), Retention(age_ms=1)).full
