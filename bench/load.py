"""The loads: what is sent, and the generator for saturation (wrk, or a small client of our own without it).

What lives here: the payload, requests per peer, running wrk and reading what it says. What must not: starting peers,
deciding what a figure means. The generator for fixed rates is in ``bench.openloop``.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.peers import Peer

PAYLOAD_BYTES = 467
"""The article's payload: one record with ten metadata pairs."""
BULK_RECORDS = 100
BIG_BULK_BYTES = 5_000_000
"""Bytes of the bulks of the mixed load, at most."""
WRK_THREADS = 1
"""One thread sends more than any peer here answers, and leaves the other core to the peer and the store."""
WRK_TIMEOUT_SECONDS = 10
WRK_GRACE_SECONDS = 60
"""How long wrk may take over its time, before it is given up."""

Request = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers, body."""


def payload() -> bytes:
    """One record, of exactly PAYLOAD_BYTES bytes."""
    metadata = {
        "region": "eu-central-1",
        "zone": "eu-central-1b",
        "host": "ip-10-0-42-17",
        "pod": "checkout-7d9f8c6b5-x2x9k",
        "version": "2025.11.3",
        "env": "production",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "user_id": "u-8812930",
        "tenant": "acme",
    }
    record = {
        "event_id": "0192f3c4-7b1e-7c3a-9d7e-2f6b8a4c1d05",
        "timestamp": "2025-11-03T14:07:31.482917Z",
        "service": "checkout",
        "message": "",
        "metadata": metadata,
    }
    text = "payment authorised for order 5591-20331 in 183 ms "
    missing = PAYLOAD_BYTES - len(json.dumps(record, separators=(",", ":")))
    record["message"] = (text * 9)[:missing]
    body = json.dumps(record, separators=(",", ":")).encode()
    assert len(body) == PAYLOAD_BYTES
    return body


def single(peer: Peer) -> Request:
    """One record, as this peer takes it."""
    if peer.name == "webdis":
        return "POST", "/", {}, f"XADD/logs/*/r/{quote(payload().decode(), safe='')}".encode()
    return "POST", "/ingest", {"Content-Type": "application/json"}, payload()


def bulk(records: int) -> Request:
    """Records as NDJSON."""
    return "POST", "/ingest", {"Content-Type": "application/x-ndjson"}, b"\n".join([payload()] * records)


def big_bulk_records() -> int:
    """How many records a bulk of the mixed load holds."""
    return (BIG_BULK_BYTES + 1) // (PAYLOAD_BYTES + 1)


@dataclass(frozen=True)
class Outcome:
    """What a generator saw. Latencies in microseconds; ``answered`` are the answers with the status that promises."""

    seconds: float
    answered: int
    refused: int
    socket_errors: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    generator: str
    send_late_us: float = 0.0
    """99th percentile of how late the open loop sent, waiting for a free connection included."""

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self)


_SCRIPT = """
wrk.method, wrk.path = %s, %s
%s
local file = io.open(%s, "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"us":%%d,"requests":%%d,"connect":%%d,"read":%%d,"write":%%d,"status":%%d,"timeout":%%d,' ..
    '"p50":%%d,"p99":%%d,"p999":%%d,"max":%%d}\\n',
    summary.duration, summary.requests, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"""


def lua_string(text: str) -> str:
    """A Lua literal; JSON's is one for what is used here (no control characters)."""
    return json.dumps(text)


def script(request: Request, body_file: Path) -> str:
    """The Lua script that makes wrk send ``request`` and print one line of JSON."""
    method, path, headers, _ = request
    lines = "\n".join(f"wrk.headers[{lua_string(k)}] = {lua_string(v)}" for k, v in headers.items())
    return _SCRIPT % (lua_string(method), lua_string(path), lines, lua_string(str(body_file)))


def parse_wrk(output: str) -> Outcome:
    """Outcome from what the script's ``done`` printed; wrk counts every answer, and those over 399 once more."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk printed no result:\n{output[-500:]}")
    r = json.loads(line.removeprefix("RESULT "))
    errors = r["connect"] + r["read"] + r["write"] + r["timeout"]
    answered = r["requests"] - r["status"]
    return Outcome(r["us"] / 1e6, answered, r["status"], errors, r["p50"], r["p99"], r["p999"], r["max"], "wrk")


def run_wrk(port: int, request: Request, connections: int, seconds: int) -> Outcome:
    """Saturate with ``connections`` keep-alive connections, each with one request in flight."""
    with tempfile.TemporaryDirectory(prefix="inlet-wrk-") as directory:
        body_file = Path(directory) / "body"
        body_file.write_bytes(request[3])
        script_file = Path(directory) / "load.lua"
        script_file.write_text(script(request, body_file))
        threads = min(WRK_THREADS, connections)
        words = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", f"--timeout={WRK_TIMEOUT_SECONDS}s"]
        done = subprocess.run(
            [*words, "--latency", "-s", str(script_file), f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + WRK_GRACE_SECONDS,
        )
    return parse_wrk(done.stdout + done.stderr)


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank: the smallest value that ``share`` of all do not exceed; ``ordered`` is sorted and not empty."""
    rank = -(-len(ordered) * round(share * 1000) // 1000)
    return ordered[max(rank, 1) - 1]


def run_plain(port: int, request: Request, connections: int, seconds: float, status: int = 202) -> Outcome:
    """The same with threads of our own: for machines without wrk, where the figures mean little."""
    method, path, headers, body = request
    latencies: list[float] = []
    refused: list[int] = []
    errors: list[OSError] = []
    stop_at = time.monotonic() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WRK_TIMEOUT_SECONDS)
        try:
            while (begin := time.monotonic()) < stop_at:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                response.read()
                if response.status == status:
                    latencies.append((time.monotonic() - begin) * 1e6)
                else:
                    refused.append(response.status)
        except OSError as error:
            errors.append(error)
        finally:
            connection.close()

    begin = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    ordered = sorted(latencies) or [float("nan")]
    at = [percentile(ordered, share) for share in (0.5, 0.99, 0.999, 1.0)]
    return Outcome(took, len(latencies), len(refused), len(errors), at[0], at[1], at[2], at[3], "plain")


def saturate(port: int, request: Request, connections: int, seconds: int, status: int) -> Outcome:
    """With wrk where it is installed."""
    if shutil.which("wrk"):
        return run_wrk(port, request, connections, seconds)
    return run_plain(port, request, connections, seconds, status)
