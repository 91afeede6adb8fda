"""The program that fsyncs a store's append-only files, over and over: ``python sync_loop.py DATA_DIR SOCKET``.

What lives here: finding the files through rewrites, fsync, and what to do when it fails. What must not: who runs it
(``syncing``), and more imports: it runs without the package, as a process of 3 MB (contextlib alone takes 0.6 MB).

Standard input is its life: it ends, after a last round, when a byte or the end arrives there. Standard output gets one
line for each round: empty, or what went wrong. It locks nothing and writes nothing, so it can be killed at any instant.
"""

import os
import select
import sys
import time

PAUSE_SECONDS_MIN = 0.1
"""Between two rounds on a fast disk. A write that meets an fsync waits for it, and the less there is to sync, the
shorter: on this project's machine 2 ms at 10 rounds a second, 12 ms at one a second, both at 16 MB/s."""
PAUSE_SECONDS_MAX = 1.0
"""Between two rounds on any disk: what a power failure may lose, beside the fsync's own time."""
PAUSE_SHARE = 9
"""The pause over the time that the round before took, within these bounds: the disk syncs for a tenth of the time."""
HEALTHY_SECONDS = 10.0
"""Without an error, until the store leaves its fsyncs to this process again."""
COMMAND_SECONDS_MAX = 5.0
"""Deadline of a command to the store."""
FILES_DIRECTORY = "appendonlydir"
"""Directory of the append-only files within the data directory: the store's default ``appenddirname``."""
SUFFIX = ".incr.aof"
"""End of the names of the files that commands are appended to. The store itself syncs a base file, once."""

# macOS has no fdatasync(2).
fdatasync = getattr(os, "fdatasync", os.fsync)


class Files:
    """The append-only files of a store; each is kept open, so no error of its disk is missed (errseq_t in Linux)."""

    def __init__(self, data_dir: str) -> None:
        self._data_dir = data_dir
        self._open: dict[str, int] = {}
        self._durable: dict[str, tuple[int, int]] = {}

    def sync(self) -> None:
        """Make durable what was written before this call (fdatasync(2)). Raises OSError; the next call tries again."""
        self._find()
        # Older files first: the store does not start if a file that is not its last one was cut off.
        for name in sorted(self._open, key=lambda name: (len(name), name)):
            status = os.fstat(self._open[name])
            # The time too: after a failed write the store truncates the file, and it may grow to the same size.
            state = status.st_size, status.st_mtime_ns
            if self._durable.get(name) != state:
                fdatasync(self._open[name])
                self._durable[name] = state

    def _find(self) -> None:
        """Open the files that a rewrite has added, and close those that it has removed."""
        path = os.path.join(self._data_dir, FILES_DIRECTORY)
        try:
            names = {name for name in os.listdir(path) if name.endswith(SUFFIX)}
        except FileNotFoundError:  # The store has not made it yet.
            names = set()
        for name in self._open.keys() - names:
            os.close(self._open.pop(name))
            self._durable.pop(name, None)
        for name in names - self._open.keys():
            # The store syncs the directory of these files whenever it changes, but not the one above it.
            sync_directory(path)
            sync_directory(self._data_dir)
            try:
                self._open[name] = os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # A rewrite has removed it just now.
                continue


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable (fsync(2)). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def send_to_store(socket_path: str, *commands: bytes) -> bool:
    """Send inline commands; False where the store is away, which then comes back with its own configuration."""
    import socket  # Here, since a process whose disk is healthy never needs it.

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(COMMAND_SECONDS_MAX)
            connection.connect(socket_path)
            for command in commands:
                connection.sendall(command + b"\r\n")
                connection.recv(4_096)
    except OSError:
        return False
    return True


def report(trouble: str) -> bool:
    """Write the line of a round; False where nobody reads it, which matters less than the fsyncs."""
    try:
        os.write(1, trouble.encode(errors="replace").replace(b"\n", b" ") + b"\n")
    except OSError:
        return False
    return True


def pause_after(seconds: float) -> float:
    """Return the seconds to wait after a round that took ``seconds``."""
    return min(max(PAUSE_SECONDS_MIN, seconds * PAUSE_SHARE), PAUSE_SECONDS_MAX)


def main(data_dir: str, socket_path: str) -> None:
    """Sync in rounds until standard input says to stop."""
    files = Files(data_dir)
    os.set_blocking(1, False)
    failed_at = 0.0
    stopping = False
    while True:
        began = time.monotonic()
        trouble = ""
        try:
            files.sync()
            if failed_at and began - failed_at > HEALTHY_SECONDS:
                failed_at = 0.0
                # What the failed fsync dropped is in the store's memory still, and a rewrite writes all of that.
                send_to_store(socket_path, b"BGREWRITEAOF", b"CONFIG SET appendfsync no")
        except OSError as error:
            trouble, failed_at = f"fsync of the store's files in {data_dir} failed: {error}", time.monotonic()
            # The store then syncs the file itself, gets the same error, and refuses writes until an fsync succeeds.
            send_to_store(socket_path, b"CONFIG SET appendfsync everysec")
        report(trouble)
        if stopping:
            return
        pause = PAUSE_SECONDS_MAX if trouble else pause_after(time.monotonic() - began)
        stopping = bool(select.select([0], [], [], pause)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
