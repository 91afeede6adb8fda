"""What the tests over real parts share: gunicorn as a subprocess, raw HTTP over a socket, the stream read back.

What lives here: starting, reaching and ending real parts. What must not: assertions about Inlet's behavior.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import redis
import ujson

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 60.0
"""How long anything may take before a test fails: generous, since machines are shared."""
SETTINGS = ("REDIS_URL", "PORT", "WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR")
"""Environment variables that Inlet reads, beside those that start with ``INLET_``."""
RECORD = {
    "event_id": "e-1",
    "timestamp": "2026-01-31T23:59:59.123Z",
    "service": "checkout",
    "message": "paid",
    "metadata": {"region": "eu-1"},
}


def record(event_id: str = "e-1", **members: object) -> dict[str, object]:
    """A valid record, with these members changed."""
    return {**RECORD, "event_id": event_id, **members}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Return the first true value of ``condition``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)
    return value


class Server:
    """gunicorn in a process of its own on a free port, with everything it wrote to its log.

    Raises AssertionError if it does not start, or if another worker class runs than ``-k`` asks for.
    """

    def __init__(self, app: str, args: Iterable[str], env: dict[str, str], python: Iterable[str] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inlet-"))
        self.log_path = self.directory / "gunicorn.log"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("INLET_") and name not in SETTINGS
        }
        # Of its own, so that whatever belongs to this server can be found and removed, orphans included.
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self._metrics: set[Path] = set()
        options = list(args)
        if not any(option in ("-b", "--bind") for option in options):
            options += ["--bind", "127.0.0.1:0"]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*(python or (sys.executable,)), "-m", "gunicorn", app, *options],
                cwd=ROOT,
                env={**inherited, "INLET_DATA_DIR": str(self.data_dir), "TMPDIR": str(self.temporary), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._is_up, "gunicorn listens and its workers have booted")
            asked = next((words[1] for words in itertools.pairwise(options) if words[0] == "-k"), None)
            assert asked in (None, self.worker_class), f"-k {asked} runs {self.worker_class}"
        except BaseException:
            self.close()
            raise
        self.metrics_directories()
        addresses = re.findall(r"Listening at: (.+) \(\d+\)", self.log())
        self.host, _, port = addresses[0].split(",")[0].removeprefix("http://").rpartition(":")
        self.port = int(port) if port.isdigit() else 0

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log()
        return bool(self.booted()) and "Listening at" in self.log()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def worker_class(self) -> str:
        """The worker class that runs, by the name that gunicorn logs: ``sync``, ``gthread`` or an import path."""
        return found[1] if (found := re.search(r"Using worker: (\S+)", self.log())) else ""

    def metrics_directories(self) -> set[Path]:
        """Directories made for the metrics that the workers have mapped; ``close`` removes any that is still there."""
        maps = ""
        for pid in self.workers():
            with contextlib.suppress(OSError):
                maps += Path(f"/proc/{pid}/maps").read_text()
        self._metrics |= {
            Path(path).parent for path in re.findall(r"\S+/inlet-metrics-\w+/\S+\.db$", maps, re.MULTILINE)
        }
        return self._metrics

    @property
    def data_dir(self) -> Path:
        """INLET_DATA_DIR, unless the test gave another."""
        return self.directory / "data"

    def log(self) -> str:
        """All that the master and the workers wrote."""
        return self.log_path.read_text(errors="replace")

    def booted(self) -> list[int]:
        """Every worker that ever booted, by pid."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log())]

    def workers(self) -> list[int]:
        """The living children of the master that run gunicorn, by pid."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return [int(pid) for pid in children if int(pid) in self.booted()]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """TERM, and the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """Stop it, whatever state it is in, and remove what is left of it.

        Raises AssertionError if it ended as it should and left a temporary file or its metrics behind.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        ended_well = self.process.poll() == 0
        left = [str(path) for path in (*self.temporary.glob("*"), *self._metrics) if path.exists()]
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        kill_all(self.directory)
        for path in self._metrics:
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not (ended_well and left), f"gunicorn left behind {left}"

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection((self.host, self.port), DEADLINE_SECONDS)

    def send(self, data: bytes, *, half_close: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Send raw bytes on a connection of their own and read one answer: status, headers (lower case), body."""
        with self.connect() as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection, head=data.startswith(b"HEAD "))


def read_answer(connection: socket.socket, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Read one HTTP/1.1 answer with a Content-Length, or one that ends with the connection."""
    with connection.makefile("rb") as stream:
        status_line = stream.readline()
        assert status_line.startswith(b"HTTP/1."), f"no answer: {status_line!r}"
        headers: dict[str, str] = {}
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = headers.get("content-length")
        # RFC 9112 section 6.3: a 204 ends with its header section.
        if head or status_line.split()[1] == b"204":
            body = b""
        else:
            body = stream.read(int(length)) if length else stream.read()
    return int(status_line.split()[1]), headers, body


def processes_of(directory: Path) -> dict[int, str]:
    """The living processes, but this one, that name ``directory`` in their environment or command line, or run in it.

    By pid, with their command lines. valkey-server overwrites its environment with its title, so that alone is not
    enough.
    """
    found: dict[int, str] = {}
    name = str(directory).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            where = os.readlink(process / "cwd").encode()
            if int(process.name) != os.getpid() and name in words + b"\0" + where + (process / "environ").read_bytes():
                found[int(process.name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill_all(directory: Path) -> None:
    """SIGKILL every process of ``directory``, and wait until they are gone. This process keeps its own children."""
    while processes := processes_of(directory):
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def listen_on_a_free_port(client: Any) -> int:
    """Let a running store listen on TCP as well; the port. Another process may take a port that was free just now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        with contextlib.suppress(redis.ResponseError):
            client.config_set("port", str(port))
            return port


def entries(client: Any, stream: str) -> list[tuple[str, dict[bytes, bytes]]]:
    """Every entry of the stream, as XRANGE gives it."""
    return [(entry_id.decode(), fields) for entry_id, fields in client.xrange(stream)]


def stored_lines(client: Any, stream: str) -> list[list[Any]]:
    """Every record of the stream, decoded, in order; checks each entry's ``n``."""
    lines = []
    for _, fields in entries(client, stream):
        split = fields[b"r"].split(b"\n")
        assert len(split) == int(fields[b"n"])
        lines += [ujson.loads(line) for line in split]
    return lines


@contextlib.contextmanager
def debian_redis() -> Iterator[str]:
    """Debian's redis-server on a unix socket; yields its URL. The caller has checked that there is one."""
    directory = Path(tempfile.mkdtemp(prefix="inlet-"))
    path = directory / "redis.sock"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(directory), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = redis.Redis(unix_socket_path=str(path))

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(client.ping())
            return False

        wait_until(answers, "redis-server answers")
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)
        shutil.rmtree(directory, ignore_errors=True)
