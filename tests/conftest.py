"""Fixtures over real parts (stores, a stream of one's own, servers), and what holds for the whole run.

What lives here: fixtures that several folders share, how files are spread over processes, and the check that nothing is
left behind. What must not: the parts themselves (``tests.support``).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis

from tests.consumer.support import connect
from tests.support import Server, debian_redis, processes_of
from wsgi.store.embedded import EmbeddedStore

Serve = Callable[..., Server]

# The same examples in every run, with no deadline: a machine that is slow for a moment is no fault of the code.
hypothesis.settings.register_profile("inlet", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("inlet")

ROW_FILES = re.compile(r"tests/faults/test_(\w+_faults|power_cut)\.py")
"""Files whose every case has a server and a store of its own."""
_left_behind: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a directory for everything temporary. Processes of pytest-xdist inherit it."""
    if not hasattr(config, "workerinput"):
        os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="inlet-run-")
    tempfile.tempdir = os.environ["TMPDIR"]
    # A shell that starts this in its background ignores both. Programs under test would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file in one process, so that its fixtures start once; rows of the fault suite go anywhere.

    In the order of collection: the files that take longest come first, so that no process is left with one at the end.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FilesAndRows(LoadScopeScheduling):  # type: ignore[misc]  # has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if ROW_FILES.fullmatch(file) else file

    config.option.loadscopereorder = False
    return FilesAndRows(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if it left a process or a file behind. At the end of all, so not in a process of pytest-xdist."""
    if hasattr(session.config, "workerinput"):
        return
    directory = Path(os.environ["TMPDIR"])
    _left_behind.extend(f"process {pid}: {words}" for pid, words in processes_of(directory).items())
    # pytest's own, for tmp_path.
    _left_behind.extend(str(path) for path in directory.iterdir() if not path.name.startswith("pytest-of-"))
    if _left_behind:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    else:
        shutil.rmtree(directory, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was left behind."""
    for what in _left_behind:
        terminalreporter.write_line(f"left behind by the tests: {what}", red=True)


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a valkey-server of the wheel, shared by the session: use a stream of your own and flush nothing."""
    directory = tempfile.mkdtemp(prefix="inlet-")
    store = EmbeddedStore(Path(directory))
    try:
        yield store.start()
    finally:
        store.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis7() -> Iterator[str]:
    """URL of Debian's redis-server, shared by the session."""
    if shutil.which("redis-server") is None:
        pytest.skip("Debian's redis-server is not installed here")
    with debian_redis() as url:
        yield url


@pytest.fixture(scope="session", params=["valkey", "redis7"])
def store_url(request: pytest.FixtureRequest) -> str:
    """URL of each kind of store in turn."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def own_store() -> Iterator[EmbeddedStore]:
    """A store that this test may stop, pause or spoil."""
    with tempfile.TemporaryDirectory(prefix="inlet-") as directory:
        store = EmbeddedStore(Path(directory))
        store.start()
        yield store
        store.stop()


@pytest.fixture
def stream() -> str:
    """A stream's name that nobody else uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def client(valkey: str) -> Iterator[Any]:
    """redis-py on the session's Valkey."""
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
def db(store_url: str) -> Iterator[Any]:
    """redis-py on the store in turn."""
    with connect(store_url) as client:
        yield client


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start gunicorn on a free port: ``serve("-k", "sync", REDIS_URL=...)``; stopped after the test."""
    # The last one is closed first: it may use the directory of an earlier one.
    with contextlib.ExitStack() as servers:

        def start(*args: str, app: str = "app:application", **env: str) -> Server:
            server = Server(app, args, env)
            servers.callback(server.close)
            return server

        yield start
