"""The peers: one table of who takes part, what each promises with its 202, how it is built and started.

What lives here: the table, building, starting and ending one peer. What must not: loads, measuring. Sources are in
``bench/peers/<name>/``; what is built goes to ``bench/peers/build/``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.traffic import FIXED, GZIP, VARIED, ZSTD, Request

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench" / "peers"
BUILD = SOURCES / "build"
PROCESSES = 2
"""Processes of every service, or threads of its runtime (GOMAXPROCS, tokio workers)."""
THREADS = 16
"""Threads per process of the WSGI servers that have threads."""
START_SECONDS_MAX = 30.0
"""How long a peer may take until it answers."""
STOP_SECONDS_MAX = 10.0
"""How long a peer may take to end after TERM, before KILL."""
POLL_SECONDS = 0.02

POOL_SIZE = 64
"""Connections to the store of the peers that have a pool and send one command per connection at a time."""

SINGLE, BULK, OPEN, MIXED = "single", "bulk100", "open", "mixed"
KINDS = (SINGLE, BULK, OPEN, MIXED)
ONE = frozenset({SINGLE, OPEN})
ALL = frozenset(KINDS)
PLAIN = frozenset({FIXED, VARIED})
CODED = PLAIN | {GZIP, ZSTD}
"""What a peer takes if it decodes compressed bodies."""


@dataclass(frozen=True)
class Place:
    """Where a peer runs: its port, the store's socket, and a directory of its own."""

    port: int
    store: Path
    directory: Path


@dataclass(frozen=True)
class Peer:
    """One row. ``loads``, ``contents``: the kinds of load, and what they may send, that it can take.

    ``stores``: whether records must be found in the stream; ``status``: of an answer that promises.
    """

    name: str
    what: str
    command: Callable[[Place], list[str]]
    loads: frozenset[str] = ONE
    contents: frozenset[str] = PLAIN
    stores: bool = True
    status: int = 202
    env: dict[str, str] = field(default_factory=dict)
    needs: Path | None = None
    tree: Path = ROOT
    """Working directory: where Inlet's own rows find the application."""
    headers: dict[str, str] = field(default_factory=dict)
    """Header fields that the probe needs besides; what the load needs is in its traffic."""
    probe: Request | None = None
    """What it must answer before it counts as up; None: the article's record."""

    def is_built(self) -> bool:
        """Whether it can be started."""
        return self.needs is None or self.needs.exists() or shutil.which(str(self.needs)) is not None


def _binary(name: str, what: str, loads: frozenset[str] = ONE, **options: object) -> Peer:
    path = BUILD / "bin" / name
    return Peer(name, what, lambda place: [str(path)], loads, needs=path, **options)  # type: ignore[arg-type]


INLET_WORKERS = {
    "inlet": ("-k", "wsgi.worker.PhasedWorker"),
    "inlet_gthread": ("-k", "gthread", "--threads", "8"),
    # One thread, said here as well: with more, gunicorn runs gthread in place of sync.
    "inlet_sync": ("-k", "sync", "--threads", "1"),
}
"""gunicorn's options of Inlet's own rows."""


def inlet(
    name: str,
    what: str,
    worker: tuple[str, ...],
    loads: frozenset[str] = ALL,
    tree: Path = ROOT,
    app: str = "app:application",
) -> Peer:
    """Return a row of Inlet itself, from the checkout ``tree``."""

    def command(place: Place) -> list[str]:
        bind = ("--bind", f"127.0.0.1:{place.port}", "--workers", str(PROCESSES))
        return [sys.executable, "-m", "gunicorn", app, "--log-level", "warning", *bind, *worker]

    return Peer(name, what, command, loads, CODED, env={"PYTHONPATH": str(tree)}, tree=tree)


def _inlet(name: str, what: str, loads: frozenset[str] = ALL) -> Peer:
    return inlet(name, what, INLET_WORKERS[name], loads)


def _python(*words: str) -> list[str]:
    return [str(BUILD / "venv" / "bin" / "python"), "-m", *words]


def _fastapi(place: Place) -> list[str]:
    where = ("--host", "127.0.0.1", "--port", str(place.port), "--app-dir", str(SOURCES / "py_fastapi"))
    return _python(
        "uvicorn", "app:app", "--workers", str(PROCESSES), *where, "--no-access-log", "--log-level", "warning"
    )


def _flask(place: Place) -> list[str]:
    how = ("-k", "gthread", "--threads", str(THREADS), "--workers", str(PROCESSES), "--keep-alive", "75")
    where = ("--bind", f"127.0.0.1:{place.port}", "--chdir", str(SOURCES / "py_flask"))
    # A configuration of its own: the one in the project's directory is Inlet's.
    return _python("gunicorn", "app:app", "--config", os.devnull, "--no-control-socket", *how, *where)


def _granian(place: Place) -> list[str]:
    how = ("--interface", "wsgi", "--workers", str(PROCESSES), "--blocking-threads", str(THREADS), "--no-ws")
    where = ("--host", "127.0.0.1", "--port", str(place.port), "--log-level", "error")
    return _python("granian", *how, *where, "shim:application")


def _webdis(place: Place) -> list[str]:
    settings = {
        "redis_host": str(place.store),  # a path is taken for a unix socket
        "redis_port": 0,
        "http_host": "127.0.0.1",
        "http_port": place.port,
        "threads": PROCESSES,
        "pool_size": 16,
        "daemonize": False,
        "verbosity": 0,
        "logfile": str(place.directory / "webdis.log"),
    }
    path = place.directory / "webdis.json"
    path.write_text(json.dumps(settings))
    return ["webdis", str(path)]


def _uvloop(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [sys.executable, str(SOURCES / name / "server.py")]


_VENV = BUILD / "venv" / "bin" / "python"
_SHIM = {"PYTHONPATH": f"{SOURCES / 'granian'}:{ROOT}"}
_BOTH = ALL - {MIXED}
_GO = {"GOMAXPROCS": str(PROCESSES)}
GO_RECEIVERS = _binary(
    "go_receivers",
    "Go net/http + pdata, fastjson, Loki's logproto + go-redis, one XADD a request",
    frozenset({BULK}),
    env={**_GO, "GOGC": "400"},
)
"""The other side of ``bench.receivers``. It takes no load of the comparison, and so is not in PEERS."""

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        _inlet("inlet", "Inlet, on its own worker"),
        _inlet("inlet_gthread", "Inlet on gunicorn's gthread"),
        _inlet("inlet_sync", "Inlet on gunicorn's sync (a connection a request)", ONE - {OPEN}),
        _binary("go_article", "the article's Go service; stores nothing", stores=False, env=_GO),
        # Its borrowed strings cannot hold escapes, which varied records have.
        _binary(
            "rust_article",
            "the article's Rust service; stores nothing",
            contents=frozenset({FIXED}),
            stores=False,
        ),
        # GOGC: fewer collections for a heap of a few MB more; the usual first step in tuning such a service.
        _binary("go_goredis", "Go net/http + go-redis, one XADD a record", ALL, env={**_GO, "GOGC": "400"}),
        _binary("go_rueidis", "Go net/http + rueidis, one XADD a record, pipelined", env={**_GO, "GOGC": "400"}),
        _binary("rust_redis", "Rust axum + redis-rs multiplexed, one XADD a record", ALL),
        _binary("rust_commit", "Rust hyper + hand-written group commit", ALL),
        Peer("py_fastapi", "FastAPI + uvicorn + redis.asyncio, one XADD a record", _fastapi, needs=_VENV),
        Peer("py_flask", "Flask + gunicorn gthread + redis-py, one XADD a record", _flask, needs=_VENV),
        Peer("granian", "Inlet's app under Granian's WSGI server", _granian, _BOTH, CODED, env=_SHIM, needs=_VENV),
        # The request names the command and holds the record percent-encoded, so it cannot be the bytes of the others.
        Peer(
            "webdis",
            "Webdis: HTTP to XADD, checks nothing",
            _webdis,
            ONE,
            frozenset({FIXED}),
            status=200,
            needs=Path("webdis"),
        ),
        Peer(
            "uvloop_commit",
            "bound: the least Python that stores a record, checks nothing",
            _uvloop("uvloop_commit"),
        ),
        Peer(
            "uvloop_constant",
            "bound: uvloop + httptools, a constant 202",
            _uvloop("uvloop_constant"),
            _BOTH,
            CODED,
            stores=False,
        ),
    )
}


class PeerFailed(RuntimeError):
    """A peer did not start, or ended by itself; the text holds the end of its log."""


class Running:
    """``with Running(peer, store_socket, probe) as running``: the peer answers on ``running.port``.

    ``probe`` is a request (method, path, headers, body) that it must answer with its status before it counts as up.
    ``pool_size`` is how many connections to the store a peer with a pool keeps.
    """

    def __init__(self, peer: Peer, store: Path, probe: Request, pool_size: int = POOL_SIZE) -> None:
        self.peer, self._probe = peer, probe
        self._ended = False
        self._reserved = reserve_port()
        self.port = port_of(self._reserved)
        self.directory = Path(tempfile.mkdtemp(prefix="inlet-peer-"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("INLET_", "BENCH_"))}
        for name in ("REDIS_URL", "PORT", "WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR"):
            kept.pop(name, None)
        if peer.name == "granian":  # gunicorn.conf.py makes this directory for the others
            kept["PROMETHEUS_MULTIPROC_DIR"] = str(self.directory)
        given = {"BENCH_PORT": str(self.port), "BENCH_REDIS_SOCKET": str(store), "REDIS_URL": f"unix://{store}"}
        given["BENCH_POOL_SIZE"] = str(pool_size)
        command = peer.command(Place(self.port, store, self.directory))
        with open(self.directory / "peer.log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=peer.tree,
                env=kept | given | peer.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that all of it can be ended at once
            )

    def log(self) -> str:
        """The last lines the peer wrote."""
        return "\n".join((self.directory / "peer.log").read_text(errors="replace").splitlines()[-12:])

    def __enter__(self) -> Running:
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = ask(self.port, *self._probe)
                if status == self.peer.status:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed(f"{self.peer.name} does not start:\n{self.log()}")
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Ask it to end, wait, then kill whatever is left of it. Safe to call again."""
        if self._ended:
            return
        self._ended = True
        pid = self.process.pid
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS_MAX
            # Not waited for yet, so that its number stays its own until the rest of its session has been killed.
            while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self.process.wait()

    def __exit__(self, *error: object) -> None:
        self.end()
        self._reserved.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> int:
    """Status of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def reserve_port() -> socket.socket:
    """Return a socket that holds a TCP port of 127.0.0.1 until it is closed, so that no one else is given it.

    The peer can listen on the port all the same: servers set SO_REUSEADDR, with which Linux lets sockets share a port
    as long as only one of them listens (socket(7)).
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def port_of(holder: socket.socket) -> int:
    """Return the port that it holds."""
    return int(holder.getsockname()[1])


def _run(words: list[str], directory: Path, **env: str) -> bool:
    print("+", " ".join(words), flush=True)
    try:
        return subprocess.run(words, cwd=directory, env=os.environ | env, check=False).returncode == 0
    except FileNotFoundError:
        print(f"  {words[0]} is not installed", flush=True)
        return False


def build() -> list[str]:
    """Build all peers, the open-loop generator and the delaying proxy; return what did not build.

    Needs go, cargo and a registry.
    """
    (BUILD / "bin").mkdir(parents=True, exist_ok=True)
    failed = []
    for name in ("openloop", "delay", "go_article", "go_goredis", "go_rueidis", "go_receivers"):
        if not _run(["go", "build", "-trimpath", "-o", str(BUILD / "bin" / name), "."], SOURCES / name):
            failed.append(name)
    built = _run(["cargo", "build", "--release"], SOURCES, CARGO_TARGET_DIR=str(BUILD / "target"))
    for name in ("rust_article", "rust_redis", "rust_commit"):
        if built:
            shutil.copy2(BUILD / "target" / "release" / name, BUILD / "bin" / name)
        else:
            failed.append(name)
    requirements = ("-r", str(ROOT / "requirements.txt"), "-r", str(SOURCES / "requirements.txt"))
    pip = [str(_VENV), "-m", "pip", "install", "--quiet", *requirements]
    if not (_run([sys.executable, "-m", "venv", str(BUILD / "venv")], ROOT) and _run(pip, ROOT)):
        failed += ["py_fastapi", "py_flask", "granian"]
    return failed
