"""The supervisor: keeps the embedded store, and the process that fsyncs its files, running after their first start.

What lives here: when to start them again, and one log line for each change of the store (``syncing`` logs its own).
What must not: how that is done, who calls ``tick`` (gunicorn.conf.py), anything that waits: its caller watches workers.
"""

from __future__ import annotations

import logging
import math

from wsgi.store import aof, logfile
from wsgi.store.embedded import EmbeddedStore
from wsgi.store.errors import StoreError

log = logging.getLogger("inlet")

PAUSE_SECONDS = (0.05, 30.0)
"""Pause before the second start in a row, and the longest, to which it doubles: a store that cannot start is tried
twice a minute, so it serves soon after its operator has acted. The first start comes at once."""
STEADY_SECONDS = 10.0
"""A process that has lasted this long is started again at once."""


class Pause:
    """The growing pause before the next start. Times are seconds of ``time.monotonic``."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began = self._next = -math.inf

    def begin(self, now: float) -> None:
        """Note a start."""
        self._began = now

    def end(self, now: float) -> None:
        """Note that what was started has ended, or was not to be started at all."""
        shortest, longest = PAUSE_SECONDS
        lasted = now - self._began >= STEADY_SECONDS
        self._seconds = 0.0 if lasted else min(max(shortest, 2 * self._seconds), longest)
        self._next = now + self._seconds

    def is_over(self, now: float) -> bool:
        """Tell whether the next start is due."""
        return now >= self._next


class Supervisor:
    """Of a store that was started. Call ``tick`` about once a second, and when a child has ended."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store
        self._pause, self._syncer_pause = Pause(), Pause()
        self._runs = self._syncer_runs = True
        self._loads = False  # started again, and not ready yet
        self._ending = False  # by this supervisor, which has said why
        self._reported = ""

    def tick(self, now: float) -> None:
        """Start what has ended, if it is time. ``now``: seconds of ``time.monotonic``."""
        self._keep_store(now)
        self._keep_syncer(now)

    def _keep_store(self, now: float) -> None:
        if self._store.poll() is None:
            if self._ending:
                return
            if self._store.has_lost_socket():
                self._end_unreachable()
            elif not self._loads:
                logfile.rotate(self._store.log_path)
            elif self._store.is_ready():
                self._loads, self._reported = False, ""
                log.warning("store: it was restarted, and answers again")
                self._store.report_cuts()
            return
        if self._runs:
            self._runs = False
            self._pause.end(now)
            if self._ending:
                self._ending = False
            elif self._loads:
                self._report_failure(f"it {self._store.ending()}")
            else:
                self._report(logging.ERROR, f"it {self._store.ending()}; restarting it")
        if self._pause.is_over(now):
            self._pause.begin(now)
            self._start(now)

    def _end_unreachable(self) -> None:
        """End a store whose socket was removed; unless more was, and what it has is in its memory only."""
        path = self._store.socket_path
        if gone := aof.missing(self._store.data_dir):
            self._report(
                logging.CRITICAL,
                f"{path} and {', '.join(gone)} were removed, so its records are only in its memory, and nobody can "
                "reach it; while it runs, a removed file can still be copied from /proc/PID/fd of it",
            )
        else:
            self._report(logging.ERROR, f"{path} was removed, so nobody can reach it; restarting it")
            self._ending = True
            self._store.terminate()

    def _start(self, now: float) -> None:
        try:
            self._runs = self._loads = self._store.restart()
        except StoreError as error:
            self._pause.end(now)
            self._report_failure(error.detail)
        else:
            if not self._runs:
                self._report(logging.WARNING, "waiting for a process that it has forked, and that still uses its files")

    def _report_failure(self, why: str) -> None:
        tried = f"trying again, every {PAUSE_SECONDS[1]:.0f} s in the end; its log is {self._store.log_path}"
        self._report(logging.CRITICAL, f"it cannot start: {why}; {tried}")

    def _report(self, level: int, words: str) -> None:
        """Log it, unless the last line said the same."""
        if words != self._reported:
            log.log(level, "store: %s", words)
        self._reported = words

    def _keep_syncer(self, now: float) -> None:
        syncer = self._store.syncer
        if syncer is None or syncer.poll() is None:
            return
        if self._syncer_runs:
            self._syncer_runs = False
            self._syncer_pause.end(now)
        if self._syncer_pause.is_over(now):
            self._syncer_pause.begin(now)
            try:
                syncer.start()
                self._syncer_runs = True
            except StoreError:  # Reported by ``poll``: its files are not fsynced.
                self._syncer_pause.end(now)
