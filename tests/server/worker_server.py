"""A real gunicorn with the phased worker as a subprocess, and a raw-socket HTTP client, for the worker's tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parent.parent.parent
DEADLINE_SECONDS = 60.0
"""For everything that must happen at all; generous, since the machine may be busy."""


class Answer(NamedTuple):
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A socket that sends bytes and reads responses one by one."""

    def __init__(self, address: Any, *, tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_SECONDS)
        self.sock.connect(address)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def get(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request and read its answer."""
        self.send(request(target, *headers, method=method, body=body))
        return self.read(method=method)

    def _fill(self) -> bool:
        data = self.sock.recv(1 << 20)
        self.buffer += data
        return bool(data)

    def read(self, *, method: str = "GET") -> Answer:
        """The next response; ConnectionError where the connection ends first."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._fill():
                raise ConnectionError(f"the server closed after {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if method == "HEAD" or status in (100, 204, 304):
            return Answer(status, headers, b"", head)
        if "content-length" in headers:
            body = self._take(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._line(), 16):
                body += self._take(size)
                assert self._line() == b""
            assert self._line() == b""
        else:
            body = self.rest()
        return Answer(status, headers, body, head)

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._fill():
                raise ConnectionError("the server closed in mid-body")
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self._fill():
                raise ConnectionError("the server closed in mid-body")
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def rest(self) -> bytes:
        """All bytes until the server closes; a reset raises."""
        while self._fill():
            pass
        taken, self.buffer = self.buffer, b""
        return taken

    def closed(self) -> bool:
        """Wait until the server closes; False where it sends something instead."""
        try:
            return not self._fill()
        except ConnectionError:
            return True


def request(target: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A well-formed HTTP/1.1 request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Server:
    """gunicorn with the phased worker. ``limits``: of ``Limits``, by name; ``conf``: lines of its configuration."""

    def __init__(
        self,
        *args: str,
        app: str = "tests.server.worker_apps:application",
        limits: dict[str, float] | None = None,
        conf: str = "",
        binds: tuple[str, ...] = ("127.0.0.1:0",),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="server-"))
        config = self.directory / "conf.py"
        given = ", ".join(f"{name}={value!r}" for name, value in (limits or {}).items())
        config.write_text(
            "from wsgi.server.limits import Limits\n"
            "from wsgi.server.worker import PhasedWorker\n"
            f"class Tested(PhasedWorker):\n    limits = Limits({given})\n"
            "worker_class = Tested\ncontrol_socket_disable = True\n"
            f"def post_worker_init(worker): worker.log.info('Ready: %s', worker.pid)\n{conf}\n"
        )
        command = [sys.executable, "-m", "gunicorn", "-c", str(config), *args]
        for bind in binds:
            command += ["-b", bind]
        self.log_path = self.directory / "log"
        self.kept_log = ""
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, app],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def log(self) -> str:
        """All that was written, also after the end, when the file is gone."""
        if self.log_path.exists():
            self.kept_log = self.log_path.read_text(errors="replace")
        return self.kept_log

    def __enter__(self) -> Server:
        try:
            listening = self.wait_for(r"Listening at: (.*) \(\d+\)")
            urls = listening.split(",")
            ports = [int(match[1]) for url in urls if (match := re.search(r":(\d+)$", url))]
            self.addresses: list[Any] = [("127.0.0.1", port) for port in ports]
            if self.addresses:
                self.address = self.addresses[0]
            self.wait_for("Using worker: .*Tested")
            self.wait_for(r"Ready: (\d+)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            for pid in self.workers():
                self.process.send_signal(signal.SIGCONT)
                with contextlib.suppress(ProcessLookupError):  # It has ended since.
                    os.kill(pid, signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                for pid in self.workers():
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
                self.process.wait(10)
        self.log()
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, *, tls: ssl.SSLContext | None = None) -> Client:
        return Client(self.address, tls=tls)

    def workers(self) -> list[int]:
        """Pids of the live workers."""
        try:
            found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in found.split()]

    def ready(self, count: int) -> list[int]:
        """Wait until there are ``count`` workers, all of which take signals; their pids.

        gunicorn loses a TERM to a worker that is still starting, and is slow to act on a HUP while it still starts
        workers, whatever their class.
        """

        def are_ready() -> bool:
            pids, log = self.workers(), self.log()
            return len(pids) == count and all(f"Ready: {pid}\n" in log for pid in pids)

        until(are_ready, f"{count} workers are ready", self)
        return self.workers()

    def wait_for(self, pattern: str) -> str:
        """Wait for a line in the log; its first group."""
        found: list[str] = []

        def look() -> bool:
            match = re.search(pattern, self.log())
            if match:
                found.append(match[1] if match.groups() else match[0])
            return bool(match)

        until(look, f"{pattern!r} in the log", self)
        return found[0]

    def exited(self) -> int:
        """Wait until the master ends; its exit code."""
        return self.process.wait(DEADLINE_SECONDS)


def until(condition: Any, what: str, server: Server | None = None) -> None:
    """Poll for a condition; AssertionError, with the server's log, where it never comes."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > end or (server is not None and server.process.poll() is not None and not condition()):
            raise AssertionError(f"never: {what}\n{server.log() if server else ''}")
        time.sleep(0.02)


def resident_kib(pid: int) -> int:
    """The process's resident memory (VmRSS of proc(5)), in KiB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
