"""Fixtures of the sink's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sink.support import Sink, Store
from tests.support import listen_on_a_free_port, wait_until


@pytest.fixture(params=["blocking", "loop"])
def driven(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Drive every sink of this test by blocking calls, then by an event loop."""
    monkeypatch.setattr(Sink, "driven", request.param)
    return str(request.param)


@pytest.fixture
def stores() -> Iterator[Any]:
    """Start stores with options of their own."""
    started: list[Store] = []

    def start(*options: str) -> Store:
        started.append(Store(*options))
        return started[-1]

    yield start
    for store in started:
        store.close()


@pytest.fixture
def pair(stores: Any) -> tuple[Store, Store]:
    """A primary and its replica, connected."""
    primary = stores()
    replica = stores("--replicaof", f"127.0.0.1 {listen_on_a_free_port(primary.client)}")
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "the replica is connected")
    return primary, replica
