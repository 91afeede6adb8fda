"""Fixtures over real parts: stores, a stream of one's own, servers."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support import Server, debian_redis
from wsgi.store import EmbeddedStore

Serve = Callable[..., Server]


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
def stream() -> str:
    """A stream's name that nobody else uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def client(valkey: str) -> Iterator[Any]:
    """redis-py on the session's Valkey."""
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start gunicorn on a free port: ``serve("-k", "sync", REDIS_URL=...)``; stopped after the test."""
    servers: list[Server] = []

    def start(*args: str, app: str = "app:application", **env: str) -> Server:
        servers.append(Server(app, args, env))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
