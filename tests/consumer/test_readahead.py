"""inlet.consumer.readahead: COUNT of the next read, from the entries read before."""

from __future__ import annotations

from inlet.consumer.options import Options
from inlet.consumer.readahead import Raw, ReadAhead, next_count


def test_the_count_of_a_read_at_most_doubles_and_keeps_both_bounds() -> None:
    options = Options(entries_max=100, bytes_max=10_000)
    assert next_count(8, 1, options, 1) == 16
    assert next_count(80, 1, options, 1) == 100
    assert next_count(80, 1_000, options, 1) == 10
    assert next_count(80, 1_000, options, 5) == 2
    assert next_count(80, 1_000_000, options, 1) == 1


def test_the_first_read_assumes_large_entries_and_a_large_entry_is_forgotten_slowly() -> None:
    ahead = ReadAhead(Options(entries_max=100, bytes_max=8 * 1_048_576), 1)
    assert ahead.count == 8
    ahead.learn([Raw(0, b"1-0", [b"r", b"x" * 1_048_576], 1)])
    assert ahead.count == 7, "the largest and its name"
    ahead.learn([])
    assert ahead.count == 7, "nothing read, nothing learned"
    ahead.learn([Raw(0, b"2-0", [b"r", b"x"], 1)])
    assert ahead.count == 10, "each read forgets an eighth of the largest"
