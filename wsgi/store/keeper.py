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
from inlet.stream.retention import Retention
from wsgi import metrics

log = logging.getLogger("inlet")


def start(url: str, stream: str, keep: Retention, every_seconds: float = KEEP_EVERY_SECONDS) -> threading.Thread:
    """Keep the stream within its bounds as long as this process lives; call it after the fork."""
    keeper = Keeper(StoreClient(url), [stream], keep, publish=True)
    thread = threading.Thread(target=_live, args=(keeper, every_seconds), name="inlet-keeper", daemon=True)
    thread.start()
    return thread


def _live(keeper: Keeper, every_seconds: float) -> None:
    failing = False
    while True:
        try:
            for row in keeper.tick() or ():
                _report(row)
            failing = False
        except InletError as error:
            if not failing:
                log.error("keeper: cannot trim: %s", error.detail)
            failing = True
        except Exception:
            log.exception("keeper: a bug")
        time.sleep(every_seconds)


def _report(row: Kept) -> None:
    """Count and log what one look trimmed."""
    metrics.ENTRIES_TRIMMED.inc(row.trimmed)
    if row.dropped:
        metrics.ENTRIES_DROPPED.inc(row.dropped)
        log.warning("keeper: dropped %d entries that some group had not acked (INLET_RETENTION_UNREAD)", row.dropped)
