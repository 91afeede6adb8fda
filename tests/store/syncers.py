"""What the tests of the process that fsyncs share: a directory with a store and such a process.

What lives here: starting and ending both. What must not: faults, assertions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from inlet.stream.place import SOCKET_NAME
from wsgi.store import locks, server, sync_loop
from wsgi.store.syncing import Syncer


class Directory:
    """A data directory with a store and a syncer, as ``EmbeddedStore`` runs them, but each on its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.syncer = Syncer(root)
        self.store: subprocess.Popen[bytes] | None = None

    def start(self, fsync: server.Fsync = "background") -> None:
        """Start the store and wait until it answers."""
        lock = locks.open_lock(self.root / "valkey.lock")
        self.store = server.spawn(self.root, self.root / SOCKET_NAME, self.root / "valkey.log", fsync, lock)
        os.close(lock)
        server.wait_until_ready(self.store, self.root, self.root / SOCKET_NAME, self.root / "valkey.log")

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.root / SOCKET_NAME))

    def kill(self) -> None:
        if self.store is not None:
            self.store.kill()
            self.store.wait()

    def listed(self) -> set[str]:
        """The files that hold the data."""
        return set(sync_loop.Files(str(self.root))._listed())

    @property
    def syncer_pid(self) -> int:
        return pid_of(self.syncer)


def pid_of(syncer: Syncer) -> int:
    """The process that it runs."""
    assert syncer._process is not None
    return syncer._process.pid


def lives(pid: int) -> bool:
    """Whether there is such a process, a zombie not counted."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def directory_of_its_own() -> Iterator[Directory]:
    """Not tmp_path: the path of a socket has to be short wherever pytest keeps its directories."""
    with tempfile.TemporaryDirectory(prefix="inlet-") as root:
        one = Directory(Path(root))
        yield one
        one.syncer.stop()
        one.kill()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records]


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.CRITICAL]
