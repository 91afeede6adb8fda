"""Quotas: what is charged when, the refusal and its fields; and over processes that hammer, the rate that is kept."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from inlet.keyfile import BURST_MAX, PER_SECOND_MAX, PER_SECOND_MIN, Key, KeyQuotas, Quota
from tests.access.forked import SECOND, Clock, forked, wait_for
from wsgi.access.buckets import SECONDS_MAX
from wsgi.access.quotas import UNITS, Meter, Quotas
from wsgi.problems import PROBLEMS, RETRY_JITTER_SECONDS, Denied

SECRET = "5ec7e7" * 10


def key(quotas: dict[str, Quota], key_id: str = "aaaaaaaaaaaa") -> Key:
    """Return a key with these quotas: kind -> quota."""
    return Key(key_id, "checkout", SECRET, datetime.now(UTC), quotas=KeyQuotas(**quotas))


def metered(clock: Clock | None = None, **quotas: Quota) -> Meter:
    """Return the meter of a key with these quotas."""
    meter = Quotas(clock or Clock()).meter(key(quotas))
    assert meter is not None
    return meter


def passes(step: Callable[[int], None], amount: int) -> bool:
    """Whether a step is not refused."""
    try:
        step(amount)
    except Denied:
        return False
    return True


def refusal(step: Callable[[int], None], amount: int) -> tuple[str, dict[str, str]]:
    """Return the detail and the fields of a step that is refused."""
    with pytest.raises(Denied) as caught:
        step(amount)
    assert (caught.value.reason, PROBLEMS[caught.value.reason].status) == ("quota-exceeded", 429)
    return caught.value.detail, dict(caught.value.headers)


def test_a_key_without_quotas_has_no_meter() -> None:
    assert Quotas().meter(key({})) is None


def test_requests_pass_up_to_the_burst_and_not_one_more() -> None:
    clock = Clock()
    meter = metered(clock, requests=Quota(2, 5))
    assert [passes(meter.admit, 100) for _ in range(6)] == [True] * 5 + [False]
    clock.now += SECOND // 2
    assert [passes(meter.admit, 0) for _ in range(2)] == [True, False]
    assert all(passes(step, 10**6) for step in (meter.body, meter.records))


def test_bytes_pass_up_to_the_burst_and_not_one_more() -> None:
    clock = Clock()
    meter = metered(clock, bytes=Quota(1_000, 3_000))
    assert passes(meter.admit, 2_999)
    assert not passes(meter.admit, 2)
    assert passes(meter.admit, 1)
    clock.now += SECOND
    assert not passes(meter.admit, 1_001)
    assert passes(meter.body, 1_000)


def test_a_body_of_unknown_length_is_admitted_while_any_byte_is_left_and_charged_later() -> None:
    clock = Clock()
    meter = metered(clock, bytes=Quota(1_000, 3_000))
    assert passes(meter.body, 2_999)
    for _ in range(50):
        assert passes(meter.admit, 0)
    assert passes(meter.body, 1)
    assert not passes(meter.admit, 0)
    clock.now += 1
    assert passes(meter.admit, 0)
    assert not passes(meter.body, 1)
    clock.now += SECOND // 1_000 - 1
    assert not passes(meter.admit, 0), "what was refused has been received"
    clock.now += SECOND // 1_000
    assert passes(meter.body, 1)


def test_a_body_that_was_received_is_charged_also_where_it_is_refused_or_broken_off() -> None:
    clock = Clock()
    meter = metered(clock, bytes=Quota(1_000, 3_000))
    assert passes(meter.body, 1)
    detail, headers = refusal(meter.body, 7_000)
    assert headers["ratelimit"] == '"bytes";r=0;t=8', detail  # 4,001 in debt; 3,000 once it is full again.
    clock.now += 4_002 * SECOND // 1_000
    assert passes(meter.admit, 1)
    meter.spent(500)
    assert not passes(meter.admit, 1)
    clock.now += 501 * SECOND // 1_000
    assert passes(meter.admit, 1)
    window = int(refusal(meter.body, 7_000)[1]["ratelimit"].rpartition("=")[2])
    assert window == 10
    clock.now += window * SECOND
    assert passes(meter.body, 7_000)


def test_no_debt_is_more_than_a_year() -> None:
    clock = Clock()
    meter = metered(clock, bytes=Quota(PER_SECOND_MIN, 1))
    for _ in range(100):
        meter.spent(10**9)
    clock.now += SECONDS_MAX * SECOND
    assert not passes(meter.admit, 1)
    clock.now += 1_001 * SECOND
    assert passes(meter.admit, 1)


def test_records_pass_up_to_the_burst_and_while_none_is_left_no_request_does() -> None:
    clock = Clock()
    meter = metered(clock, records=Quota(10, 30))
    assert passes(meter.records, 29)
    assert not passes(meter.records, 2)
    assert passes(meter.admit, 50)
    assert passes(meter.records, 1)
    assert not passes(meter.admit, 50)
    assert passes(meter.records, 0)
    clock.now += SECOND // 10
    assert passes(meter.admit, 50)


@pytest.mark.parametrize("kind", ["records", "bytes"])
def test_more_than_the_burst_passes_only_when_it_is_full_and_leaves_a_debt(kind: str) -> None:
    clock = Clock()
    meter = metered(clock, **{kind: Quota(10, 30)})
    step = meter.records if kind == "records" else meter.admit
    assert passes(step, 100)  # 70 in debt.
    clock.now += 10 * SECOND - 1
    assert not passes(step, 31)
    assert passes(step, 29)
    clock.now += 3 * SECOND
    assert passes(step, 31)


def test_a_refusal_charges_nothing_not_even_the_quotas_that_had_enough() -> None:
    meter = metered(requests=Quota(1, 2), records=Quota(1, 5), bytes=Quota(10, 100))
    meter.admit(60)
    meter.records(1)
    for _ in range(50):
        assert not passes(meter.admit, 41)
        assert not passes(meter.records, 5)
    meter.admit(40)
    meter.records(4)
    assert not passes(meter.admit, 0)


def test_a_request_of_one_record_is_charged_at_once_and_one_of_others_in_two_steps() -> None:
    meter = metered(requests=Quota(1, 100), records=Quota(1, 10))
    for _ in range(4):
        meter.admit_one(0)
    meter.admit_one(0)
    meter.rest(5)  # 9 of 10 are used.
    meter.admit_one(0)
    assert not passes(meter.admit_one, 0)


def test_where_the_rest_is_refused_its_first_record_is_given_back() -> None:
    meter = metered(records=Quota(1, 10))
    meter.admit_one(0)
    for _ in range(20):
        meter.admit_one(0)
        assert not passes(meter.rest, 10)
    meter.admit_one(0)
    meter.rest(9)
    assert not passes(meter.admit_one, 0)


def test_a_bulk_over_the_burst_passes_where_all_of_it_was_left_before_its_first_record() -> None:
    meter = metered(records=Quota(1, 10))
    meter.admit_one(0)
    meter.rest(50)
    assert not passes(meter.admit_one, 0)


@pytest.mark.parametrize("rate", [100, 10_000, 1_000_000])
def test_what_is_charged_ahead_is_never_more_than_the_bucket_gives_and_hardly_less(rate: int) -> None:
    clock = Clock()
    quotas = Quotas(clock)
    quotas.start(0)
    named = {"requests": Quota(rate, rate), "records": Quota(rate, rate), "bytes": Quota(rate * 10, rate * 10)}
    one, other = (quotas.meter(key(named)) for _ in range(2))  # two workers, as far as a lease goes
    assert one is not None
    assert other is not None
    admitted = 0
    for _ in range(3):
        while passes(one.admit_one, 10) or passes(other.admit_one, 10):
            admitted += 1
        clock.now += SECOND // 100
    most = rate + 2 * rate // 100
    assert most - max(2 * rate // 32, 2) <= admitted <= most


def test_a_bulk_over_the_burst_passes_though_something_was_charged_ahead() -> None:
    clock = Clock()
    meter = metered(clock, records=Quota(100_000, 100_000))
    meter.admit_one(0)
    clock.now += SECOND
    meter.admit_one(0)
    meter.rest(200_000)
    assert not passes(meter.admit_one, 0)


def test_one_key_over_its_quota_takes_nothing_from_another() -> None:
    quotas = Quotas(Clock())
    one, other = (quotas.meter(key({"requests": Quota(1, 3)}, key_id)) for key_id in ("a" * 12, "b" * 12))
    assert one is not None
    assert other is not None
    assert [passes(one.admit, 0) for _ in range(4)] == [True] * 3 + [False]
    assert [passes(other.admit, 0) for _ in range(4)] == [True] * 3 + [False]


def test_an_unchanged_quota_keeps_its_level_over_a_reload_and_a_changed_one_starts_full() -> None:
    quotas = Quotas(Clock())
    before = quotas.meter(key({"requests": Quota(1, 3), "bytes": Quota(10, 100)}))
    assert before is not None
    before.admit(90)
    after = quotas.meter(key({"requests": Quota(1.0, 4.0), "bytes": Quota(10.0, 100.0)}))
    assert after is not None
    assert not passes(after.admit, 11)
    assert [passes(after.admit, 0) for _ in range(5)] == [True] * 4 + [False]


# The refusal ----------------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_quota_and_how_much_is_left_and_neither_key_nor_secret() -> None:
    meter = metered(requests=Quota(100, 200), records=Quota(0.5, 2), bytes=Quota(1_000, 5_000))
    meter.admit(4_000)
    detail, headers = refusal(meter.admit, 3_000)
    retry = int(headers["retry-after"])
    assert detail == (
        "the key may send 1000 bytes per second and 5000 at once; 1000 are left, and this request needs 3000; "
        f"retry in {retry} s"
    )
    assert headers["ratelimit"] == '"bytes";r=1000;t=2'
    assert headers["ratelimit-policy"] == (
        '"requests";q=100;w=1;qu="requests";inlet-burst=200, "records";q=5;w=10;qu="records";inlet-burst=2, '
        '"bytes";q=1000;w=1;qu="content-bytes";inlet-burst=5000'
    )
    assert not re.search(f"{SECRET}|aaaaaaaaaaaa|checkout", detail + str(headers))


def test_of_several_quotas_that_are_exceeded_the_one_that_takes_longest_is_named() -> None:
    meter = metered(requests=Quota(1, 1), records=Quota(0.1, 1), bytes=Quota(1_000, 1_000))
    meter.admit(1_000)
    assert refusal(meter.admit, 500)[1]["ratelimit"] == '"requests";r=0;t=1'
    meter.records(1)
    assert refusal(meter.admit, 500)[1]["ratelimit"] == '"records";r=0;t=10'


def test_after_the_time_that_a_refusal_names_the_same_request_passes() -> None:
    for kind, amount in itertools.product(UNITS, (1, 7, 20, 45)):
        clock = Clock()
        meter = metered(clock, **{kind: Quota(3, 20)})
        step = meter.records if kind == "records" else meter.admit
        while passes(step, amount):
            pass
        window = int(refusal(step, amount)[1]["ratelimit"].rpartition("=")[2])
        clock.now += (window - 1) * SECOND
        assert window == 1 or not passes(step, amount)
        clock.now += SECOND
        assert passes(step, amount)


def test_clients_are_asked_to_return_at_different_times_and_none_too_early() -> None:
    meter = metered(requests=Quota(0.25, 1))
    meter.admit(0)
    seen = {int(refusal(meter.admit, 0)[1]["retry-after"]) for _ in range(200)}
    assert seen == set(range(4, 4 + RETRY_JITTER_SECONDS + 1))


@pytest.mark.parametrize(
    ("rate", "policy"),
    [
        (PER_SECOND_MIN, "q=1;w=1000"), (0.0015, "q=1;w=1000"), (0.1, "q=1;w=10"), (0.07, "q=7;w=100"),
        (1 / 3, "q=333;w=1000"), (1, "q=1;w=1"), (2.5, "q=25;w=10"), (33.3, "q=333;w=10"), (123.9, "q=123;w=1"),
        (PER_SECOND_MAX, "q=1000000000000;w=1"),
    ],
)  # fmt: skip
def test_a_rate_is_a_whole_number_in_a_window_of_whole_seconds(rate: float, policy: str) -> None:
    meter = metered(requests=Quota(rate, 1), bytes=Quota(1, 1))
    meter.body(10)
    assert refusal(meter.admit, 1)[1]["ratelimit-policy"].startswith(f'"requests";{policy};')


@pytest.mark.parametrize(("rate", "burst"), [*itertools.product((PER_SECOND_MIN, PER_SECOND_MAX), (1, BURST_MAX))])
def test_a_refusal_is_well_formed_at_the_ends_of_what_a_file_may_say(rate: float, burst: float) -> None:
    meter = metered(requests=Quota(rate, burst), records=Quota(rate, burst), bytes=Quota(rate, burst))
    while passes(meter.body, 10**12):
        pass
    _, headers = refusal(meter.body, 10**12)
    assert re.fullmatch(r"[1-9]\d{0,14}", headers["retry-after"])
    assert re.fullmatch(r'"bytes";r=\d{1,15};t=[1-9]\d{0,14}', headers["ratelimit"])
    number = r"[1-9]\d{0,14}"
    for item in headers["ratelimit-policy"].split(", "):
        assert re.fullmatch(rf'"[a-z]+";q={number};w={number};qu="[a-z-]+";inlet-burst={number}', item)


# Processes ------------------------------------------------------------------------------------------------------------

SECONDS = 10
RATES = {"requests": 2_000.0, "records": 40_000.0, "bytes": 3_000_000.0}
"""More than one process takes in small steps, and few enough steps that a busy machine can take them all."""
AMOUNTS = {"requests": (1, 1), "records": (1, 100), "bytes": (200, 5_000)}
"""Tokens of one step, at least and at most."""
TOLERANCE = 0.05


class Hammer:
    """Workers that take all that one quota gives, each with its slot, until a time; and what they were given."""

    def __init__(self, kind: str, workers: int) -> None:
        self.kind, self.workers = kind, workers
        self.quotas = Quotas()
        # One second of burst, which is used up before: a machine that stops all workers for so long costs nothing.
        self.key = key({kind: Quota(RATES[kind], RATES[kind])})
        self._read, self._write = os.pipe()

    def _step(self) -> Callable[[int], None]:
        meter = self.quotas.meter(self.key)
        assert meter is not None
        return {"requests": lambda _: meter.admit(0), "records": meter.records, "bytes": meter.admit}[self.kind]

    def drain(self) -> None:
        """Use up the burst, and note when it was."""
        step, least = self._step(), AMOUNTS[self.kind][0]
        self.begin = time.monotonic()
        while passes(step, least):
            self.begin = time.monotonic()

    def work(self, slot: int, until: float) -> None:
        """Take until then, and write down how many tokens that were."""
        self.quotas.start(slot)
        step, (least, most), taken = self._step(), AMOUNTS[self.kind], 0
        rng = random.Random(slot)
        while time.monotonic() < until:
            amount = rng.randint(least, most)
            if passes(step, amount):
                taken += amount
            else:
                time.sleep(0.002)
        os.write(self._write, struct.pack("q", taken))

    def taken(self) -> int:
        """Return what all of them were given. Once they have ended."""
        os.close(self._write)
        with os.fdopen(self._read, "rb") as pipe:
            return sum(number for (number,) in struct.iter_unpack("q", pipe.read()))


def check(hammer: Hammer, until: float) -> None:
    """Check that the workers, which have all ended, were given what the quota sets: within 5%, and never more."""
    end, taken, rate = time.monotonic(), hammer.taken(), RATES[hammer.kind]
    # Workers may pass on the last tokens at the same moment; what that overdraws is at most a step of each.
    over = (hammer.workers + 1) * AMOUNTS[hammer.kind][1]
    assert over <= TOLERANCE * rate * SECONDS
    assert (1 - TOLERANCE) * rate * (until - hammer.begin) <= taken <= rate * (end - hammer.begin) + over, hammer.kind


def test_the_rate_is_kept_within_5_percent_over_10_seconds_at_1_2_and_4_workers_for_each_kind() -> None:
    hammers = [Hammer(kind, workers) for kind in RATES for workers in (1, 2, 4)]
    for hammer in hammers:
        hammer.drain()
    until = time.monotonic() + SECONDS
    pids = [forked(partial(hammer.work, until=until), slot) for hammer in hammers for slot in range(hammer.workers)]
    assert [wait_for(pid) for pid in pids] == [0] * len(pids)
    for hammer in hammers:
        check(hammer, until)


def test_the_rate_is_kept_within_5_percent_while_one_worker_after_the_other_is_recycled() -> None:
    hammers = [Hammer(kind, 2) for kind in RATES]
    for hammer in hammers:
        hammer.drain()
    begin = time.monotonic()

    def generations(slot: int, hammer: Hammer) -> None:
        for number in range(1, SECONDS + 1):
            assert wait_for(forked(partial(hammer.work, until=begin + number), slot)) == 0

    pids = [forked(partial(generations, hammer=hammer), slot) for hammer in hammers for slot in range(2)]
    assert [wait_for(pid) for pid in pids] == [0] * len(pids)
    for hammer in hammers:
        check(hammer, begin + SECONDS)


@pytest.mark.parametrize("kind", list(UNITS))
def test_a_worker_notices_one_that_starts_later_whatever_it_is_asked(kind: str) -> None:
    quotas = Quotas()
    quotas.start(0)
    given = key({kind: Quota(0.001, 10)})
    meter = quotas.meter(given)
    assert meter is not None

    def later(slot: int) -> None:
        quotas.start(slot)
        other = quotas.meter(given)
        assert other is not None
        for _ in range(10):
            {"requests": other.admit, "records": other.records, "bytes": other.body}[kind](1)

    assert wait_for(forked(later, 5)) == 0
    assert not passes({"requests": meter.admit, "records": meter.records, "bytes": meter.body}[kind], 1)


def test_what_a_killed_worker_was_given_stays_used() -> None:
    quotas = Quotas()
    burst = 1_000

    def work(slot: int) -> None:
        quotas.start(slot)
        meter = quotas.meter(key({"requests": Quota(0.001, burst)}))
        assert meter is not None
        for _ in range(burst - 10):
            meter.admit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait_for(forked(work, 1)) == -signal.SIGKILL
    left = quotas.meter(key({"requests": Quota(0.001, burst)}))
    assert left is not None
    assert [passes(left.admit, 0) for _ in range(11)] == [True] * 10 + [False]
