"""Every event in SQLite exactly once, from a producer that retries blindly, while everything is killed with kill -9.

    make run                                       (once, in the checkout: it installs Inlet in .venv; then stop it)
    .venv/bin/python examples/exactly_once.py --events 20000

It starts Inlet with INLET_DEDUP_SECONDS over an embedded store of its own, producers, and a consumer
(sqlite_exactly_once.py). A producer sends a batch again until it is answered 202: after a refusal, a timeout, a broken
connection, and at random although it was answered, as one does that has crashed before it noted the answer. Meanwhile
the consumer, Inlet's workers and the store are killed with SIGKILL, again and again. In the end the table must hold
each event once.

Two things together make that so. Inlet stores an event_id once (docs/protocol.md), and the consumer writes the records
and their addresses in one transaction (docs/consumers.md).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCERS = 4
WORKERS = 2
BATCH_EVENTS = 50
"""Events in one request."""
ANSWER_SECONDS_MAX = 5.0
"""How long a producer waits for an answer before it sends the batch again."""
RETRY_SECONDS = 0.1
"""Pause before a batch is sent again."""
FORGOTTEN = 0.05
"""Share of the answered batches that are sent once more all the same."""
RATE = 2_000.0
"""Events a second, so that even a short run lives through many kills."""
DEDUP_SECONDS = 3_600
"""Longer than any producer retries here."""
PAUSE_SECONDS = 0.75
"""Mean pause between two kills. A consumer needs a part of a second to start."""
LOCK_SECONDS_MAX = 30.0
"""How long to wait for the consumer to let go of the file."""
START_SECONDS_MAX = 60.0


class Producers:
    """Threads that send the events 0 .. ``events`` - 1, each until a 202 names it."""

    def __init__(self, port: int, events: int, seed: int, rate: float) -> None:
        self.counts = Counter[str]()
        self.stopped = threading.Event()
        self._port, self._events, self._seed = port, events, seed
        self._pause = PRODUCERS * BATCH_EVENTS / rate if rate else 0.0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(PRODUCERS)]
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """Return whether some events are still to be answered."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Give up what is not answered, and wait for the threads."""
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        drawn = random.Random(f"{self._seed}-{number}")
        for first in range(number * BATCH_EVENTS, self._events, PRODUCERS * BATCH_EVENTS):
            body = batch(first, min(first + BATCH_EVENTS, self._events))
            while not self.stopped.is_set():
                outcome = send(self._port, body)
                with self._lock:
                    self.counts[outcome] += 1
                if outcome != "202":
                    self.stopped.wait(RETRY_SECONDS)
                elif drawn.random() >= FORGOTTEN:
                    break
            self.stopped.wait(self._pause)


def batch(first: int, stop: int) -> bytes:
    """Return the events ``first`` .. ``stop`` - 1 as NDJSON: an event is the same however often it is sent."""
    return b"\n".join(
        json.dumps(
            {
                "event_id": f"event-{number}", "timestamp": "2026-01-31T23:59:59Z", "service": "example",
                "message": f"this is event {number}", "metadata": {},
            }
        ).encode()
        for number in range(first, stop)
    )  # fmt: skip


def send(port: int, body: bytes) -> str:
    """POST a batch; return the status, or how it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request("POST", "/ingest", body, {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    except TimeoutError:
        return "timeout"
    except (OSError, http.client.HTTPException):
        return "broken connection"
    finally:
        connection.close()


class Consumer:
    """sqlite_exactly_once.py in a process of its own, started again each time it is killed."""

    def __init__(self, file: Path, env: dict[str, str]) -> None:
        self._env = env
        self._words = [sys.executable, str(ROOT / "examples" / "sqlite_exactly_once.py"), str(file), "--consumer", "1"]
        self._log = file.with_suffix(".log")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(self._words, env=self._env, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, and start the next one."""
        self.end()
        self._process = self._start()

    def go_on(self) -> None:
        """Start the next one if it has ended by itself: its first contact with the store failed."""
        if self._process.poll() is not None:
            self._process = self._start()

    def end(self) -> None:
        """SIGKILL, and no other."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def inlet(directory: Path, port: int, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run Inlet as a deployment does, and end it."""
    words = [sys.executable, "-m", "gunicorn", "app:application", "--workers", str(WORKERS)]
    with open(directory / "inlet.log", "wb") as log:
        process = subprocess.Popen(
            [*words, "--bind", f"127.0.0.1:{port}"], cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while send(port, b"") in ("broken connection", "timeout"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("Inlet does not start:\n" + (directory / "inlet.log").read_text())
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def workers_of(master: int) -> list[int]:
    """Return the pids of Inlet's workers. gunicorn's master starts them with its own command line."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"gunicorn" in words and b"app:application" in words:
                found.append(int(pid))
    return found


def victims(drawn: random.Random) -> Iterator[str]:
    """Yield what to kill next, without end: each kind within any few."""
    while True:
        yield from drawn.sample(["consumer", "consumer", "worker", "store"], 4)


def kill(what: str, master: int, data_dir: Path, consumer: Consumer) -> str:
    """SIGKILL to the consumer, a worker, or the store; return which, or "nothing" if it was not there."""
    pids: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        if what == "consumer":
            consumer.kill()
        elif what == "worker":
            pids = workers_of(master)[:1]
        else:
            pids = [int((data_dir / "valkey.lock").read_text())]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return what if pids or what == "consumer" else "nothing"


def rows(file: Path, what: str) -> int:
    """Return what a query over the table counts; 0 while there is no table."""
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=LOCK_SECONDS_MAX)) as connection:
            return int(connection.execute(f"SELECT {what} FROM records").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def duplicates(port: int) -> int:
    """Return how many records Inlet has found to be stored already, as far as the workers that live have counted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(r"^inlet_records_duplicate_total (\S+)", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def main() -> int:
    """Run until the table holds every event; return 0 if it holds each exactly once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seconds-max", type=float, default=600, help="give up after so long")
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS, help="mean seconds between two kills")
    parser.add_argument("--rate", type=float, default=RATE, help="events a second at most; 0 for no bound")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed when")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended by SIGTERM"))  # what runs is ended then too
    drawn, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="inlet-exactly-once-") as name:
        directory, data_dir, file = Path(name), Path(name) / "data", Path(name) / "out.db"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        env = {key: value for key, value in os.environ.items() if key != "REDIS_URL" and not key.startswith("INLET_")}
        env.update(INLET_DATA_DIR=str(data_dir), INLET_DEDUP_SECONDS=str(DEDUP_SECONDS))
        with inlet(directory, port, env) as server:
            killed, order = Counter[str](), victims(drawn)
            consumer = Consumer(file, env)
            producers = Producers(port, options.events, options.seed, options.rate)
            try:
                while time.monotonic() - began < options.seconds_max:
                    if not producers.alive() and rows(file, "ifnull(max(rowid), 0)") >= options.events:
                        break
                    time.sleep(options.pause * drawn.uniform(0.4, 1.6))
                    consumer.go_on()
                    killed[kill(next(order), server.pid, data_dir, consumer)] += 1
                known = duplicates(port)
            finally:
                producers.stop()
                consumer.end()
        total, different = rows(file, "count(*)"), rows(file, "count(DISTINCT event_id)")
    sent = ", ".join(f"{outcome} {number}" for outcome, number in producers.counts.most_common())
    kills = ", ".join(f"{what} {number}" for what, number in killed.most_common())
    print(f"requests: {sent}\nkilled with kill -9: {kills}\nrecords found to be stored already: at least {known}")
    print(f"{options.events} events, {total} rows, {different} different, in {time.monotonic() - began:.0f} s")
    if total == different == options.events:
        print("each event is there exactly once")
        return 0
    if total == different and time.monotonic() - began >= options.seconds_max:
        print(f"gave up after {options.seconds_max:.0f} seconds; what is there is there once")
    else:
        print("WRONG: not each event is there exactly once")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("ended by Ctrl-C")
