"""The stall rows: what is done to a running service in each, what is measured, and what is wanted.

What lives here: one function a row, and the table. What must not: two trees, reports (``bench.stalls``), how an
offender sends (``bench.offenders``).

Every row runs on a fresh service of two workers and a fresh store. Four ordinary clients, two on each worker, send all
the while; what they see counts from the offender's first byte to its end, with all that was due by then.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from bench import offenders, slowstore
from bench.offenders import MARKED_SERVICE, PACE_SECONDS, Seen, marked, post
from bench.ordinary import Ordinary, Sample, figures
from bench.peers import PROCESSES, Peer, Running
from bench.store import PAGE_ENTRIES, STREAM, BenchStore
from bench.workers import HEALTH, forget_peaks, memory, spread, workers

CLIENTS = 4
"""Ordinary ones; and clients of an offender that takes a few."""
LEAD_SECONDS = 1.0
"""Of ordinary requests before the offender begins: connections, caches, the watcher's first looks."""
QUIET_SECONDS = 2.0
"""After an offender has left, before its memory is read again."""
SLOW_SECONDS = 0.2
"""Of a replica's acknowledgement, and of an fsync."""
STOPPED_SHARE = 2
"""The store is stopped for so many times the seconds of a row."""
BAD_BODIES, FULL_BULKS, CHUNK_CLIENTS = 100, 40, 60
PIPELINED = 40_000
PIPELINE_SECONDS_MAX = 10.0
"""For the pipelined requests; what is not answered by then does not count."""
DEPTH = 512
RATE_SHARE = 0.95
"""Of the rate at DEPTH, that the deep pipeline must reach: two runs of the same differ by a few percent."""
MIB = 2**20
UNREAD_BYTES_MAX = 8 * MIB
"""By how much a worker may grow for a client that never reads: 64 KiB, one read of 256 KB, and what malloc(3) keeps."""
BACK_BYTES_MAX = 8 * MIB
"""By how much a worker may be larger afterwards: "back" is not to the byte."""
ORDINARY = post(marked(service="ordinary"))
Result = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """What a row runs on."""

    store: BenchStore
    port: int
    workers: list[int]
    seconds: float

    def connections(self, count: int) -> list[socket.socket]:
        """Return connections that are spread evenly over the workers."""
        return spread(self.workers, self.port, count)

    def ordinary(self, request: bytes = ORDINARY) -> Ordinary:
        """Return the ordinary clients, not yet begun."""
        return Ordinary(self.connections(CLIENTS), request)

    def marked_records(self) -> int:
        """Count the records in the stream that an offender sent."""
        mark, start, total = f'"{MARKED_SERVICE}"'.encode(), "-", 0
        client: Any = self.store.client
        while page := client.xrange(STREAM, start, "+", count=PAGE_ENTRIES):
            total += sum(fields[b"r"].count(mark) for _, fields in page)
            start = f"({page[-1][0].decode()}"
        return total


def beside(stage: Stage, work: Callable[[], Seen | None], request: bytes = ORDINARY) -> tuple[Result, Seen | None]:
    """Run ``work`` beside the ordinary clients; return what these saw meanwhile, and what ``work`` returned."""
    with stage.ordinary(request) as clients:
        time.sleep(LEAD_SECONDS)
        began = time.monotonic()
        seen = work()
        ended = time.monotonic()
        samples = clients.stop()
    result: Result = {"ordinary": asdict(figures(samples, began, ended))}
    if seen is not None:
        result["offender"] = summed(seen)
    return result, seen


def summed(seen: Seen) -> Result:
    """Return what an offender saw, for the JSON."""
    return {
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "answered": seen.answered,
        "per_second": seen.per_second,
        "median_ms": median(seen.seconds) * 1000 if seen.seconds else None,
        "max_ms": max(seen.seconds) * 1000 if seen.seconds else None,
        "sent_bytes": seen.sent_bytes,
        "took_seconds": seen.took,
    }


def control(stage: Stage) -> Result:
    """Nobody but the ordinary clients."""
    return beside(stage, lambda: time.sleep(stage.seconds))[0]


def level(stage: Stage, name: str) -> Result:
    """Four clients that ask for a level, and how many of their records are in the stream."""
    clients = stage.connections(CLIENTS)
    request = post(marked(), Inlet_Durability=name)
    result, _ = beside(stage, lambda: offenders.repeat(clients, request, stage.seconds, PACE_SECONDS))
    return {**result, "stored": stage.marked_records()}


def replicated(stage: Stage) -> Result:
    """See ``level``."""
    return level(stage, "replicated")


def synced(stage: Stage) -> Result:
    """The same where each fsync is slow, with the time that the store alone takes, and /healthz."""
    alone = slowstore.append_seconds(stage.store, stage.seconds)
    without = control(stage)
    with stage.ordinary(HEALTH) as health:
        time.sleep(LEAD_SECONDS)
        result = level(stage, "synced")
        samples = health.stop()
    return {
        **result,
        "without": without["ordinary"],
        "alone": asdict(figures([Sample(0.0, seconds, 200) for seconds in alone], 0.0, 0.0)),
        "healthz": asdict(figures(samples)),
    }


def store_stopped(stage: Stage) -> Result:
    """The store is stopped for a while; what POST and /healthz see before, meanwhile and afterwards."""
    with stage.ordinary() as posts, stage.ordinary(HEALTH) as health:
        time.sleep(LEAD_SECONDS)
        marks = [time.monotonic()]
        time.sleep(stage.seconds / 2)
        marks.append(time.monotonic())
        with slowstore.stopped(stage.store):
            time.sleep(stage.seconds * STOPPED_SHARE)
        marks.append(time.monotonic())
        time.sleep(stage.seconds / 2)
        marks.append(time.monotonic())
        samples, asked = posts.stop(), health.stop()
    spans = {"before": marks[:2], "stopped": marks[1:3], "after": marks[2:]}
    return {
        "ordinary": asdict(figures(samples, marks[1], marks[2])),
        "posts": {name: asdict(figures(samples, *span)) for name, span in spans.items()},
        "healthz": asdict(figures(asked, marks[0], marks[-1])),
        "healthz_spans": {name: asdict(figures(asked, *span)) for name, span in spans.items()},
    }


def remembering(stage: Stage, connections: list[socket.socket], work: Callable[[], Seen | None]) -> Result:
    """Run ``work`` as ``beside`` does, with the workers' memory before, at its peak, and once the offender has left."""
    forget_peaks(stage.workers)
    before = memory(stage.workers)
    result, _ = beside(stage, work)
    for connection in connections:
        connection.close()
    peaks = memory(stage.workers)
    time.sleep(QUIET_SECONDS)
    after = memory(stage.workers)
    each = [
        {"before_bytes": first.now, "peak_bytes": peaks[pid].peak, "after_bytes": after[pid].now}
        for pid, first in before.items()
        if pid in peaks and pid in after
    ]
    if len(each) < len(before):  # killed by the master, whose timeout it did not keep
        return {**result, "workers": each, "died": len(before) - len(each), "growth_bytes": 0, "kept_bytes": 0}
    return {
        **result,
        "workers": each,
        "died": 0,
        "growth_bytes": max(one["peak_bytes"] - one["before_bytes"] for one in each),
        "kept_bytes": max(one["after_bytes"] - one["before_bytes"] for one in each),
    }


def bad_gzip(stage: Stage, bodies: int = BAD_BODIES) -> Result:
    """A hundred small gzip bodies of 49,999 bad lines, at once."""
    connections, request = stage.connections(bodies), offenders.bad_lines()
    return remembering(stage, connections, lambda: offenders.at_once(connections, request))


def full_gzip(stage: Stage, bulks: int = FULL_BULKS) -> Result:
    """Forty gzip bulks of 50,000 good records, at once."""
    connections, request = stage.connections(bulks), offenders.full_bulk()
    return remembering(stage, connections, lambda: offenders.at_once(connections, request))


def big_bulks(stage: Stage) -> Result:
    """One client that sends bulks of 5 MB without pause."""
    connections, request = stage.connections(1), offenders.big_bulk()
    return remembering(stage, connections, lambda: offenders.repeat(connections, request, stage.seconds))


def tiny_chunks(stage: Stage) -> Result:
    """Sixty connections that send bodies of one-byte chunks."""
    connections = stage.connections(CHUNK_CLIENTS)
    return remembering(stage, connections, lambda: offenders.tiny_chunks(connections, stage.seconds))


def unread_pipeline(stage: Stage) -> Result:
    """One connection that sends GET without end and reads nothing."""
    connections = stage.connections(1)
    return remembering(stage, connections, lambda: offenders.unread_pipeline(connections, stage.seconds))


def deep_pipeline(stage: Stage) -> Result:
    """One connection that sends 40,000 POSTs (chunked bodies) ahead, against the same 512 deep."""

    def at(depth: int) -> tuple[Result, Seen | None]:
        (connection,) = stage.connections(1)
        request = offenders.chunked(marked())
        return beside(stage, lambda: offenders.pipeline(connection, request, PIPELINED, depth, PIPELINE_SECONDS_MAX))

    shallow, usual = at(DEPTH)
    result, deep = at(PIPELINED)
    assert usual is not None
    assert deep is not None
    share = deep.per_second / usual.per_second if usual.answered else 0.0
    return {**result, "shallow": shallow["offender"], "rate_share": share}


def as_it_is(store: BenchStore) -> contextlib.AbstractContextManager[object]:
    """Leave the store alone."""
    return contextlib.nullcontext()


def with_replica(store: BenchStore, seconds: float = SLOW_SECONDS) -> contextlib.AbstractContextManager[object]:
    """Give the store a replica that is ``seconds`` behind."""
    return slowstore.replica_behind(store, seconds)


def with_slow_fsync(store: BenchStore, seconds: float = SLOW_SECONDS) -> contextlib.AbstractContextManager[object]:
    """Make each fsync of the store take ``seconds``."""
    return slowstore.slow_fsync(store, seconds)


@dataclass(frozen=True)
class Row:
    """One row. ``wanted`` is the text of ``met``. ``store``: what is done to the store before the service starts."""

    name: str
    offender: str
    wanted: str
    run: Callable[[Stage], Result]
    met: Callable[[Result], bool]
    store: Callable[[BenchStore], contextlib.AbstractContextManager[object]] = as_it_is
    env: dict[str, str] = field(default_factory=dict)


def p99(result: Result) -> float:
    """Return the p99 of the ordinary clients, in milliseconds."""
    return float(result["ordinary"]["p99_ms"])


def measure(row: Row, peer: Peer, seconds: float, processes: int = PROCESSES) -> Result:
    """Run a row on a fresh service and a fresh store; a row that this machine cannot run says why as ``impossible``.

    ``processes``: workers beside the process that is started; 0 where that one serves.
    """
    peer = replace(peer, env={**peer.env, **row.env})
    probe = ("POST", "/ingest", {"Content-Type": "application/json"}, marked(service="ordinary"))
    try:
        with BenchStore() as store, row.store(store), Running(peer, store.socket, probe) as running:
            pids = workers(running.process.pid, processes)
            return row.run(Stage(store, running.port, pids, seconds))
    except slowstore.NotPossible as reason:
        return {"impossible": str(reason)}


def _only_202(result: Result) -> bool:
    return set(result["ordinary"]["statuses"]) == {"202"}


ROWS = {
    row.name: row
    for row in (
        Row("control", "none (control)", "-", control, _only_202),
        Row(
            "replicated_none", f"{CLIENTS} clients asking `replicated`, no replica",
            "p99 <= 10 ms; refused before storing", replicated, lambda r: p99(r) <= 10 and r["stored"] == 0,
        ),
        Row(
            "replicated_slow", f"{CLIENTS} clients asking `replicated`, replica {SLOW_SECONDS * 1000:.0f} ms behind",
            "p99 <= 10 ms", replicated,
            lambda r: p99(r) <= 10 and set(r["offender"]["statuses"]) == {"202"}, with_replica,
        ),
        Row(
            "synced_received",
            f"{CLIENTS} clients asking `synced`, fsync takes {SLOW_SECONDS * 1000:.0f} ms; the others at `received`",
            "p99 <= 10 ms", synced, lambda r: p99(r) <= 10 and r["healthz"]["p99_ms"] <= 10, with_slow_fsync,
            {"INLET_DURABILITY": "received"},
        ),
        Row(
            "synced_stored", "the same; the others at `stored`",
            "`/healthz` p99 <= 10 ms (p99 of the others: see the text)", synced,
            lambda r: bool(r["healthz"]["p99_ms"] <= 10), with_slow_fsync,
        ),
        Row(
            "store_stopped", "store stopped (SIGSTOP)", "`/healthz` within 10 ms throughout", store_stopped,
            lambda r: bool(r["healthz"]["max_ms"] <= 10),
        ),
        Row(
            "bad_gzip", f"{BAD_BODIES} gzip bodies of {offenders.BAD_LINES:,} bad lines at once",
            "p99 <= 20 ms, +100 MiB a worker at most", bad_gzip,
            lambda r: p99(r) <= 20 and r["growth_bytes"] <= 100 * MIB and not r["died"],
        ),
        Row(
            "full_gzip", f"{FULL_BULKS} bulks of {offenders.FULL_BULK_RECORDS:,} records as gzip at once",
            "p99 <= 20 ms, every bulk accepted", full_gzip,
            lambda r: p99(r) <= 20 and r["offender"]["statuses"] == {"202": FULL_BULKS},
        ),
        Row(
            "mixed", "one client sending 5 MB bulks without pause", "p99 no worse than go_goredis's", big_bulks,
            lambda r: p99(r) <= float(r.get("go_p99_ms", "nan")),
        ),
        Row(
            "tiny_chunks", f"{CHUNK_CLIENTS} connections sending chunks of one byte", "p99 <= 20 ms", tiny_chunks,
            lambda r: p99(r) <= 20 and not r["died"],
        ),
        Row(
            "unread_pipeline", "one connection pipelining GET without end, never reading",
            "64 KiB and one read; p99 <= 10 ms; memory back after it", unread_pipeline,
            lambda r: p99(r) <= 10 and r["growth_bytes"] <= UNREAD_BYTES_MAX and r["kept_bytes"] <= BACK_BYTES_MAX
            and not r["died"],
        ),
        Row(
            "deep_pipeline", f"POST pipelined {PIPELINED:,} deep", f"at least the rate at depth {DEPTH}",
            deep_pipeline, lambda r: bool(r["rate_share"] >= RATE_SHARE),
        ),
    )
}  # fmt: skip
