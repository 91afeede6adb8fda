"""Inlet's memory over a million varied requests, one in ten refused: PSS of master and workers, and its slope.

What lives here: one long run of Inlet as people start it (2 workers, embedded store), read between steps of load. What
must not: peers, what is refused (``bench.refused``). The embedded store is
read apart. Every byte counts: the master is in the sum, shared pages are shared out (PSS).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import machine, picture, procs, refused
from bench.load import Outcome, saturate, single
from bench.peers import PEERS, PROCESSES, ROOT, START_SECONDS_MAX, STOP_SECONDS_MAX, ask, port_of, reserve_port

REQUESTS = 1_000_000
STEP_SECONDS = 3
"""Of load between two readings."""
WARM_SHARE = 0.1
"""Of the requests, left out of the slope: a heap grows until its caches are full."""
PSS_BYTES_MAX = 80_000_000
"""The target for all of Inlet, master included."""
SLOPE_BYTES_MAX = 1_000_000
"""The target: growth per SLOPE_REQUESTS requests."""
SLOPE_REQUESTS = 100_000
STORE_PROGRAM = "valkey-server"


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; 0 where there are fewer than two different x."""
    if not points:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def read(master: int) -> dict[str, int]:
    """PSS in bytes: the master, its workers together, and the store."""
    sizes = {"master": 0, "workers": 0, "store": 0}
    for pid in procs.tree(master):
        part = "master" if pid == master else "store" if procs.command(pid) == STORE_PROGRAM else "workers"
        sizes[part] += procs.pss_bytes(pid)
    return sizes


def start(directory: Path, port: int, **settings: str) -> subprocess.Popen[bytes]:
    """Start Inlet on the embedded store in ``directory``, and wait until it has answered a record."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("INLET_")}
    for name in ("REDIS_URL", "PORT", "WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR"):
        env.pop(name, None)
    env |= {"INLET_DATA_DIR": str(directory / "data"), **settings}
    words = ["--bind", f"127.0.0.1:{port}", "--workers", str(PROCESSES), "--log-level", "warning"]
    with open(directory / "inlet.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "app:application", *words], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            if ask(port, *single(PEERS["inlet"])) == 202:
                return process
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise SystemExit(f"Inlet does not start: {(directory / 'inlet.log').read_text(errors='replace')[-500:]}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop it, by force where it takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def observe(requests: int, connections: int, step_seconds: int) -> list[dict[str, Any]]:
    """Return the readings: requests sent so far, how many of them were refused, and the sizes then."""
    directory = Path(tempfile.mkdtemp(prefix="inlet-memory-"))
    reserved = reserve_port()
    port = port_of(reserved)
    process = start(directory, port)
    try:
        readings: list[dict[str, Any]] = [{"requests": 0, "refused": 0, **read(process.pid)}]
        traffic = refused.mixed()
        sent = not_taken = 0
        while sent < requests:
            outcome = saturate(port, traffic, connections, step_seconds, 202)
            if wrong := unexpected(outcome, connections):
                raise SystemExit(f"Inlet failed under load: {wrong}: {outcome}")
            sent += outcome.answered + outcome.refused
            not_taken += outcome.refused
            readings.append({"requests": sent, "refused": not_taken, **read(process.pid)})
            print(_line(readings[-1]), flush=True)
        return readings
    finally:
        end(process)
        reserved.close()
        shutil.rmtree(directory, ignore_errors=True)


def unexpected(outcome: Outcome, connections: int) -> str:
    """Return why a step does not count: other requests were refused than those that must be; empty if it does."""
    sent = outcome.answered + outcome.refused
    if outcome.socket_errors or not outcome.answered:
        return "connections failed, or nothing was answered"
    # Requests are sent in order, but each connection may be one ahead of or behind the others.
    if abs(outcome.refused - sent / refused.REFUSED_EVERY) > connections + 1:
        return f"{outcome.refused} of {sent} requests were refused, not one in {refused.REFUSED_EVERY}"
    return ""


def _line(reading: dict[str, Any]) -> str:
    sizes = "  ".join(f"{part} {reading[part] / 1e6:.1f} MB" for part in ("master", "workers", "store"))
    return f"{reading['requests']:9,} requests  {sizes}"


def summary(readings: list[dict[str, Any]]) -> dict[str, Any]:
    """Inlet's own PSS at the end and at its peak, and its growth per SLOPE_REQUESTS after the warm-up; in bytes."""
    own = [(r["requests"], r["master"] + r["workers"]) for r in readings]
    warm = own[-1][0] * WARM_SHARE
    growth = slope([(x, y) for x, y in own if x >= warm]) * SLOPE_REQUESTS
    peak = max(y for _, y in own)
    return {
        "pss_end_bytes": own[-1][1],
        "pss_peak_bytes": peak,
        "slope_bytes_per_100000": growth,
        "met": peak <= PSS_BYTES_MAX and growth < SLOPE_BYTES_MAX,
    }


WHAT = (
    "Varied requests. One in ten is refused: records that break the contract, bodies that are not JSON or not UTF-8, "
    "broken compression, unknown media types, bodies over a bound. One in fifty is a bulk with one bad record."
)


def markdown(document: dict[str, Any]) -> str:
    """The report: what was found, and every reading."""
    box, parts = document["machine"], ("master", "workers", "store")
    lines = ["| requests | refused | master MB | workers MB | Inlet MB | embedded store MB |", f"|{'--:|' * 6}"]
    for reading in document["readings"]:
        master, workers, store = (reading[part] / 1e6 for part in parts)
        sizes = (f"{size:.1f}" for size in (master, workers, master + workers, store))
        cells = (f"{reading['requests']:,}", f"{reading.get('refused', 0):,}", *sizes)
        lines.append(f"| {' | '.join(cells)} |")
    where = (
        f"{document['date']}, commit {document['commit']}; {box['cpu']}, {box['cores']} cores, Linux {box['kernel']}"
        f"{machine.interpreter(document)}"
    )
    what = [WHAT] if "refused" in document["readings"][-1] else []
    return "\n\n".join(["# Memory", f"{where}. PSS.", *what, conclusion(document), "\n".join(lines)]) + "\n"


def conclusion(result: dict[str, Any]) -> str:
    """One line."""
    return (
        f"Inlet, master and {PROCESSES} workers: {result['pss_peak_bytes'] / 1e6:.1f} MB at its peak, "
        f"{result['slope_bytes_per_100000'] / 1e6:+.2f} MB per {SLOPE_REQUESTS:,} requests; "
        f"target {'met' if result['met'] else 'missed'}."
    )


def write(document: dict[str, Any], path: Path) -> list[Path]:
    """Write the report and a picture beside the JSON; their paths."""
    report, drawing = path.with_suffix(".md"), path.with_suffix(".svg")
    bars = [(f"{r['requests']:,}", (r["master"] + r["workers"]) / 1e6) for r in document["readings"]]
    drawing.write_text(picture.svg([picture.Chart("PSS of Inlet, MB, after so many requests", bars)]))
    report.write_text(markdown(document) + f"\n![{drawing.stem}]({drawing.name})\n")
    return [report, drawing]


def run(requests: int, connections: int, step_seconds: int, path: Path) -> int:
    """Observe, write the JSON and the report, print what it says; the exit status."""
    readings = observe(requests, connections, step_seconds)
    document = {**machine.describe(""), **summary(readings), "readings": readings}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    write(document, path)
    print(conclusion(document))
    return 0
