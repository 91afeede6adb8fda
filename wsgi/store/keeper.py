"""The keeper's thread: trims the stream to INLET_RETENTION from within a worker, one worker at a time.

What lives here: the thread, its log lines and metrics. What must not: what may be trimmed, and the lease that makes one
keeper of many workers and hosts (``inlet.stream.retention``, ``inlet.stream.keeper``); requests, which never wait for
it.
"""

from __future__ import annotations

import logging
import threading
import time

from inlet.stream.client import StoreClient
from inlet.stream.errors import InletError
from inlet.stream.keeper import KEEP_EVERY_SECONDS, Keeper, Kept
from inlet.stream.retention import Hold, Retention
from wsgi import metrics

log = logging.getLogger("inlet")


def start(url: str, stream: str, keep: Retention, every_seconds: float = KEEP_EVERY_SECONDS) -> threading.Thread:
    """Keep the stream within its bounds as long as this process lives; call it after the fork."""
    keeper = Keeper(StoreClient(url), [stream], keep, publish=True)
    thread = threading.Thread(target=_live, args=(keeper, every_seconds), name="inlet-keeper", daemon=True)
    thread.start()
    return thread


def _live(keeper: Keeper, every_seconds: float) -> None:
    reports = Reports()
    while True:
        try:
            for row in keeper.tick() or ():
                reports.kept(row)
            reports.failed(None)
        except InletError as error:
            reports.failed(error.detail)
        except Exception:
            log.exception("keeper: a bug")
        time.sleep(every_seconds)


class Reports:
    """Counts what the keeper did, and logs what it cannot do: once, when that changes."""

    def __init__(self) -> None:
        self._failing = False
        self._held: Hold | None = None

    def failed(self, detail: str | None) -> None:
        """Report why a look failed; None: it did not."""
        if detail is not None and not self._failing:
            log.error("keeper: cannot trim: %s", detail)
        self._failing = detail is not None

    def kept(self, row: Kept) -> None:
        """Report one look at one stream."""
        metrics.ENTRIES_TRIMMED.inc(row.trimmed)
        if row.dropped:
            metrics.ENTRIES_DROPPED.inc(row.dropped)
            log.warning(
                "keeper: dropped %d entries that some group had not acked (INLET_RETENTION_UNREAD)", row.dropped
            )
        held = row.held if row.full or row.held.kind == "missing" else None
        if held is not None and held != self._held:
            what = "unread entries fill INLET_RETENTION" if row.full else "nothing counts as acked"
            log.warning("keeper: %s; %s", what, held.words())
        elif held is None and self._held is not None:
            log.info("keeper: trims again")
        self._held = held
