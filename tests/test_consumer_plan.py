"""consumer.plan and the pure part of consumer.trim: every bound, and every decision."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from consumer import trim
from consumer.errors import Fault, fault
from consumer.plan import (
    BACKOFF_SECONDS_MAX,
    BOUNDS,
    GHOST_IDLE_MS,
    PARTITIONS_MAX,
    Due,
    Options,
    Pending,
    backoff_seconds,
    consumer_name,
    due,
    ghosts,
    keys,
    next_count,
    retry_idle_ms,
    seen_key,
)
from consumer.trim import Group, Retention, State, Trim, has_acked, plan, retention, safe_id
from tests.support import ROOT


@pytest.mark.parametrize("name", BOUNDS)
def test_an_option_is_taken_at_its_bounds_and_refused_one_past(name: str) -> None:
    low, high = BOUNDS[name]
    others = {"claim_idle_ms": {"claim_idle_ms_max": 604_800_000}, "claim_idle_ms_max": {"claim_idle_ms": 10}}

    def options(value: int) -> None:
        arguments: dict[str, Any] = {**others.get(name, {}), name: value}
        Options(**arguments)

    for value in (low, high):
        options(value)
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=name):
            options(value)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="claim_idle_ms_max"):
        Options(claim_idle_ms=1_000, claim_idle_ms_max=999)
    with pytest.raises(ValueError, match="start"):
        Options(start="middle")  # type: ignore[arg-type]  # what a caller without types may pass


def test_the_guide_lists_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", (ROOT / "docs/consumers.md").read_text(), re.MULTILINE)
    said: dict[str, str] = {}
    for names, texts in rows:
        said.update(zip(names.split(", "), texts.split(", "), strict=False))
    for item in fields(Options):
        default = item.default if item.name != "bytes_max" else "8 MiB"
        shown = f'`"{default}"`' if item.name == "start" else f"{default:,}" if type(default) is int else default
        assert said[f"`{item.name}`"] == shown, item.name


def test_a_stream_has_one_key_or_one_in_braces_for_each_partition() -> None:
    assert keys("logs", 1) == ("logs",)
    assert keys("logs", 3) == ("logs:{0}", "logs:{1}", "logs:{2}")
    assert len(keys("logs", PARTITIONS_MAX)) == PARTITIONS_MAX
    for number in (0, PARTITIONS_MAX + 1):
        with pytest.raises(ValueError, match="partitions"):
            keys("logs", number)


def test_all_partitions_share_the_keys_of_seen_records() -> None:
    assert seen_key("logs:{7}", "g", "e-1") == seen_key("logs", "g", "e-1") == b"logs:seen:g:e-1"


def test_ghosts_are_consumers_with_made_up_names_that_have_nothing_and_are_long_gone() -> None:
    def row(name: str, pending: int = 0, idle: int = GHOST_IDLE_MS) -> dict[str, Any]:
        return {"name": name.encode(), "pending": pending, "idle": idle}

    made_up = consumer_name("host-1", 77, "0a1b2c")
    assert ghosts([row(made_up)]) == [made_up.encode()]
    assert ghosts([row(made_up, pending=1), row(made_up, idle=GHOST_IDLE_MS - 1), row("billing-1")]) == []


def test_the_wait_for_a_claim_doubles_with_each_delivery_up_to_its_bound() -> None:
    options = Options(claim_idle_ms=100, claim_idle_ms_max=1_000)
    assert [retry_idle_ms(number, options) for number in (0, 1, 2, 3, 4, 5, 10**9)] == [
        100, 100, 200, 400, 800, 1_000, 1_000,
    ]  # fmt: skip


def test_due_are_entries_idle_for_as_long_as_their_deliveries_ask_and_not_in_hand() -> None:
    options = Options(claim_idle_ms=100, claim_idle_ms_max=1_000)
    rows = [
        Pending(b"1-0", b"dead", 100, 1), Pending(b"2-0", b"dead", 199, 2), Pending(b"3-0", b"dead", 200, 2),
        Pending(b"4-0", b"me", 5_000, 1),
    ]  # fmt: skip
    assert due(rows, {b"4-0"}, options, own=False) == [Due(100, {b"1-0": 1}), Due(200, {b"3-0": 2})]


def test_what_is_pending_under_ones_own_name_is_due_at_once() -> None:
    rows = [Pending(b"1-0", b"me", 0, 7), Pending(b"2-0", b"me", 0, 1)]
    assert due(rows, {b"2-0"}, Options(), own=True) == [Due(0, {b"1-0": 7})]


def test_the_count_of_a_read_at_most_doubles_and_keeps_both_bounds() -> None:
    options = Options(entries_max=100, bytes_max=10_000)
    assert next_count(8, 1, options, 1) == 16
    assert next_count(80, 1, options, 1) == 100
    assert next_count(80, 1_000, options, 1) == 10
    assert next_count(80, 1_000, options, 5) == 2
    assert next_count(80, 1_000_000, options, 1) == 1


def test_the_backoff_grows_up_to_its_bound_and_is_spread() -> None:
    waits = [backoff_seconds(attempt, 0.999) for attempt in range(12)]
    assert waits == sorted(waits)
    assert waits[0] < 0.06
    assert backoff_seconds(10**6, 1.0) == BACKOFF_SECONDS_MAX
    assert backoff_seconds(0, 0.0) == backoff_seconds(0, 1.0) / 2


def test_an_error_reply_keeps_its_first_word_also_where_it_was_cut_off() -> None:
    assert fault("NOGROUP No such key") == Fault("NOGROUP", "NOGROUP No such key")
    assert fault("You can't write", "READONLY") == Fault("READONLY", "READONLY You can't write")


def test_retention_reads_ages_entries_and_memory() -> None:
    assert retention("age=7d") == Retention(age_ms=7 * 86_400_000)
    assert retention(" entries=5 , memory=2gb,age=30s", "drop") == Retention(30_000, 5, 2 * 2**30, "drop")
    assert retention("memory=100") == Retention(memory_bytes=100)
    assert retention(f"entries={trim.ENTRIES_MAX}").entries == trim.ENTRIES_MAX
    assert retention("age=3650d").age_ms == trim.AGE_MS_MAX
    assert retention("memory=1024tb").memory_bytes == trim.MEMORY_MAX


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


def state(length: int = 100, memory: int = 1_000, groups: tuple[Group, ...] = ACKED) -> State:
    return State(10_000, length, memory, groups)


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


@pytest.mark.parametrize(
    ("info", "known"),
    [
        (b"# Server\r\nredis_version:8.2.0\r\n", True),
        (b"# Server\r\nredis_version:8.10.1\r\n", True),
        (b"# Server\r\nredis_version:9.0.0\r\n", True),
        (b"# Server\r\nredis_version:8.0.3\r\n", False),
        (b"# Server\r\nredis_version:7.0.15\r\n", False),
        (b"# Server\r\nredis_version:9.0.0\r\nserver_name:valkey\r\nvalkey_version:9.0.0\r\n", False),
        (b"", False),
    ],
)
def test_acked_is_asked_for_only_where_the_server_knows_it(info: bytes, known: bool) -> None:
    assert has_acked(info) is known


def test_xtrim_asks_for_acked_only_for_what_must_be_acked() -> None:
    head = ("XTRIM", "logs", "MINID", "~", "5-1", "LIMIT", 10)
    assert trim.command("logs", Trim((5, 1), None, False), 10, True) == (*head, "ACKED")
    assert trim.command("logs", Trim((5, 1), None, False), 10, False) == head
    assert trim.command("logs", Trim((5, 1), None, True), 10, True) == head
    assert trim.exact("logs", (5, 1), Trim((9, 0), 3, False), True)[-1] == "ACKED"
