"""What the collector costs and saves: RSS of one worker over many requests, malformed ones included, for each policy.

python -m bench.collector --requests 1000000 --worker gthread --json bench/results/collector.json

Policies: ``off`` never collects, ``automatic`` is Python's own, ``configured`` is gunicorn.conf.py's. wrk sends in turn
eight good records, one that is not JSON and one that breaks the contract.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.support import Server

SCRIPT = """
local good = '{"event_id":"e-1","timestamp":"2026-01-31T23:59:59Z","service":"s","message":"m","metadata":{"a":"b"}}'
local bodies = {}
for i = 1, 8 do bodies[i] = good end
bodies[9] = '{"event_id":'
bodies[10] = '{"event_id":"","timestamp":"2026-01-31T23:59:59Z","service":"s","message":"m"}'
local count = 0
function request()
  count = count + 1
  return wrk.format("POST", "/ingest", {["Content-Type"]="application/json"}, bodies[count % 10 + 1])
end
"""


def resident_kib(pid: int) -> int:
    """VmRSS of a process, KiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def requests_of(server: Server) -> int:
    """Requests that the server's one worker has answered."""
    import httpx

    text = httpx.get(server.url + "/metrics", timeout=30).text
    counts = re.findall(r'^inlet_requests_total\{.*receiver="native".*\} (\S+)', text, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


def run(policy: str, worker: str, requests: int) -> dict[str, object]:
    """One policy: RSS per step of requests, and every collection."""
    threads = "8" if worker == "gthread" else "1"
    words = ["-c", "bench/collector.conf.py", "--workers", "1", "-k", worker, "--threads", threads]
    server = Server("app:application", words, {"COLLECTOR": policy, "INLET_STREAM": "bench"})
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(SCRIPT)
            script.flush()
            samples: list[tuple[int, int]] = []
            done = 0
            while done < requests:
                subprocess.run(
                    ["wrk", "-t1", "-c32", "-d5", "-s", script.name, server.url], check=True, capture_output=True
                )
                done = requests_of(server)
                samples.append((done, resident_kib(server.workers()[0])))
        found = re.findall(r"collection (\d) took (\S+) ms found (\d+)", server.log())
    finally:
        server.close()
    pauses = [float(milliseconds) for _, milliseconds, _ in found]
    half = samples[len(samples) // 2 :]
    slope = 0.0
    if len(half) > 1:
        slope = statistics.linear_regression([n for n, _ in half], [kib for _, kib in half]).slope * 100_000
    return {
        "policy": policy,
        "worker": worker,
        "requests": done,
        "rss_kib": samples,
        "slope_kib_per_100000_in_the_second_half": round(slope, 1),
        "collections": len(pauses),
        "pause_ms_median": statistics.median(pauses) if pauses else None,
        "pause_ms_max": max(pauses, default=None),
        "found": sum(int(count) for _, _, count in found),
    }


def main() -> None:
    """Run each policy; print and write the outcome."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=1_000_000)
    arguments.add_argument("--worker", default="gthread")
    arguments.add_argument("--policies", default="off,automatic,configured")
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()
    outcomes = [run(policy, options.worker, options.requests) for policy in options.policies.split(",")]
    for outcome in outcomes:
        print({name: value for name, value in outcome.items() if name != "rss_kib"})
        samples = outcome["rss_kib"]
        assert isinstance(samples, list)
        print("  RSS KiB:", *(f"{done}:{kib}" for done, kib in samples[:: max(1, len(samples) // 10)]))
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    main()
