"""Fixtures of the consumer library's tests: a reader of either kind, and a client of each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.consumer.support import Run, connect, runner


@pytest.fixture(params=["sync", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """A reader of either kind."""
    return runner(request.param)


@pytest.fixture
def db(store_url: str) -> Iterator[Any]:
    """redis-py on the store in turn."""
    with connect(store_url) as client:
        yield client
