"""The generator for saturation: wrk, or a small client of our own without it.

What lives here: running wrk over requests made beforehand and reading what it says. What must not: what is sent
(``bench.traffic``), starting peers, deciding what a figure means. The generator for fixed rates is in
``bench.openloop``.
"""

from __future__ import annotations

import http.client
import itertools
import json
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.peers import Peer
from bench.traffic import FRESH, JSON_TYPE, Request, Traffic, payload, traffic_of, write

WRK_THREADS = 1
"""One thread sends more than any peer here answers, and leaves the other core to the peer and the store."""
WRK_TIMEOUT_SECONDS = 10
WRK_GRACE_SECONDS = 60
"""How long wrk may take over its time, before it is given up."""
FRESH_PREFIX_DIGITS = len(FRESH) - 8


def single(peer: Peer) -> Request:
    """Return what it must answer before it counts as up: the article's record, as this peer takes it, or its own."""
    if peer.probe is not None:
        return peer.probe
    if peer.name == "webdis":
        return "POST", "/", {}, f"XADD/logs/*/r/{quote(payload().decode(), safe='')}".encode()
    return "POST", "/ingest", {"Content-Type": JSON_TYPE, **peer.headers}, payload()


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
    generator_cpu_seconds: float = 0.0
    """Of the generator, which is one thread: close to ``seconds``, it was the limit."""

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self)


_SCRIPT = """
local requests, rests, count, at, fresh, sent = {}, {}, 0, 0, %s, 0
function init(args)
  local file = io.open(%s, "rb")
  for length in file:lines() do
    count = count + 1
    requests[count] = file:read(tonumber(length))
    if fresh then
      local first, last = requests[count]:find(%s, 1, true)
      rests[count] = requests[count]:sub(last + 1)
      requests[count] = requests[count]:sub(1, first - 1) .. fresh
    end
  end
  file:close()
end
function request()
  at = at %% count + 1
  if fresh then
    sent = sent + 1
    return requests[at] .. string.format("%%08x", sent) .. rests[at]
  end
  return requests[at]
end
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
    """Return a Lua literal; JSON's is one for what is used here (no control characters)."""
    return json.dumps(text)


_runs = itertools.count()


def fresh_prefix() -> str:
    """Return digits that no other run of a generator starts its fresh ones with; a counter of eight digits follows."""
    return f"{next(_runs) % 16**FRESH_PREFIX_DIGITS:0{FRESH_PREFIX_DIGITS}x}"


def script(file: Path, *, fresh: bool = False) -> str:
    """Return the Lua script that makes wrk send the requests of ``file`` in turn, and print one line of JSON.

    PERF: the strings are made before the clock starts, and ``request`` only picks one. The result says what share of
    its core wrk took (``generator_cpu_seconds``).
    """
    prefix = lua_string(fresh_prefix()) if fresh else "nil"
    return _SCRIPT % (prefix, lua_string(str(file)), lua_string(FRESH.decode()))


def parse_wrk(output: str) -> Outcome:
    """Outcome from what the script's ``done`` printed; wrk counts every answer, and those over 399 once more."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk printed no result:\n{output[-500:]}")
    r = json.loads(line.removeprefix("RESULT "))
    errors = r["connect"] + r["read"] + r["write"] + r["timeout"]
    answered = r["requests"] - r["status"]
    return Outcome(r["us"] / 1e6, answered, r["status"], errors, r["p50"], r["p99"], r["p999"], r["max"], "wrk")


def children_cpu_seconds() -> float:
    """Return the CPU time of all child processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_wrk(port: int, traffic: Traffic, connections: int, seconds: int) -> Outcome:
    """Saturate with ``connections`` keep-alive connections, each with one request in flight."""
    with tempfile.TemporaryDirectory(prefix="inlet-wrk-") as directory:
        requests_file, script_file = Path(directory) / "requests", Path(directory) / "load.lua"
        write(traffic.requests, requests_file)
        script_file.write_text(script(requests_file, fresh=traffic.fresh))
        threads = min(WRK_THREADS, connections)
        words = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", f"--timeout={WRK_TIMEOUT_SECONDS}s"]
        before = children_cpu_seconds()
        done = subprocess.run(
            [*words, "--latency", "-s", str(script_file), f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + WRK_GRACE_SECONDS,
        )
    return replace(parse_wrk(done.stdout + done.stderr), generator_cpu_seconds=children_cpu_seconds() - before)


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank: the smallest value that ``share`` of all do not exceed; ``ordered`` is sorted and not empty."""
    rank = -(-len(ordered) * round(share * 1000) // 1000)
    return ordered[max(rank, 1) - 1]


class Client:
    """One connection of the client of our own: sends raw requests, reads answers, opens anew after a close."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket: socket.socket | None = None

    def ask(self, request: bytes) -> int:
        """Return the status of the answer."""
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), WRK_TIMEOUT_SECONDS)
        self.socket.sendall(request)
        response = http.client.HTTPResponse(self.socket, method="POST")
        response.begin()
        response.read()
        if response.will_close:
            self.close()
        return response.status

    def close(self) -> None:
        """Close the connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def run_plain(port: int, traffic: Request | Traffic, connections: int, seconds: float, status: int = 202) -> Outcome:
    """Do the same with threads of our own: for machines without wrk, where the figures mean little."""
    traffic = traffic_of(traffic)
    requests: Iterator[bytes] = itertools.cycle(traffic.requests)  # next() on it is atomic, and on a map of it too
    if traffic.fresh:
        prefix = fresh_prefix()
        requests = map(
            lambda sent, one: one.replace(FRESH, b"%s%08x" % (prefix.encode(), sent)), itertools.count(), requests
        )
    latencies: list[float] = []
    refused: list[int] = []
    errors: list[Exception] = []
    stop_at = time.monotonic() + seconds

    def client() -> None:
        connection = Client(port)
        try:
            while (begin := time.monotonic()) < stop_at:
                answer = connection.ask(next(requests))
                if answer == status:
                    latencies.append((time.monotonic() - begin) * 1e6)
                else:
                    refused.append(answer)
        except (OSError, http.client.HTTPException) as error:
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


def saturate(port: int, traffic: Request | Traffic, connections: int, seconds: int, status: int) -> Outcome:
    """Send one request, or those of the traffic in turn, with wrk where it is installed."""
    if shutil.which("wrk"):
        return run_wrk(port, traffic_of(traffic), connections, seconds)
    return run_plain(port, traffic, connections, seconds, status)
