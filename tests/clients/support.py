"""What the tests of real clients share: an Inlet on a store that may be killed, the records read back, the judgement.

What lives here: starting the server as its users do, taking the store away for seconds, comparing what was sent with
what is stored, running a client to its end. What must not: anything about one protocol or one client.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redis

from tests.access.support import keys_file, new_key
from tests.support import ROOT, Server, stored_lines, wait_until
from wsgi.store.embedded import EmbeddedStore

RECORDS = 1_000
"""Records of a plain run."""
OUTAGE_SECONDS = 3.0
"""Seconds without a store: longer than a client's first retry, and than Inlet waits for a commit."""
STREAM = "logs"
DEDUP_SECONDS = 3_600
CLIENT_SECONDS = 120.0
"""How long a client may take to its end, retries included."""


class StoredRecord(NamedTuple):
    """One record as the stream holds it."""

    event_id: str
    timestamp: str
    service: str
    message: str
    metadata: dict[str, str]


class Target:
    """Where a client sends, and the stream that it fills: a server with a key's stream, or with its only one."""

    server: Server
    store: EmbeddedStore
    key: str
    """What the client must send; empty where keys are off."""
    stream: str

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return self.server.url

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return self.server.port

    def connect(self) -> redis.Redis:
        """redis-py on the store."""
        return redis.Redis.from_url(self.store.url)

    def records(self) -> list[StoredRecord]:
        """Every record of the stream, in order."""
        with self.connect() as client:
            lines = stored_lines(client, self.stream)
        return [
            StoredRecord(event_id, timestamp, service, message, dict(*metadata))
            for event_id, timestamp, service, message, *metadata in lines
        ]

    def count(self) -> int:
        """Records of the stream; 0 while the store is away."""
        with contextlib.suppress(redis.RedisError):
            return len(self.records())
        return 0

    def wait_for(self, count: int, seconds: float = CLIENT_SECONDS) -> list[StoredRecord]:
        """Return the records once there are at least ``count``."""
        wait_until(lambda: self.count() >= count, f"{count} records; the server's log: {self.server.log()}", seconds)
        return self.records()


class Tenant(Target):
    """One key of a shared server, with a stream of its own: many tests can use one server."""

    def __init__(self, inlet: Inlet, key: str, stream: str) -> None:
        self.server, self.store, self.key, self.stream = inlet.server, inlet.store, key, stream


class Inlet(Target):
    """A server of one worker on a store of its own, deduplication on; with keys, ``key`` is what a client sends.

    ``tenants``: names of further keys, each with a stream of its own. ``env``: further settings. Use it as a context
    manager, or take the fixtures ``inlet`` and ``keyed``.
    """

    def __init__(self, *, keys: bool = False, tenants: Sequence[str] = (), **env: str) -> None:
        self._ends = contextlib.ExitStack()
        self.key, self.stream = "", STREAM
        self.tenants: dict[str, Tenant] = {}
        try:
            self.directory = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="inlet-")))
            self.store = EmbeddedStore(self.directory / "store")
            settings = {
                "REDIS_URL": self.store.start(),
                "INLET_STREAM": STREAM,
                "INLET_DEDUP_SECONDS": str(DEDUP_SECONDS),
            }
            self._ends.callback(self.store.stop)
            made = {}
            if keys or tenants:
                key, self.key = new_key("client")
                made = {
                    name: new_key(f"tenant-{number}", stream=f"tenant-{number}") for number, name in enumerate(tenants)
                }
                path = keys_file(self.directory / "keys.toml", key, *(tenant for tenant, _ in made.values()))
                settings["INLET_KEYS_FILE"] = str(path)
            self.server = Server("app:application", ("--workers", "1"), {**settings, **env})
            self._ends.callback(self.server.close)
            self.tenants = {name: Tenant(self, text, str(key.stream)) for name, (key, text) in made.items()}
        except BaseException:
            self._ends.close()
            raise

    def __enter__(self) -> Inlet:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()


@contextlib.contextmanager
def outage(inlet: Inlet, seconds: float = OUTAGE_SECONDS) -> Iterator[None]:
    """Kill the store with SIGKILL; after ``seconds`` it is started again, on the same files. The body runs meanwhile.

    Leaves once the store serves again.
    """
    store = inlet.store
    pid = int((store.data_dir / "valkey.lock").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: store.poll() is not None, "the killed store has ended")
    began, failures = time.monotonic(), []

    def start_again() -> None:
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        try:
            wait_until(store.restart, "the store could be started again")
            wait_until(store.is_ready, "the store serves again")
        except BaseException as error:  # passed on below
            failures.append(error)

    thread = threading.Thread(target=start_again)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def check_once(found: Iterable[str], sent: Iterable[str]) -> None:
    """Fail unless each of ``sent`` (ids, or messages that differ) was found exactly once, and nothing else was."""
    counts, wanted = Counter(found), set(sent)
    missing = sorted(wanted - counts.keys())
    doubled = sorted(name for name, count in counts.items() if count > 1)
    strangers = sorted(counts.keys() - wanted)
    wrong = [
        f"{len(names)} {what} {names[:5]}"
        for what, names in (("missing", missing), ("doubled", doubled), ("never sent", strangers))
        if names
    ]
    assert not wrong, ", ".join(wrong)


def check_messages(inlet: Target, sent: Sequence[str], seconds: float = CLIENT_SECONDS) -> list[StoredRecord]:
    """Wait until as many records are there as were sent, check that each message is there once; return the records."""
    records = inlet.wait_for(len(sent), seconds)
    check_once([record.message for record in records], sent)
    return records


def check_fields(record: StoredRecord, **wanted: Any) -> None:
    """Compare some members of a record; ``metadata`` compares only the pairs that are given."""
    metadata: Mapping[str, str] = wanted.pop("metadata", {})
    found = {name: getattr(record, name) for name in wanted}
    assert found == wanted
    assert {name: record.metadata.get(name) for name in metadata} == dict(metadata)


def run_client(
    words: Sequence[str], *, cwd: Path = ROOT, seconds: float = CLIENT_SECONDS, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, with its output; fails with it if it exits with another status than 0."""
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-4_000:]}\n{done.stderr[-4_000:]}"
    return done


@contextlib.contextmanager
def agent(words: Sequence[str], *, cwd: Path = ROOT, log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent in the foreground, ended with TERM (KILL if that is not enough); its output is in ``log``."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            words, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()


def in_background(work: Callable[[], object]) -> Callable[[], None]:
    """Run ``work`` in a thread; the returned function waits for its end and raises what it raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # passed on by the returned function
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> None:
        thread.join(CLIENT_SECONDS)
        assert not thread.is_alive(), f"the client did not end within {CLIENT_SECONDS} s"
        if failures:
            raise failures[0]

    return join
