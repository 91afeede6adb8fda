"""inlet.stream.retention: reading a retention, and the words for what holds a stream back."""

from __future__ import annotations

import pytest

from inlet.stream.retention import (
    AGE_MS_MAX,
    ENTRIES_MAX,
    GROUP_CHARS_MAX,
    MEMORY_MAX,
    Hold,
    Retention,
    read_marker,
    retention,
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


def test_what_holds_a_stream_back_is_said_in_words_and_survives_the_store() -> None:
    assert read_marker(b"nobody ") == Hold("nobody")
    assert read_marker(b"behind a b") == Hold("behind", "a b")
    assert "group 'mail' has acked the least" in read_marker(b"behind mail").words()
    assert "no group" in Hold("nobody").words()
    missing = read_marker(b"missing mail").words()
    assert "missing" in missing
    assert "inlet groups forget mail" in missing


def test_a_marker_of_an_earlier_version_is_read() -> None:
    assert read_marker(b"100") == Hold("unknown")
    assert "inlet lag" in Hold("unknown").words()


@pytest.mark.parametrize("group", ["\x1b[31m", "caf\xe9", "x" * 65, "\n"])
def test_words_quote_no_byte_of_a_group_unescaped(group: str) -> None:
    words = read_marker(b"missing " + group.encode()).words()
    assert words.isascii()
    assert words.isprintable()
    assert words.endswith("`inlet groups forget GROUP`")
    assert ("x" * GROUP_CHARS_MAX in words, "x" * (GROUP_CHARS_MAX + 1) in words) == (group[0] == "x", False)
