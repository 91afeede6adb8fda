"""The embedded store: one valkey-server on ``data_dir``; start, stop, and whose directory it is.

What lives here: the life of store and directory. What must not: how valkey-server is run (``server``), how a lock
works (``locks``), when to start again what has ended (``supervisor``), the stream, settings.

An Inlet killed with SIGKILL leaves its store running. The next one gets ``inlet.lock``, finds ``valkey.lock`` held,
shuts that store down through its socket (the append-only file is synced), waits for the lock, and starts its own:
so there are never two servers on one append-only file, and the new one is always its own child and configuration.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

from inlet.stream.place import SOCKET_NAME, embedded_url
from wsgi.store import aof, locks, logfile, server
from wsgi.store.errors import StoreError
from wsgi.store.syncing import Syncer

log = logging.getLogger("inlet")

STOP_SECONDS_MAX = 60.0
"""How long a store may take to write what it has accepted, sync its file and exit; it is not killed after that."""
SILENT_SECONDS_MAX = 3.0
"""How long a stop may take before a log line says what it waits for: a healthy store takes a tenth of a second."""
UNKNOWN_STATUS = 0
"""Stands for an exit status that another reaper took."""
WRITE_PROBE = b"XADD inlet:probe 0-0 probe 1"
"""Changes nothing: there is no ID 0-0. Answered with UNWRITTEN while the append-only file cannot be written."""
UNWRITTEN = "-MISCONF"


class EmbeddedStore:
    """A store on ``data_dir``, which is made as needed. One per directory and process: see ``embedded``.

    ``fsync``: ``background`` and ``everysec`` may lose about the last second at a power failure, ``always`` nothing
    that was answered. A kill of Inlet's processes loses nothing with any of them, a kill of the store nothing with
    ``background`` and ``always`` (with ``everysec`` it holds back what arrives while an fsync is under way).
    """

    def __init__(self, data_dir: Path, fsync: server.Fsync = "background") -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.socket_path = self.data_dir / SOCKET_NAME
        self.log_path = self.data_dir / "valkey.log"
        self.url = embedded_url(self.data_dir)
        self.syncer = Syncer(self.data_dir) if fsync == "background" else None
        self._fsync = fsync
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._status_taken = False  # by another reaper
        self._socket: tuple[int, int] | None = None  # device and inode, once seen
        self._owner_pid = 0

    def start(self) -> str:
        """Start the store, wait until it answers, and return its ``unix://`` URL. If it runs, only return the URL.

        Waits for the workers of a killed Inlet to leave the directory (``locks.ORPHAN_SECONDS_MAX``). Raises
        StoreError when another Inlet uses the directory, a store left there does not stop, or the new one does not
        come up; it says what to do.
        """
        if self._owner_pid == os.getpid() and self.poll() is None:
            return self.url
        try:
            self._acquire()
            process = self._launch(self._lock_once_free())
            server.wait_until_ready(process, self.data_dir, self.socket_path, self.log_path)
            self.has_lost_socket()
            self.report_cuts()
            if self.syncer is not None:
                self.syncer.start()
        except OSError as error:
            self.stop()
            advice = "set INLET_DATA_DIR to a directory that Inlet may write"
            raise StoreError(f"cannot keep the store in {self.data_dir}: {error}; {advice}") from None
        except BaseException:
            # A Ctrl-C as well: nobody else would stop the process.
            self.stop()
            raise
        return self.url

    def restart(self) -> bool:
        """Start the store again once ``poll`` has reported its end. It does not wait: see ``is_ready``.

        False: it was not started, since a process that the old one has forked (a rewrite) still uses its files. Raises
        StoreError where it cannot be started.
        """
        try:
            lock = locks.open_lock(self.data_dir / "valkey.lock")
            if not locks.take(lock):
                os.close(lock)
                return False
            self._launch(lock)
        except OSError as error:
            raise StoreError(f"cannot start the store in {self.data_dir}: {error}") from None
        return True

    def is_ready(self) -> bool:
        """Tell whether it serves (PING): it has loaded its files."""
        return server.command(self.socket_path, b"PING") == "+PONG"

    def has_lost_socket(self) -> bool:
        """Tell whether the socket that it listens on is not at its path any more, so that nobody can connect."""
        try:
            status = os.stat(self.socket_path)
            found = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            found = None
        except OSError:
            return False
        self._socket = self._socket or found
        return found != self._socket

    def terminate(self) -> None:
        """Have the store write and sync what it has, and exit; ``poll`` reports that. It does not wait."""
        if self._process is not None and self.poll() is None:
            # It may be stopped (SIGSTOP), and would not end before it goes on.
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def report_cuts(self) -> None:
        """Once it is ready, log what it has dropped of its files."""
        for name, offset in self._start_log.cuts():
            log.error(
                "store: the end of %s was incomplete, as after a crash in mid-write: %d bytes were dropped",
                name, max(0, self._sizes.get(name, offset) - offset),
            )  # fmt: skip

    def stop(self) -> None:
        """Stop the store, wait until it is gone, free the directory. Idempotent; does nothing but in its starter.

        A store that does not exit in time is left to the next start, never killed: it may be writing.
        """
        if self._owner_pid != os.getpid():
            return
        if self._process is not None and (self.poll() is not None or self._end(self._process)):
            self.socket_path.unlink(missing_ok=True)
        self._process = None
        if self.syncer is not None:
            self.syncer.stop()
        self._release()

    def poll(self) -> int | None:
        """Return None while the store runs, else its exit status (negative: the signal; 0 also if others reaped it).

        Only its starter can know: elsewhere, and before ``start``, it is 0.
        """
        process = self._process
        if process is None or self._owner_pid != os.getpid():
            return 0
        if process.returncode is None:
            # Not process.poll(), which reports a status that somebody else took as 0 (waitpid(2): ECHILD).
            try:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                process.returncode, self._status_taken = UNKNOWN_STATUS, True
        return process.returncode

    def ending(self) -> str:
        """Say how the store ended, after ``poll`` has reported it: "was killed by SIGKILL ..."."""
        status = self.poll()
        if self._status_taken or status is None:
            return "ended"
        if status == -signal.SIGKILL:
            return "was killed by SIGKILL, by a person or, if memory ran out, by the kernel (see the kernel's log)"
        if status < 0:
            known = -status in set(signal.Signals)
            return f"was ended by {signal.Signals(-status).name if known else f'signal {-status}'}"
        return f"exited with status {status}: {self._start_log.last_message()}"

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

    def _end(self, process: subprocess.Popen[bytes]) -> bool:
        """Have the store exit, and tell whether it has; report what that waits for."""
        # It may be stopped (SIGSTOP), and would not end before it goes on.
        process.send_signal(signal.SIGCONT)
        reported, deadline = False, time.monotonic() + STOP_SECONDS_MAX
        while (reply := self._refuses_writes()) and time.monotonic() < deadline:
            if not reported:
                reported = True
                log.error(
                    "store: it holds records that it cannot write, and is stopped once it can, within %.0f s: %s",
                    STOP_SECONDS_MAX, reply,
                )  # fmt: skip
            time.sleep(locks.POLL_SECONDS)
        if reply:
            log.critical(
                "store: process %d cannot write records that were accepted, and is left to the next start: free space "
                "on the disk of %s, then start again; killing that process loses them",
                process.pid, self.data_dir,
            )  # fmt: skip
            return False
        process.terminate()
        try:
            self._wait(process, deadline)
        except subprocess.TimeoutExpired:
            log.error(
                "store: process %d did not exit within %.0f s, and is left to the next start",
                process.pid, STOP_SECONDS_MAX,
            )  # fmt: skip
            return False
        return True

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
        """Wait for the exit; raises subprocess.TimeoutExpired."""
        # Where gunicorn's reaper is first, the wait ends as well, with an invented status.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SILENT_SECONDS_MAX)
            return
        log.warning("store: waiting for process %d to sync its files and exit", process.pid)
        process.wait(max(0.0, deadline - time.monotonic()))

    def _refuses_writes(self) -> str:
        """Return the store's reply if its last write failed: what it holds in memory is not in its file yet."""
        reply = server.command(self.socket_path, WRITE_PROBE)
        return reply if reply.startswith(UNWRITTEN) else ""

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
                shut = self._refuses_writes() or server.command(self.socket_path, b"SHUTDOWN NOSAVE")
                reply = shut or reply
                if time.monotonic() > deadline:
                    words = f"it said {reply!r}" if reply else "its socket does not answer"
                    advice = "stop that process yourself, then start again"
                    if reply.startswith(UNWRITTEN):
                        advice = "it holds records that it cannot write, so free space on its disk, then start again"
                    raise StoreError(
                        f"a store of an earlier Inlet ({locks.owner(lock)}) is on {self.data_dir} and does not stop: "
                        f"{words}; {advice}"
                    )
                time.sleep(locks.POLL_SECONDS)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _launch(self, lock: int) -> subprocess.Popen[bytes]:
        """Start valkey-server, and give it ``lock``, which is closed here. Raises StoreError and OSError."""
        try:
            aof.check(self.data_dir)
            logfile.rotate(self.log_path)
            self._sizes, self._start_log = aof.sizes(self.data_dir), logfile.StartLog(self.log_path)
            # Nobody listens on what may lie there, since the lock is ours.
            self.socket_path.unlink(missing_ok=True)
            with server.signals_wait():
                self._process = server.spawn(self.data_dir, self.socket_path, self.log_path, self._fsync, lock)
            self._status_taken, self._socket = False, None
            # For people to read; no decision is made on it, and a full disk may have no room for it.
            with contextlib.suppress(OSError):
                locks.write(lock, b"%d\n" % self._process.pid)
            return self._process
        finally:
            os.close(lock)


_stores: dict[Path, EmbeddedStore] = {}


def embedded(data_dir: Path, fsync: server.Fsync = "background") -> EmbeddedStore:
    """Return this process's EmbeddedStore on ``data_dir``: the same one when gunicorn reads its configuration again."""
    path = Path(os.path.abspath(data_dir))
    return _stores.setdefault(path, EmbeddedStore(path, fsync))
