"""The keeper's thread: trims the streams to INLET_RETENTION from within a worker, one worker at a time.

What lives here: the thread, its log lines and metrics. What must not: what may be trimmed, and the lease that makes one
keeper of many workers and hosts (``inlet.stream.retention``, ``inlet.stream.keeper``); requests, which never wait for
it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from inlet.stream.client import StoreClient
from inlet.stream.errors import InletError
from inlet.stream.keeper import KEEP_EVERY_SECONDS, Keeper, Kept
from inlet.stream.retention import Hold, Retention
from wsgi import metrics

log = logging.getLogger("inlet")


LINES_MAX = 10
"""Lines that one look logs of the streams: a thousand may change at once."""

Streams = Callable[[], Sequence[str]]
"""Returns every stream to trim, the default one first; read anew for each look."""


def start(url: str, streams: Streams, keep: Retention, every_seconds: float = KEEP_EVERY_SECONDS) -> threading.Thread:
    """Keep the streams within their bounds as long as this process lives; call it after the fork."""
    keeper = Keeper(StoreClient(url), streams, keep, publish=True)
    thread = threading.Thread(target=_live, args=(keeper, streams, every_seconds), name="inlet-keeper", daemon=True)
    thread.start()
    return thread


def _live(keeper: Keeper, streams: Streams, every_seconds: float) -> None:
    reports = Reports()
    while True:
        try:
            reports.looked(keeper.tick() or (), keeper.refused, streams())
        except InletError as error:
            reports.failed(error.detail)
        except Exception:
            log.exception("keeper: a bug")
        time.sleep(every_seconds)


class Reports:
    """Counts what the keeper did, and logs what it cannot do: once, when that changes, and by stream."""

    def __init__(self) -> None:
        self._failing = False
        self._held: dict[str, Hold] = {}
        self._refused: dict[str, str] = {}  # by stream, what the store said

    def failed(self, detail: str | None) -> None:
        """Report why a look failed; None: it did not."""
        if detail is not None and not self._failing:
            log.error("keeper: cannot trim: %s", detail)
        self._failing = detail is not None

    def looked(self, kept: Iterable[Kept], refused: Mapping[str, InletError], streams: Collection[str]) -> None:
        """Report one look: what was kept of some of ``streams``, and which of them the store refused to trim."""
        self.failed(None)
        alone = len(streams) == 1
        lines: list[tuple[int, str]] = []
        for row in kept:
            lines += self._kept(row, "keeper: " if alone else _prefix(row.key))
        for key, error in refused.items():
            if self._refused.get(key) != error.detail:
                self._refused[key] = error.detail
                lines.append((logging.ERROR, f"{_prefix(key)}cannot trim: {error.detail}"))
        for known in (self._held, self._refused):
            for key in known.keys() - set(streams):
                del known[key]
        for level, line in lines[:LINES_MAX]:
            log.log(level, "%s", line)
        if len(lines) > LINES_MAX:
            log.warning("keeper: %d more streams changed", len(lines) - LINES_MAX)

    def _kept(self, row: Kept, prefix: str) -> Iterator[tuple[int, str]]:
        """Count one look at one stream; yield what to log of it, by level."""
        metrics.ENTRIES_TRIMMED.inc(row.trimmed)
        if row.dropped:
            metrics.ENTRIES_DROPPED.inc(row.dropped)
            unread = "entries that some group had not acked (INLET_RETENTION_UNREAD)"
            yield logging.WARNING, f"{prefix}dropped {row.dropped} {unread}"
        held = row.held if row.full or row.held.kind == "missing" else None
        before = self._held.pop(row.key, None)
        recovered = self._refused.pop(row.key, None) is not None
        if held is not None:
            self._held[row.key] = held
            if held != before:
                what = "unread entries fill INLET_RETENTION" if row.full else "nothing counts as acked"
                yield logging.WARNING, f"{prefix}{what}; {held.words()}"
        elif before is not None or recovered:
            yield logging.INFO, f"{prefix}trims again"


def _prefix(key: str) -> str:
    return f"keeper: stream {key!a}: "
