"""Quotas: how many requests, records and bytes a key may send per second, and the 429 that says so.

What lives here: what is charged when, and the refusal with its header fields. What must not: the shared memory and the
arithmetic of a bucket (``wsgi.access.buckets``), who has which quota (``inlet.keyfile``), HTTP parsing.

A refused step charges nothing, but for a body whose size was not known before: it has been received, and counts. So
whoever sends such bodies beyond the quota, or breaks them off, pays for them with a debt. Whatever is left, a request
of more than the burst passes once the bucket is full: it leaves a debt, and the next ones wait until that is paid.
Records are known only after the body is read, and the bytes of some bodies too, so ``admit`` refuses while none of them
is left; a request that is refused later has used its bytes.

Fields: draft-ietf-httpapi-ratelimit-headers-11 (23 May 2026), which is not an RFC yet. ``RateLimit-Policy`` (section 3)
lists all quotas of the key, ``RateLimit`` (section 4) the one that refuses. The draft knows windows, not buckets: ``q``
in ``w`` seconds is the rate, and ``inlet-burst`` is ours. The unit ``records`` is not in its registry (section 10.3).
Retry-After is never before the end of the effective window ``t`` (section 6), and up to RETRY_JITTER_SECONDS after it,
so that clients do not return all at once (section 8.5). The fields come with a 429 only: no 202 pays for them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import NoReturn

from inlet.keyfile import Key, Quota
from wsgi.access.buckets import SLOTS_USED, UNITS_MAX, UNITS_PER_NS, UNITS_PER_SECOND, Bucket, Buckets, Clock
from wsgi.problems import Denied, spread

WINDOWS = (1, 10, 100, 1_000)
"""Seconds that ``w`` may say: the first in which a rate of at least 0.001 comes out whole, or at 100 and more."""
WINDOW_QUOTA_MIN = 100
"""From here on, rounding ``q`` down takes less than one percent."""
LEASE_UNITS = 5_000_000 * UNITS_PER_NS
"""Five milliseconds of a quota's rate, in units: what a worker charges ahead."""
LEASE_SHARE = 64
"""... at most this part of the burst, so that workers which hold some keep nearly nothing of it from the others."""
UNITS = {"requests": "requests", "records": "records", "bytes": "content-bytes"}
"""Kind -> quota unit of the draft."""


class _Gauge:
    """One quota of one key: its bucket and how it is named in a refusal."""

    __slots__ = ("bucket", "kind", "quota")

    def __init__(self, kind: str, quota: Quota, bucket: Bucket) -> None:
        self.kind, self.quota, self.bucket = kind, quota, bucket

    def policy(self) -> str:
        """Return the quota policy item (section 3.1)."""
        rate = self.quota.per_second
        window = next(
            (w for w in WINDOWS if rate * w >= WINDOW_QUOTA_MIN or round(rate * w, 6).is_integer()), WINDOWS[-1]
        )
        quota = max(int(round(rate * window, 6)), 1)
        return f'"{self.kind}";q={quota};w={window};qu="{UNITS[self.kind]}";inlet-burst={int(self.quota.burst)}'

    def wait(self, tokens: int, now: int) -> int:
        """Return the units until ``tokens`` pass; 0 or less if they pass now."""
        return min(self.bucket.cost(tokens), self.bucket.burst) - self.bucket.level(now)


class _Lease:
    """Tokens of one bucket that were charged and not used yet, in units; for one process.

    They are charged before they are used, so all workers together never admit more than the bucket gives. What a worker
    holds for later is a few milliseconds' worth, and at most LEASE_SHARE of the burst. ``nothing``: what is left where
    there is no such quota.
    """

    __slots__ = ("_bucket", "left", "most", "one")

    def __init__(self, bucket: Bucket | None, nothing: int = 0) -> None:
        self._bucket = bucket
        self.left = nothing if bucket is None else 0
        self.one = 0 if bucket is None else bucket.one
        most = 0 if bucket is None else min(LEASE_UNITS, bucket.burst // LEASE_SHARE)
        self.most = most if most > self.one else 0

    def take(self, words: memoryview, now: int) -> None:
        """Charge a lease, if so much is left."""
        bucket = self._bucket
        if bucket is not None and self.most and bucket.level(now) >= self.most:
            words[bucket.mine] -= self.most
            self.left = self.most

    def give_back(self, words: memoryview) -> None:
        """Give back what was not used: who is refused must not be so for want of it."""
        if self._bucket is not None and self.left > 0:
            words[self._bucket.mine] += self.left
            self.left = 0


class Meter:
    """What one key has used of its quotas. Every method but ``spent`` may raise Denied ``quota-exceeded``.

    PERF: ``admit_one`` takes about a microsecond with all three quotas and two workers.
    """

    def __init__(self, buckets: Buckets, gauges: dict[str, _Gauge]) -> None:
        self._buckets, self._words, self._clock = buckets, buckets.words, buckets.clock
        self._gauges = gauges
        found = {kind: gauge.bucket for kind, gauge in gauges.items()}
        self._requests, self._records, self._bytes = map(found.get, UNITS)
        self._leases = (_Lease(self._requests), _Lease(self._records), _Lease(self._bytes, nothing=1))
        self._byte_cost = 0.0 if self._bytes is None else self._bytes.per_token
        self._lock = threading.Lock()  # among the threads of one worker, while leases change
        self._policies = ", ".join(gauge.policy() for gauge in gauges.values())

    def admit(self, size: int) -> None:
        """Charge one request with a body of ``size`` bytes; 0 where that is not known yet, see ``body``.

        If it raises, nothing is charged.
        """
        cost = self._check(size)
        words = self._words
        if (bucket := self._requests) is not None:
            words[bucket.mine] -= bucket.one
        if size and (bucket := self._bytes) is not None:
            words[bucket.mine] -= cost

    def admit_one(self, size: int) -> None:
        """Do as ``admit``, and charge one record; if the request turns out to have others, call ``rest``.

        PERF: most requests have one record, and are done with then. Of a quota of many, a few milliseconds' worth is
        charged at once, and used up here (bench.options).
        """
        leases, cost = self._leases, int(size * self._byte_cost)
        requests, records, data = leases
        if requests.left >= requests.one and records.left >= records.one and data.left > cost:
            requests.left -= requests.one
            records.left -= records.one
            data.left -= cost
            return
        with self._lock:
            self._give_back()
            self.admit(size)
            if (bucket := self._records) is not None:
                self._words[bucket.mine] -= bucket.one
            now = self._clock() * UNITS_PER_NS
            for lease in leases:
                lease.take(self._words, now)

    def _give_back(self) -> None:
        for lease in self._leases:
            lease.give_back(self._words)

    def rest(self, count: int) -> None:
        """Charge the records of a request of ``count``, of which ``admit_one`` has charged one; none if it raises."""
        if (bucket := self._records) is not None:
            with self._lock:
                self._give_back()
            self._words[bucket.mine] += bucket.one
            self._charge(bucket, "records", count)

    def body(self, size: int) -> None:
        """Charge ``size`` bytes, also if it raises, of a body whose size was not known to ``admit``."""
        with self._lock:
            self._give_back()
        self._charge(self._bytes, "bytes", size, received=True)

    def spent(self, size: int) -> None:
        """Charge ``size`` bytes of such a body that was broken off, or is no good. Never raises."""
        with contextlib.suppress(Denied):
            self.body(size)

    def records(self, count: int) -> None:
        """Charge ``count`` records, or nothing if it raises."""
        self._charge(self._records, "records", count)

    def _check(self, size: int) -> int:
        """Return what the bytes cost. Raise Denied unless requests, records and bytes may all pass."""
        now = self._clock() * UNITS_PER_NS
        if self._words[SLOTS_USED] != self._buckets.slots:
            self._buckets.rebind()
        cost, short = 0, False
        # PERF: Bucket.level written out, three times: a call each would take a fifth of the whole.
        if (bucket := self._requests) is not None:
            level = sum(bucket.read(), now)
            if level > bucket.full:
                level = bucket.spill(now)
            short = level < bucket.one
        if (bucket := self._records) is not None:
            level = sum(bucket.read(), now)
            if level > bucket.full:
                level = bucket.spill(now)
            if level < bucket.one:
                short = True
        if (bucket := self._bytes) is not None:
            level = sum(bucket.read(), now)
            if level > bucket.full:
                level = bucket.spill(now)
            cost = int(size * bucket.per_token)
            if not 0 < cost < UNITS_MAX:
                cost = bucket.cost(size)  # At least one unit, so that a size of 0 is refused while nothing is left.
            if level < cost and level < bucket.burst:
                short = True
        if short:
            self._refuse(now, {"requests": 1, "records": 1, "bytes": size or 1})
        return cost

    def _charge(self, bucket: Bucket | None, kind: str, tokens: int, *, received: bool = False) -> None:
        """``received``: charge what is refused, too."""
        if bucket is None or tokens <= 0:
            return
        now = self._clock() * UNITS_PER_NS
        if self._words[SLOTS_USED] != self._buckets.slots:
            self._buckets.rebind()
        level = sum(bucket.read(), now)
        if level > bucket.full:
            level = bucket.spill(now)
        cost = int(tokens * bucket.per_token)
        if not 0 < cost < UNITS_MAX:
            cost = bucket.cost(tokens)
        if level < cost and level < bucket.burst:
            if received:  # A debt of more than UNITS_MAX would not fit a word.
                self._words[bucket.mine] -= min(cost, max(level + UNITS_MAX, 0))
            self._refuse(now, {kind: tokens})
        self._words[bucket.mine] -= cost

    def _refuse(self, now: int, needed: dict[str, int]) -> NoReturn:
        """Raise Denied for the quota that takes longest. ``needed``: kind -> tokens."""
        waits = [
            (gauge.wait(tokens, now), kind)
            for kind, tokens in needed.items()
            if (gauge := self._gauges.get(kind)) is not None
        ]
        units, kind = max(waits)
        gauge = self._gauges[kind]
        seconds = max(-(-units // UNITS_PER_SECOND), 1)
        left = max(int(gauge.bucket.level(now) / gauge.bucket.per_token), 0)
        retry = spread(seconds)
        quota = gauge.quota
        detail = (
            f"the key may send {_number(quota.per_second)} {kind} per second and {_number(quota.burst)} at once; "
            f"{left} are left, and this request needs {needed[kind]}; retry in {retry} s"
        )
        headers = [
            ("retry-after", str(retry)),
            ("ratelimit", f'"{kind}";r={left};t={seconds}'),
            ("ratelimit-policy", self._policies),
        ]
        raise Denied("quota-exceeded", detail, headers)


class Quotas:
    """The quotas of all keys, shared by all workers of a host. Make it before the fork.

    Where processes that share it never call ``start``, as under other servers than gunicorn, what they admit at the
    same moment is partly not counted.
    """

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self._buckets = Buckets(clock)

    def start(self, slot: int) -> None:
        """Count in this slot from now on. No two living workers may have the same one; a successor inherits it."""
        self._buckets.start(slot)

    def meter(self, key: Key) -> Meter | None:
        """Return the meter of a key; None without quotas. An unchanged quota keeps its level, a changed one is full."""
        gauges: dict[str, _Gauge] = {}
        for kind, given in key.quotas.given():
            # TOML has 100 and 100.0, which are the same quota.
            quota = Quota(float(given.per_second), float(given.burst))
            bucket = self._buckets.bucket(f"{key.id} {kind}", quota.per_second, quota.burst)
            gauges[kind] = _Gauge(kind, quota, bucket)
        return Meter(self._buckets, gauges) if gauges else None


def _number(value: float) -> str:
    """Return a number without needless digits or an exponent."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.6f}".rstrip("0")
