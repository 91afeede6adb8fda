"""The embedded store: one valkey-server on ``data_dir``; start, stop, and whose directory it is.

What lives here: the life of store and directory. What must not: how valkey-server is run (``server``), how a lock
works (``locks``), the stream, settings.

An Inlet killed with SIGKILL leaves its store running. The next one gets ``inlet.lock``, finds ``valkey.lock`` held,
shuts that store down through its socket (the append-only file is synced), waits for the lock, and starts its own:
so there are never two servers on one append-only file, and the new one is always its own child and configuration.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import time
from pathlib import Path

from inlet.stream.place import SOCKET_NAME, embedded_url
from wsgi.store import locks, server
from wsgi.store.errors import StoreError

log = logging.getLogger("inlet")

STOP_SECONDS_MAX = 60.0
"""How long a store may take to sync its file and exit; it is not killed after that."""


class EmbeddedStore:
    """A store on ``data_dir``, which is made as needed. One per directory and process: see ``embedded``.

    ``fsync``: ``everysec`` may lose the last second at a power failure, ``always`` nothing that was answered. A kill
    of Inlet's processes loses nothing with either, a kill of the store nothing with ``always`` (with ``everysec`` it
    holds back what arrives while an fsync is under way).
    """

    def __init__(self, data_dir: Path, fsync: server.Fsync = "everysec") -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.socket_path = self.data_dir / SOCKET_NAME
        self.log_path = self.data_dir / "valkey.log"
        self.url = embedded_url(self.data_dir)
        self._fsync = fsync
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0

    def start(self) -> str:
        """Start the store, wait until it answers, and return its ``unix://`` URL. If it runs, only return the URL.

        Call it again once ``poll`` reports its death. Waits for the workers of a killed Inlet to leave the directory
        (``locks.ORPHAN_SECONDS_MAX``). Raises StoreError when another Inlet uses the directory, a store left there
        does not stop, or the new one does not come up; it says what to do.
        """
        if self._owner_pid == os.getpid() and self.poll() is None:
            return self.url
        try:
            self._acquire()
            lock = self._lock_once_free()
            try:
                self._process = self._spawn(lock)
            finally:
                os.close(lock)
            server.wait_until_ready(self._process, self.data_dir, self.socket_path, self.log_path)
        except OSError as error:
            self.stop()
            advice = "set INLET_DATA_DIR to a directory that Inlet may write"
            raise StoreError(f"cannot keep the store in {self.data_dir}: {error}; {advice}") from None
        except BaseException:
            # A Ctrl-C as well: nobody else would stop the process.
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the store, wait until it is gone, free the directory. Idempotent; does nothing but in its starter.

        A store that does not exit in time is left to the next start, never killed: it may be writing.
        """
        if self._owner_pid != os.getpid():
            return
        if self._process is not None:
            # Where gunicorn's reaper was first, the wait ends as well, with an invented status.
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
                self.socket_path.unlink(missing_ok=True)
            except subprocess.TimeoutExpired:
                log.error(
                    "store: process %d did not exit within %.0f s, and is left to the next start",
                    self._process.pid, STOP_SECONDS_MAX,
                )  # fmt: skip
            self._process = None
        self._release()

    def poll(self) -> int | None:
        """Return None while the store runs, else its exit status (negative: the signal; 0 also if others reaped it).

        Only its starter can know: elsewhere, and before ``start``, it is 0.
        """
        if self._process is None or self._owner_pid != os.getpid():
            return 0
        return self._process.poll()

    def _acquire(self) -> None:
        """Make the directory and take ``inlet.lock``, unless held from before."""
        if self._owner_pid == os.getpid():
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = locks.open_lock(self.data_dir / "inlet.lock")
        try:
            locks.take_directory(lock, self.data_dir)
        except BaseException:
            os.close(lock)
            raise
        self._lock, self._owner_pid = lock, os.getpid()
        # gunicorn leaves without on_exit where it cannot listen.
        atexit.register(self.stop)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._owner_pid = None, 0
        atexit.unregister(self.stop)

    def _lock_once_free(self) -> int:
        """Take ``valkey.lock``, stopping the store that a killed Inlet has left there; return its descriptor."""
        lock = locks.open_lock(self.data_dir / "valkey.lock")
        try:
            deadline, reply, waiting = time.monotonic() + STOP_SECONDS_MAX, "", False
            while not locks.take(lock):
                if not waiting:
                    waiting = True
                    log.warning(
                        "store: stopping a store of an earlier Inlet (%s), %.0f s at most",
                        locks.owner(lock), STOP_SECONDS_MAX,
                    )  # fmt: skip
                # Again and again: it may be about to open its socket, or be gone while its rewriting child is not.
                reply = server.command(self.socket_path, b"SHUTDOWN NOSAVE") or reply
                if time.monotonic() > deadline:
                    words = f"it said {reply!r}" if reply else "its socket does not answer"
                    raise StoreError(
                        f"a store of an earlier Inlet ({locks.owner(lock)}) is on {self.data_dir} and does not stop: "
                        f"{words}; stop that process yourself, then start again"
                    )
                time.sleep(locks.POLL_SECONDS)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        # Nobody listens on what may lie there, since the lock is ours.
        self.socket_path.unlink(missing_ok=True)
        os.ftruncate(lock, 0)
        process = server.spawn(self.data_dir, self.socket_path, self.log_path, self._fsync, lock)
        # For people to read; no decision is made on it.
        os.pwrite(lock, b"%d\n" % process.pid, 0)
        return process


_stores: dict[Path, EmbeddedStore] = {}


def embedded(data_dir: Path, fsync: server.Fsync = "everysec") -> EmbeddedStore:
    """Return this process's EmbeddedStore on ``data_dir``: the same one when gunicorn reads its configuration again."""
    path = Path(os.path.abspath(data_dir))
    return _stores.setdefault(path, EmbeddedStore(path, fsync))
