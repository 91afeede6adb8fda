"""The rig: a store of the scenario's own, perhaps a replica and a proxy, the real server over them, and load.

What lives here: what is started, how it is reached, and that it is gone afterwards. What must not: faults.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import redis

from tests.faults.load import PACE_SECONDS, Load
from tests.faults.oracle import Address, Verdict, connect, judge_lines, read_lines
from tests.faults.proxy import Proxy
from tests.support import DEADLINE_SECONDS, Server, wait_until
from wsgi.store.server import server_binary

WORKERS = 2
WORKER_ARGS: tuple[str, ...] = ()
"""Options of gunicorn that choose the worker class; empty: the server's default, which is what must hold."""
STREAM = "faults"
LEVEL_ENV: dict[str, dict[str, str]] = {
    "received": {"INLET_DURABILITY": "received"},
    "stored": {},
    "synced": {"INLET_DURABILITY": "synced"},
    "replicated": {"INLET_DURABILITY": "replicated", "INLET_REPLICAS": "1"},
}
OPTIONS = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "logfile": "",
    "save": "",
    "appendonly": "yes",
    "maxmemory-policy": "noeviction",
    "enable-debug-command": "local",
    # A replica is in step within a second, so that a scenario is short.
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}
LAG_BYTES = 65_536
"""A follower within this many bytes is in step: under load it is never level."""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
"""libfaketime of Debian: preloaded, it gives a process the clock that a file says."""
_names = itertools.count()


class Store:
    """A valkey-server of the test's own on ``socket_path``, and on no port."""

    def __init__(self, options: Mapping[str, str], *, prefix: Sequence[str] = ()) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="inlet-"))
        self.directory = self.root / "data"
        self.directory.mkdir()
        self._inside = self.directory
        self.socket_path = str(self.root / "valkey.sock")
        self.log_path = self.root / "valkey.log"
        self._options, self._prefix = dict(options), list(prefix)
        self._env = dict(os.environ)
        self._process: subprocess.Popen[bytes] | None = None

    def set_clock(self) -> None:
        """Take the clock from the file ``clock`` in its directory; call it before ``start``."""
        clock = self.directory / "clock"
        clock.write_text("+0\n")
        self._env.update(
            LD_PRELOAD=str(FAKETIME), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )  # fmt: skip

    def set_disk(self, mount: Mount) -> None:
        """Keep its files on ``mount``; call it before ``start``."""
        self._prefix = ["nsenter", f"--target={mount.pid}", "--mount", *self._prefix]
        # The same directory, as seen from outside of the mount's namespace.
        self._inside, self.directory = self.directory, mount.seen_as

    @property
    def url(self) -> str:
        """REDIS_URL."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """Of valkey-server."""
        assert self._process is not None
        return self._process.pid

    def launch(self, **more: str) -> None:
        """Start the process; ``more`` are options of this start alone, ``_`` for ``-``."""
        options = {
            **OPTIONS, "dir": str(self._inside), "unixsocket": self.socket_path, "port": "0",
            **self._options, **{name.replace("_", "-"): value for name, value in more.items()},
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, server_binary(), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._env,
            )  # fmt: skip

    def start(self, **more: str) -> None:
        """Start it and wait until it serves."""
        self.launch(**more)
        wait_until(self.serves, "the store of the test serves")

    def serves(self) -> bool:
        """Whether it answers PING with PONG; raises AssertionError where the process has ended."""
        assert self.alive(), self.log_path.read_text(errors="replace")
        with contextlib.suppress(redis.RedisError, OSError), self.client() as client:
            return bool(client.ping())
        return False

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_SECONDS)

    def client(self) -> Any:
        """redis-py on its unix socket."""
        return connect(self.socket_path)

    def command(self, *words: str | int) -> Any:
        """One command on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*words)

    def config(self, **values: str | int) -> None:
        """CONFIG SET; ``_`` for ``-``."""
        for name, value in values.items():
            self.command("CONFIG", "SET", name.replace("_", "-"), value)

    def close(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


class Mount(NamedTuple):
    """A file system in a mount namespace of its own, which goes with the process that holds it."""

    pid: int
    seen_as: Path


@contextlib.contextmanager
def private_mount(directory: Path, size: int) -> Iterator[Mount]:
    """A tmpfs of ``size`` bytes on ``directory``, for the processes that join its namespace."""
    words = f'mount -t tmpfs -o size={size} inlet-faults "$0" && echo mounted && exec sleep infinity'
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", words, str(directory)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"mounted\n", "the tmpfs could not be mounted"
            yield Mount(holder.pid, Path(f"/proc/{holder.pid}/root{directory}"))
        finally:
            holder.kill()


@functools.cache
def no_private_mount() -> str:
    """Why this machine gives no file system of a test's own; empty if it does."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "unshare and nsenter (util-linux) are not installed"
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "inlet-faults", "/mnt"], capture_output=True, text=True
    )
    return "" if done.returncode == 0 else f"no mount namespace here: {done.stderr.strip()}"


class Rig:
    """Everything one scenario runs on; a context manager that leaves nothing behind."""

    def __init__(
        self,
        level: str,
        *,
        proxied: bool = False,
        replica: bool = False,
        own_store: bool = True,
        options: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        clock: bool = False,
        disk_bytes: int = 0,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        python: Sequence[str] = (),
    ) -> None:
        self.level = level
        self._closing = contextlib.ExitStack()
        self.streams = [STREAM]
        fsync = {"appendfsync": "always"} if level == "synced" else {}
        self._options = {**fsync, **(options or {})}
        self._prefix, self._clock, self._disk_bytes = prefix, clock, disk_bytes
        self._proxied, self._replicated, self.own_store = proxied, replica or level == "replicated", own_store
        self._env, self._args, self._python = dict(env or {}), list(args), list(python)
        self.store: Store
        self.replica: Store
        self.proxy: Proxy  # between the server and the store
        self.link: Proxy  # between the replica and the store that it follows, which has no port
        self.holder: Store  # of the stream in the end
        self.server: Server
        self._servers: list[Server] = []
        self.load: Load
        self.consumed: dict[Address, bytes] = {}  # lines that a consumer got, and that may have been trimmed since

    def __enter__(self) -> Rig:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        env = {"INLET_STREAM": STREAM, **LEVEL_ENV[self.level], **self._env}
        if self.own_store:
            self.store = Store(self._options, prefix=self._prefix)
            stack.callback(self.store.close)
            if self._clock:
                self.store.set_clock()
            if self._disk_bytes:
                self.store.set_disk(stack.enter_context(private_mount(self.store.root / "data", self._disk_bytes)))
            self.store.start()
            self.holder = self.store
            env["REDIS_URL"] = self.store.url
        if self._replicated:
            self.link = Proxy(self.store.socket_path)
            stack.callback(self.link.close)
            self.replica = Store({**self._options, "replicaof": f"127.0.0.1 {self.link.port}"})
            stack.callback(self.replica.close)
            self.replica.start()
            wait_until(self.in_step, "the replica is in step")
        if self._proxied:
            self.proxy = Proxy(self.store.socket_path)
            stack.callback(self.proxy.close)
            env["REDIS_URL"] = f"redis://127.0.0.1:{self.proxy.port}/0"
        self._env = env
        stack.callback(self._close_servers)
        self.start_server()
        stack.callback(lambda: self.load.stop())
        self.new_load()

    def start_server(self, **more: str) -> None:
        """Start the server; another, once the one before has ended. ``more`` is added to its environment."""
        self._close_servers()
        self._env.update(more)
        args = ["--workers", str(WORKERS), *WORKER_ARGS, *self._args]
        self.server = Server("app:application", args, self._env, self._python)
        self._servers.append(self.server)
        wait_until(lambda: len(self.server.workers()) == WORKERS, "all workers have booted")

    def _close_servers(self) -> None:
        while self._servers:
            self._servers.pop().close()

    def at_end(self, call: Callable[[], object]) -> None:
        """Have ``call`` made when the rig is taken down, before the store and the server are."""
        self._closing.callback(call)

    def new_load(self, pace: float = PACE_SECONDS) -> Load:
        """Load with ids of its own, not yet started, as ``load``. The one before has been stopped."""
        self.load = Load(f"{os.getpid()}-{next(_names)}", lambda: (self.server.host, self.server.port), pace=pace)
        return self.load

    def another_stream(self) -> str:
        """A key to which a fault moves the stream; the oracle reads it too."""
        self.streams.append(f"{STREAM}:moved-{len(self.streams)}")
        return self.streams[-1]

    def in_step(self) -> bool:
        """Whether the other store has loaded what the holder had, and follows: "online" alone comes before that."""
        follower = self.replica if self.holder is self.store else self.store
        info = self.holder.command("INFO", "replication")
        link = follower.command("INFO", "replication").get("master_link_status")
        return bool(link == "up" and info.get("slave0", {}).get("offset", -1) >= info["master_repl_offset"] - LAG_BYTES)

    def reader(self) -> Any:
        """A client of the store that holds the records in the end."""
        return self.holder.client() if self.own_store else connect(str(self.server.data_dir / "valkey.sock"))

    @property
    def reader_url(self) -> str:
        """The URL of the store that holds the records in the end."""
        return self.holder.url if self.own_store else f"unix://{self.server.data_dir / 'valkey.sock'}"

    def verdict(self) -> Verdict:
        """The oracle's, over all that the load noted and the stream holds or held; after ``load.stop``."""
        with self.reader() as client:
            # In this order: what is trimmed before it is read here was consumed before that.
            lines = dict(read_lines(client, *self.streams))
        lines.update(self.consumed)
        return judge_lines(self.load.answers, lines.values())


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP now, SIGCONT afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
