"""The locks in the data directory: who may use it.

What lives here: flock(2) on two files, and telling a live owner from what it left behind. What must not: the store.

The kernel drops a lock with its last holder, however that ends, so no pid file or socket left behind can deceive:

    inlet.lock   held by the Inlet (gunicorn master) that owns the directory
    valkey.lock  passed on to valkey-server, so held while any of its processes can still write the files

A fork shares the lock, so each worker holds ``inlet.lock`` as long as it lives, and with it the address that the next
start wants to listen on. A worker whose master was killed notices and ends, after it has answered what it had begun. So
whoever finds ``inlet.lock`` held reads who took it: if the owner lives, the start is refused; if it is gone, it left
orphans, and waiting helps.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

from wsgi.store.errors import StoreError

log = logging.getLogger("inlet")

ORPHAN_SECONDS_MAX = 35.0
"""How long to wait for the orphans of a killed Inlet: longer than gunicorn's graceful timeout, 30 s, by default."""
OWNER_SECONDS_MAX = 1.0
"""How long a live owner is given: one that was just killed needs a moment to end, most of all on a busy machine."""
POLL_SECONDS = 0.01
"""Pause between two attempts to take a lock."""
OWNER_BYTES_MAX = 64
"""Of a lock file's content: a pid and a start time."""


class Owner(NamedTuple):
    """Who took a lock, as the file says. ``started``: clock ticks since boot (proc(5)); None if unknown."""

    pid: int | None
    started: int | None

    def lives(self) -> bool:
        """Tell whether that process runs, and is not another one with the same pid."""
        if self.pid is None:
            return False
        now = start_time(self.pid)
        if now is not None and self.started is not None:
            return now == self.started
        if now == 0:
            return False
        # Without /proc (macOS) a pid that was used again passes for its owner; the error names it.
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def __str__(self) -> str:
        return f"process {'unknown' if self.pid is None else self.pid}"


def open_lock(path: Path) -> int:
    """Open a lock file, not inherited by exec (PEP 446). Never unlink one: two Inlets would lock two files."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def take(lock: int) -> bool:
    """Take the lock unless another holds it (flock, LOCK_EX | LOCK_NB)."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_owner(lock: int, pid: int) -> None:
    """Note in the file that ``pid`` has the lock."""
    started = start_time(pid)
    write(lock, f"{pid}\n".encode() if started is None else f"{pid} {started}\n".encode())


def write(lock: int, content: bytes) -> None:
    """Replace a lock file's content. In place: on a full disk, a file that was truncated could not be written again."""
    os.pwrite(lock, content, 0)
    os.ftruncate(lock, len(content))


def owner(lock: int) -> Owner:
    """Read who took the lock."""
    words = os.pread(lock, OWNER_BYTES_MAX, 0).split()
    numbers = [int(word) if word.isdigit() else None for word in words[:2]]
    pid, started = [*numbers, None, None][:2]
    # kill(2) would take 0 for the caller's process group.
    return Owner(pid or None, started)


def take_directory(lock: int, data_dir: Path) -> None:
    """Take ``inlet.lock``, waiting for the orphans of an Inlet that is gone, and note this process as its owner.

    Raises StoreError after OWNER_SECONDS_MAX if the owner lives, and after ORPHAN_SECONDS_MAX in any case.
    """
    began = time.monotonic()
    waiting = False  # for an orphan, and said so
    while not take(lock):
        # Read each time: another Inlet may have been faster, and a new owner may not have noted itself yet.
        found, waited = owner(lock), time.monotonic() - began
        lives = found.lives()
        if lives and waited > OWNER_SECONDS_MAX:
            raise StoreError(f"another Inlet ({found}) uses {data_dir}; stop it, or set INLET_DATA_DIR to another")
        if waited > ORPHAN_SECONDS_MAX:
            raise StoreError(
                f"a worker of an earlier Inlet ({found}, which has ended) still uses {data_dir} after "
                f"{ORPHAN_SECONDS_MAX:.0f} s; stop that worker, then start again"
            )
        if not (lives or waiting):
            waiting = True
            log.warning(
                "store: waiting up to %.0f s for a worker of an earlier Inlet (%s, which has ended) to leave %s",
                ORPHAN_SECONDS_MAX, found, data_dir,
            )  # fmt: skip
        time.sleep(POLL_SECONDS)
    write_owner(lock, os.getpid())


def start_time(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot (field 22 of /proc/<pid>/stat).

    0 for one that has ended and was not waited for (a zombie); None if unknown.
    """
    try:
        # The second field is the command in parentheses, and may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
