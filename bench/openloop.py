"""Loads at a fixed rate: the open loop, alone or beside a client that sends big bulks.

What lives here: running the generator in ``bench/peers/openloop`` (built by ``python -m bench peers``) and reading what
it says. What must not: saturation (``bench.load``), choosing the rate.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from pathlib import Path

from bench.load import Outcome, saturate
from bench.peers import BUILD
from bench.traffic import Request, Traffic, traffic_of, write

GENERATOR = BUILD / "bin" / "openloop"
GRACE_SECONDS = 30
"""How long the generator may take over its time; it awaits answers for 5 s itself."""


def parse(output: str) -> Outcome:
    """Outcome from the generator's line of JSON; what was never answered counts as a socket error."""
    r = json.loads(output)
    at = r["latency_us"]
    answered = r["answered"] - r["unexpected"]
    latencies = (at["p50"], at["p99"], at["p99.9"], at["max"])
    late = r["send_late_us_p99"]
    return Outcome(r["seconds"], answered, r["unexpected"], r["unanswered"], *latencies, "openloop", late)


def run(port: int, traffic: Request | Traffic, connections: int, seconds: int, rate: float, status: int) -> Outcome:
    """Send ``rate`` requests a second; latency counts from when each was due."""
    with tempfile.NamedTemporaryFile(prefix="inlet-openloop-") as file:
        write(traffic_of(traffic).requests, Path(file.name))
        words = [f"--address=127.0.0.1:{port}", f"--rate={rate}", f"--seconds={seconds}", f"--status={status}"]
        done = subprocess.run(
            [str(GENERATOR), *words, f"--connections={connections}", f"--requests={file.name}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + GRACE_SECONDS,
        )
    if done.returncode != 0:
        raise RuntimeError(f"the open-loop generator failed: {done.stderr[-300:]}")
    return parse(done.stdout)


def run_mixed(
    port: int,
    small: Request | Traffic,
    big: Request | Traffic,
    connections: int,
    seconds: int,
    rate: float,
    status: int,
) -> tuple[Outcome, Outcome]:
    """Send small requests at ``rate`` while one more connection sends big ones without a pause; both outcomes."""
    big_outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: big_outcomes.append(saturate(port, big, 1, seconds, status)))
    thread.start()
    try:
        outcome = run(port, small, connections, seconds, rate, status)
    finally:
        thread.join()
    if not big_outcomes:
        raise RuntimeError("the client of the big bulks failed")
    return outcome, big_outcomes[0]
