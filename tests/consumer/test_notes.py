"""inlet.consumer.notes: what is kept of failed attempts, and how long the next one waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.consumer.notes import Note, Unit, Verdict, append, decode, encode, wait_ms
from inlet.consumer.options import Options


def test_the_wait_doubles_with_each_attempt_up_to_its_bound_and_is_the_shortest_after_the_last() -> None:
    options = Options(claim_idle_ms=100, claim_idle_ms_max=1_000, attempts_max=7)
    waits = [wait_ms([Unit(0, 0, attempts)], options) for attempts in range(8)]
    assert waits == [100, 100, 200, 400, 800, 1_000, 1_000, 100]
    assert wait_ms([Unit(0, 0, 10**9)], Options(attempts_max=1_000)) == 60_000
    assert (wait_ms([], options), wait_ms([Unit(0, 0, 1), Unit(1, 1, 3)], options)) == (0, 400)


def test_a_note_reads_back_as_it_was_written() -> None:
    note = Note((Unit(0, 49, 5, 1), Unit(50, 99)), (Verdict(7, "bad-record", "half: \ud800 \n", 1),), (0, 49))
    assert decode(encode(note)) == note
    assert decode(encode(Note(()))) == Note(())


@pytest.mark.parametrize("text", [b"", b"17", b"x {}", b"{}", b"[]", b"nil", b'{"left":[[1]],"bad":[],"begun":null}'])
def test_what_is_no_note_is_none(text: bytes) -> None:
    assert decode(text) is None


@given(st.binary(max_size=60))
def test_no_junk_makes_the_reader_of_notes_raise(text: bytes) -> None:
    decode(text)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_halves_of_halves_come_down_to_every_single_line(first: int, more: int) -> None:
    unit = Unit(first, first + more, 5)
    left, right = unit.halves(4)
    assert (left.first, left.last + 1, right.last) == (unit.first, right.first, unit.last)
    assert left.first <= left.last
    assert right.first <= right.last


def test_neighbors_of_the_same_counts_are_one_range() -> None:
    units: list[Unit] = []
    for unit in (Unit(0, 0, 1), Unit(1, 1, 1), Unit(2, 2, 2), Unit(3, 3, 2, 1), Unit(5, 5, 2, 1)):
        append(units, unit)
    assert units == [Unit(0, 1, 1), Unit(2, 2, 2), Unit(3, 3, 2, 1), Unit(5, 5, 2, 1)]
