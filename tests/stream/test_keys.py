"""inlet.stream.keys: the store keys of a stream."""

from __future__ import annotations

import pytest

from inlet.stream.keys import PARTITIONS_MAX, dead_key, full_key, keeper_key, partition_keys, seen_key, try_key


def test_a_stream_has_one_key_or_one_in_braces_for_each_partition() -> None:
    assert partition_keys("logs", 1) == ("logs",)
    assert partition_keys("logs", 3) == ("logs:{0}", "logs:{1}", "logs:{2}")
    assert len(partition_keys("logs", PARTITIONS_MAX)) == PARTITIONS_MAX
    for number in (0, PARTITIONS_MAX + 1):
        with pytest.raises(ValueError, match="partitions"):
            partition_keys("logs", number)


def test_all_partitions_share_the_keys_of_seen_records() -> None:
    assert seen_key("logs:{7}", "g", "e-1") == seen_key("logs", "g", "e-1") == b"logs:seen:g:e-1"


def test_the_keys_beside_a_stream_are_those_that_the_module_lists() -> None:
    assert (dead_key("logs"), full_key("logs"), keeper_key("logs")) == ("logs:dead", "logs:full", "logs:keeper")
    assert try_key("logs:{1}", "g", "17-0") == "logs:{1}:try:g:17-0"
    assert dead_key("logs:{1}") == "logs:{1}:dead", "beside its partition"


def test_no_two_groups_share_the_key_of_a_seen_record() -> None:
    assert seen_key("logs", "billing", "eu:17") != seen_key("logs", "billing:eu", "17")
    assert seen_key("logs", "a%3Ab", "17") != seen_key("logs", "a:b", "17")
    assert seen_key("logs", "a:b%", "17") == b"logs:seen:a%3Ab%25:17"


def test_a_seen_key_takes_a_lone_surrogate_of_another_writer() -> None:
    assert seen_key("logs", "g", "\ud800") == b"logs:seen:g:\xed\xa0\x80"
