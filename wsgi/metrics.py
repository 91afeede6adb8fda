"""Every metric: its name, help and unit; and their exposition over all workers.

What lives here: the definitions, and what makes prometheus_client's multiprocess mode bounded. What must not: anything
that decides when a metric moves.

In multiprocess mode (``PROMETHEUS_MULTIPROC_DIR`` is set before this module is imported; gunicorn.conf.py does that)
values live in one file per *slot* and metric type. A slot is a small number that a worker takes over from its
predecessor, so recycled workers add no files and no counter ever falls.

Units last, base units only (seconds, bytes), as Prometheus names them. Values are added up per commit, not per record.
"""

from __future__ import annotations

import os

import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the exposition (Prometheus text format 0.0.4)."""

_slot = "master"


def take_slot(slot: int) -> None:
    """Make this process write its values under ``slot``; call it once, right after the fork."""
    global _slot
    _slot = str(slot)


_directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _directory:
    # The library's seam for naming the files by something other than the pid; must come before the first metric.
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # type: ignore[no-untyped-call]  # has no types
        process_identifier=lambda: _slot
    )

_registry = CollectorRegistry()

REQUESTS = Counter(
    "inlet_requests",
    "Requests for records answered, and requests refused before a receiver saw them (receiver none).",
    ["receiver", "status", "reason"],
    registry=_registry,
)
RECORDS_STORED = Counter("inlet_records_stored", "Records stored in the stream.", registry=_registry)
RECORDS_REJECTED = Counter(
    "inlet_records_rejected", "Records reported to the client as rejected, by reason.", ["reason"], registry=_registry
)
RECORDS_DROPPED = Counter(
    "inlet_records_dropped",
    "Records answered 202 at the level received that the store then refused, or may have.",
    registry=_registry,
)
ENTRIES_TRIMMED = Counter("inlet_entries_trimmed", "Entries trimmed that all groups had acked.", registry=_registry)
ENTRIES_DROPPED = Counter(
    "inlet_entries_dropped", "Entries trimmed that some group had not acked (retention).", registry=_registry
)
UNKNOWN_MEMBERS = Counter(
    "inlet_unknown_members", "Members of accepted records that the contract does not know.", registry=_registry
)
COMMITS_FAILED = Counter("inlet_commits_failed", "Commits that failed, by reason.", ["reason"], registry=_registry)
COMMIT_SECONDS = Histogram(
    "inlet_commit_seconds",
    "Time from the first byte of a commit to its last reply, without connecting.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=_registry,
)
CIRCUIT_OPEN = Gauge(
    "inlet_circuit_open",
    "Workers that refuse at once because a commit failed and no probe has succeeded since.",
    multiprocess_mode="sum",
    registry=_registry,
)


def exposition() -> bytes:
    """Every metric, summed over all workers, in Prometheus' text format."""
    if _directory is None:
        return generate_latest(_registry)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=_directory)  # type: ignore[no-untyped-call]  # has no types
    return generate_latest(registry)
