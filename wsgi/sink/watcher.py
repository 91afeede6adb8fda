"""The watcher: the thread that looks at the store, once a second, from the worker's start.

What lives here: the thread, when it looks, and readiness, which is its last finding. What must not: commands
(``probe``), what a sample means (``backpressure``), what is refused (``circuit``).

Each look first has disk space set aside (an embedded store's), then takes a sample, finds which levels cannot be
reached, and checks that an XADD would succeed at the default level. While the circuit is closed, a look changes only
readiness, backpressure, what is out of reach and which destinations are barred; while it is open, the first look
without a finding closes it.

Where there is one stream, what is wrong with it is wrong with everything. Where there are several, it bars that stream.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from wsgi.problems import SinkError
from wsgi.sink.backpressure import Backpressure
from wsgi.sink.circuit import Circuit, fresh
from wsgi.sink.probe import Probe, Sample, fault_of
from wsgi.sink.waits import at_default

log = logging.getLogger("inlet")

PROBE_SECONDS = (0.05, 0.5)
"""Pause before the first look at a store that failed, and the longest, to which it doubles: recovery in a second."""
SAMPLE_SECONDS = 1.0
"""Pause between two looks at a store that works."""
LOOK_SECONDS_MAX = 30.0
"""Age of the last look from which readiness no longer relies on it. A look waits up to ten times, so with
the default deadlines (1 s to connect, 2 s a reply) even one that only just succeeds takes less."""
DISK_RETRY_AFTER_SECONDS = 60
"""Retry-After while the disk is full: somebody has to free space."""


class Look(NamedTuple):
    """A finished look: when, in seconds of ``time.monotonic``, and why records could not be stored, if so."""

    at: float
    fault: SinkError | None
    streams: tuple[bytes, ...] = ()
    """The destinations that may be refused alone, the default one first; empty where there is but one."""


class Watcher:
    """``level``: the default (``wsgi.sink.durability``). Build it before the fork; ``start`` it in the worker.

    ``refill``: sets disk space aside for the store, and returns why it cannot; records are refused then. None: the
    store's disk is out of reach.
    """

    def __init__(
        self,
        probe: Probe,
        circuit: Circuit,
        backpressure: Backpressure,
        *,
        level: int,
        look_seconds_max: float = LOOK_SECONDS_MAX,
        refill: Callable[[], str | None] | None = None,
    ) -> None:
        self._probe, self._circuit, self._backpressure = probe, circuit, backpressure
        self._level = level
        self._look_seconds_max = look_seconds_max
        self._refill = refill
        self._after: list[Callable[[], None]] = []
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start with no thread, no look and unheld locks: at construction, and in a forked child."""
        self._pid = 0  # of the process in which the thread runs
        self._start_lock = threading.Lock()
        self._look_lock = threading.Lock()
        self._last: Look | None = None
        self._probe.forget()

    def after_look(self, call: Callable[[], None]) -> None:
        """Have ``call`` made after each look."""
        self._after.append(call)

    def start(self) -> None:
        """Start the thread in this process, unless it runs. Threads do not survive a fork: call it after that."""
        if self._pid == os.getpid():
            return
        with self._start_lock:
            if self._pid != os.getpid():
                threading.Thread(target=self._live, name="inlet-watcher", daemon=True).start()
                self._pid = os.getpid()

    def readiness(self) -> SinkError | None:
        """Return why records cannot be stored now, from the last look and the circuit, or None.

        None while at least one stream can take records (``refused_streams`` has the others); where none can, the
        default stream's reason. It neither blocks nor talks to the store.
        """
        last, state = self._last, self._circuit.state
        refusal = state.refusal
        if refusal is None and last is not None and last.streams and all(key in state.barred for key in last.streams):
            refusal = state.barred[last.streams[0]]
        self.start()
        age = 0.0 if last is None else time.monotonic() - last.at
        if last is not None and age <= self._look_seconds_max:
            refusal = last.fault or refusal
        elif refusal is None and last is None:
            return SinkError("sink-unavailable", "the store has not been checked yet")
        elif refusal is None:
            return SinkError("sink-unavailable", f"the last check of the store ended {age:.0f} seconds ago")
        return None if refusal is None else fresh(refusal)

    def refused_streams(self) -> dict[str, SinkError]:
        """Return the streams that are refused alone, and why; empty where there is but one stream."""
        return {key.decode(): fresh(error) for key, error in self._circuit.state.barred.items()}

    def look(self) -> None:
        """Look at the store now, in this thread: the thread's whole work, once."""
        with self._look_lock:
            self._last = self._look_once()
        for call in self._after:
            call()

    def _look_once(self) -> Look:
        seen = self._circuit.state
        # First: it must not wait for a store that is slow to answer.
        no_space = self._refill and self._refill()
        full = SinkError("store-full", no_space, DISK_RETRY_AFTER_SECONDS) if no_space else None
        if seen.failing is not None:
            self._probe.doubt()
        elif seen.barred:
            self._probe.doubt(seen.barred)
        sample = self._probe.sample(self._level)
        if isinstance(sample, SinkError):
            if seen.open:
                self._circuit.fail(sample)
            return Look(time.monotonic(), sample)
        unreachable = dict(sample.unreachable)
        found = unreachable.pop(self._level, None)
        refusal = None if found is None else at_default(found)
        several = len(sample.streams) > 1
        own = None if several else next((stream.fault for stream in sample.streams.values()), None)
        fault = refusal or sample.fault or own or self._probe.check(self._level)
        streams: dict[bytes, SinkError | None] = {}
        if fault is not None and seen.open:
            self._circuit.fail(fault)
        else:
            pressure, pressures = self._judge(sample)
            if several:
                streams = {key: stream.fault or pressures[key] for key, stream in sample.streams.items()}
            else:
                pressure = pressure or next(iter(pressures.values()), None)
            self._circuit.look(seen, refusal or full or pressure, unreachable, streams)
            fault = fault or fault_of(sample)
        return Look(time.monotonic(), fault, tuple(streams))

    def _judge(self, sample: Sample) -> tuple[SinkError | None, dict[bytes, SinkError | None]]:
        """Return what backpressure has against all records, and by stream against those that go there."""
        now, judge = time.monotonic(), self._backpressure.judge_stream
        pressure = self._backpressure.judge(now, sample)
        pressures = {key: judge(now, key, stream) for key, stream in sample.streams.items()}
        self._backpressure.forget_others(pressures)
        return pressure, pressures

    def _live(self) -> None:
        """The thread's life: look at once, then each second; more often while the circuit is open."""
        pause, longest = PROBE_SECONDS
        while True:
            try:
                self.look()
            except Exception:
                log.exception("sink: a bug in the watcher")
            if self._circuit.state.open:
                time.sleep(pause)
                pause = min(pause * 2, longest)
            else:
                pause = PROBE_SECONDS[0]
                if self._circuit.opened.wait(SAMPLE_SECONDS):
                    time.sleep(pause)
