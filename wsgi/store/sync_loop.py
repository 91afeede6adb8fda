"""The program that fsyncs a store's append-only files, over and over: ``python sync_loop.py DATA_DIR SOCKET``.

What lives here: finding the files through rewrites, fsync, and what to do when it fails or a file is gone. What must
not: who runs it (``syncing``), and more imports: it runs without the package, as a process of 3 MB.

Standard input is its life: it ends, after a last round, when a byte or the end arrives there. Standard output gets one
line for each round: empty, or what is wrong.

A file whose fsync has failed is in doubt: the kernel may have dropped what was not on the disk yet. The store still has
it in memory, so it is asked for a rewrite, again and again, until its manifest lists none of the files in doubt. Only a
rewrite that began after they came into doubt can do that, since every rewrite starts with a new file.

This process can be killed at any instant. While it runs, a file ``unsynced.PID`` lies in the data directory. Only a
last round after which all is well removes it. Whoever finds one of another process doubts every file. It needs no
fsync: after a power failure there is nothing left to doubt, since the store has read what the disk holds.
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
"""Without an error, until the store leaves its fsyncs to this process again and is asked for a rewrite."""
RETRY_SECONDS = 1.0
"""Between two commands to the store that it has not carried out."""
REWRITE_SECONDS = 30.0
"""From a rewrite that has started to the next one, should it fail: each leaves one more file behind."""
COMMAND_SECONDS_MAX = 1.0
"""Deadline of each step of a command to the store: fsyncs wait meanwhile."""
REPLY_BYTES_MAX = 4_096
"""Of a command's reply, which is one line."""
FILES_DIRECTORY = "appendonlydir"
"""Directory of the append-only files within the data directory: the store's default ``appenddirname``."""
MANIFEST = "appendonly.aof.manifest"
"""Lists the files that hold the data, the oldest first. The store replaces it in one step (rename)."""
MARK = "unsynced."
"""Start of the name of the file that says that a process has not ended well yet."""
ENDED = (
    "the process that fsyncs the store's files ended without a last fsync; "
    "a power failure can lose records that were accepted since"
)

# macOS has no fdatasync(2).
fdatasync = getattr(os, "fdatasync", os.fsync)


class Files:
    """The append-only files of a store; each is kept open, so no error of its disk is missed (errseq_t in Linux).

    ``missing`` has the names of those that somebody has removed.
    """

    def __init__(self, data_dir: str) -> None:
        self._data_dir = data_dir
        self._directory = os.path.join(data_dir, FILES_DIRECTORY)
        self._open: dict[str, int] = {}
        self._durable: dict[str, tuple[int, int]] = {}
        self._mark = f"{MARK}{os.getpid()}"
        self._marked = False
        self._left = [name for name in os.listdir(data_dir) if name.startswith(MARK)]
        # None: every file that the manifest lists at the next look.
        self._doubted: set[str] | None = None if self._left else set()
        self.missing: set[str] = set()

    @property
    def in_doubt(self) -> bool:
        """Whether a file is missing, or may lack what was written to it."""
        return self._doubted is None or bool(self._doubted or self.missing)

    def sync(self) -> None:
        """Make durable what was written before this call (fdatasync(2)). Raises OSError; all files are in doubt then.

        The next call tries again.
        """
        try:
            self._look()
            # Older files first: the store does not start if a file that is not its last one was cut off.
            for name, file in self._open.items():
                status = os.fstat(file)
                # The time too: after a failed write the store truncates the file, and it may grow to the same size.
                state = status.st_size, status.st_mtime_ns
                if self._durable.get(name) != state:
                    fdatasync(file)
                    self._durable[name] = state
        except OSError:
            self._doubted = None
            raise

    def clear(self) -> None:
        """Forget the processes that did not end well before this one: what they have left is in doubt no more."""
        for name in self._left:
            if name != self._mark:
                remove(os.path.join(self._data_dir, name))
        self._left = []

    def close(self) -> None:
        """Note that all is well; there is no further call."""
        remove(os.path.join(self._data_dir, self._mark))

    def _look(self) -> None:
        """Open the files that a rewrite has added, close those that it has replaced, and find those that are gone."""
        listed = self._listed()
        if not self._marked and (listed or self._left):
            mark = os.path.join(self._data_dir, self._mark)
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._marked = True
        if not listed:
            # No mark: the store has not made it yet.
            self.missing = {MANIFEST} if self._marked else set()
            return
        for name in self._open.keys() - listed:
            os.close(self._open.pop(name))
            self._durable.pop(name, None)
        for name in listed:
            # The store itself syncs a base file, once.
            if name.endswith(".incr.aof") and name not in self._open:
                self._add(name)
        missing = {name for name in listed if not self._is_there(name)}
        if missing and self._listed() != listed:
            return  # A rewrite has just replaced them.
        self.missing = missing
        doubted = set(listed) if self._doubted is None else self._doubted
        self._doubted = (doubted | missing) & set(listed)

    def _listed(self) -> list[str]:
        """Return the names in the manifest; empty if there is none."""
        try:
            with open(os.path.join(self._directory, MANIFEST), "rb") as manifest:
                lines = manifest.read().decode(errors="replace").split("\n")
        except FileNotFoundError:
            return []
        # "file NAME seq NUMBER type b"; of type h are those that a rewrite has replaced.
        words = [line.split() for line in lines if line.startswith("file ")]
        return [line[1] for line in words if line[-2:] != ["type", "h"]]

    def _add(self, name: str) -> None:
        # The store syncs the directory of these files whenever it changes, but not the one above it.
        sync_directory(self._directory)
        sync_directory(self._data_dir)
        try:
            self._open[name] = os.open(os.path.join(self._directory, name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # Removed by a rewrite, or by somebody else.

    def _is_there(self, name: str) -> bool:
        """Tell whether a file exists, and is still the one that the store writes to."""
        try:
            status = os.stat(os.path.join(self._directory, name))
        except FileNotFoundError:
            return False
        return name not in self._open or os.path.samestat(status, os.fstat(self._open[name]))


class Rounds:
    """What is done in each round, and what is wrong after it: ``trouble``, empty if all is well."""

    def __init__(self, data_dir: str, socket_path: str) -> None:
        self.files = Files(data_dir)
        self._data_dir, self._socket_path = data_dir, socket_path
        self.trouble = ENDED if self.files.in_doubt else ""
        # The process before this one may have had an error, and left the store as it needs to be then.
        self._failed_at = time.monotonic() if self.trouble else float("-inf")
        self._leaves_fsyncs = not self.trouble
        self._next = 0.0
        self._reported_missing = False

    def run(self) -> None:
        """Sync the files, and do what is next to have all well."""
        try:
            self.files.sync()
        except OSError as error:
            self._failed_at, self._leaves_fsyncs = time.monotonic(), False
            self.trouble = (
                f"fsync of the store's files in {self._data_dir} failed: {error}; "
                "a power failure can lose records that were accepted since"
            )
            # The store then syncs the file itself, gets the same error, and refuses writes until an fsync succeeds.
            send_to_store(self._socket_path, b"CONFIG SET appendfsync everysec")
            return
        if self.files.missing and not self._reported_missing:
            self._reported_missing = True
            names = ", ".join(sorted(self.files.missing))
            self.trouble = (
                f"{names} was removed from {self._data_dir}/{FILES_DIRECTORY}; the store is writing its files anew "
                "from memory, and loses records if it ends before a line says that they are fsynced again; if none "
                "follows, copy the records (inlet export) before you stop it"
            )
        now = time.monotonic()
        if self.trouble and now - self._failed_at > HEALTHY_SECONDS:
            self._repair(now)

    def _repair(self, now: float) -> None:
        """Take the next step from trouble to all well, unless it has to wait."""
        if self._leaves_fsyncs and not self.files.in_doubt:
            self.files.clear()
            self.trouble, self._reported_missing = "", False
        elif now >= self._next:
            self._next = now + RETRY_SECONDS
            if not self._leaves_fsyncs:
                # First: a store that fsyncs itself holds writes back, and a kill loses them.
                reply = send_to_store(self._socket_path, b"CONFIG SET appendfsync no")
                self._leaves_fsyncs = reply.startswith(b"+OK")
            elif b"started" in send_to_store(self._socket_path, b"BGREWRITEAOF"):
                # Any other reply, such as that one is in progress which began earlier: ask again soon.
                self._next = now + REWRITE_SECONDS


def remove(path: str) -> None:
    """Remove a file unless it is gone, or the disk refuses, and then the next process doubts its files."""
    try:
        os.unlink(path)
    except OSError:
        return


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable (fsync(2)). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def send_to_store(socket_path: str, command: bytes) -> bytes:
    """Send an inline command and return the start of its reply; empty where the store is away or does not answer."""
    import socket  # Here, since a process whose disk is healthy never needs it.

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(COMMAND_SECONDS_MAX)
            connection.connect(socket_path)
            connection.sendall(command + b"\r\n")
            return connection.recv(REPLY_BYTES_MAX)
    except OSError:
        return b""


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
    rounds = Rounds(data_dir, socket_path)
    os.set_blocking(1, False)
    stopping = False
    while True:
        began = time.monotonic()
        rounds.run()
        report(rounds.trouble)
        if stopping:
            break
        pause = PAUSE_SECONDS_MAX if rounds.trouble else pause_after(time.monotonic() - began)
        stopping = bool(select.select([0], [], [], pause)[0])
    if not rounds.trouble:
        rounds.files.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
