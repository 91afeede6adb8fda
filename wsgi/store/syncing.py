"""The process that fsyncs the embedded store's files: started, watched, and reported on by the store's owner.

What lives here: its life and its log lines. What must not: when it is needed (``embedded``), the fsyncs
(``sync_loop``), valkey-server.

The store runs with ``appendfsync no``: it writes each command to its append-only file before it replies, so killing it
loses nothing that was answered. This process makes the writes durable. If the store did it (``everysec``), it would
hold writes back meanwhile; if the owner did, a slow disk would stall its loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from inlet.stream.place import SOCKET_NAME
from wsgi.store import sync_loop
from wsgi.store.errors import StoreError

log = logging.getLogger("inlet")

SILENT_SECONDS_MAX = 10.0
"""How long no fsync may end before that is reported: far above what a working disk takes."""
STOP_SECONDS_MAX = 5.0
"""How long its last fsync may take. Then it is killed, which a process that waits for its disk does not notice yet."""
READ_BYTES_MAX = 65_536
"""Of its reports, in one read: what a pipe holds."""


class Syncer:
    """A process that fsyncs the append-only files in ``data_dir``, ten times a second on a fast disk.

    It shares a pipe with its starter and the starter's forks, and ends once they all have: what an orphaned worker has
    answered becomes durable too.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = 0.0
        self._unread = b""
        self._trouble = ""

    def start(self) -> None:
        """Start the process unless it runs; the store and its files need not be there. Raises StoreError."""
        if self.poll() is None:
            return
        self._forget()
        program = [sys.executable, "-I", "-S", str(sync_loop.__file__)]
        try:
            self._process = subprocess.Popen(  # nosec B603  # this interpreter on a file of this project
                [*program, str(self._data_dir), str(self._data_dir / SOCKET_NAME)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A terminal's Ctrl-C is for gunicorn.
                start_new_session=True,
            )
        except OSError as error:
            raise StoreError(f"cannot start the process that fsyncs the store's files: {error}") from None
        self._heard = time.monotonic()

    def poll(self) -> int | None:
        """Return None while it runs, else its exit status (0 also if others reaped it, and before ``start``).

        Call it about once a second, and ``start`` where it is not None. It logs what the process reports, and kills
        one that has not reported for SILENT_SECONDS_MAX.
        """
        if self._process is None:
            return 0
        status = self._process.poll()
        self._read_reports(self._process)
        if status is not None:
            self._report(sync_loop.ENDED)
        elif time.monotonic() - self._heard > SILENT_SECONDS_MAX:
            self._report(
                f"no fsync of the store's files has ended for {SILENT_SECONDS_MAX:.0f} s; "
                "a power failure can lose records that were accepted since"
            )
            # If it waits for the disk it ends with that wait; if something else has stopped it, it ends now.
            self._process.kill()
        return status

    def stop(self) -> None:
        """End the process after a last fsync, and wait until it is gone. Idempotent."""
        if self._process is not None and self._process.stdin is not None:
            # A close would not do: a fork of this process may hold the pipe open.
            with contextlib.suppress(OSError):
                os.write(self._process.stdin.fileno(), b"\n")
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._read_reports(self._process)
        self._forget()

    def _read_reports(self, process: subprocess.Popen[bytes]) -> None:
        """Read the lines it has written since the last call: one for each round, empty where all is well."""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            *lines, self._unread = (self._unread + os.read(process.stdout.fileno(), READ_BYTES_MAX)).split(b"\n")
            for line in lines:
                self._heard = time.monotonic()
                self._report(line.decode(errors="replace"))

    def _report(self, trouble: str) -> None:
        """Log a change: what is wrong, or (empty) that all is well again."""
        if trouble and trouble != self._trouble:
            log.critical("store: %s", trouble)
        elif self._trouble and not trouble:
            log.warning("store: its files are fsynced again")
        self._trouble = trouble

    def _forget(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process, self._unread = None, b""
