"""Fixtures of the consumer library's tests: a reader of either kind, and a client of each kind of store."""

from __future__ import annotations

import pytest

from tests.consumer.support import Run, runner


@pytest.fixture(params=["sync", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """A reader of either kind."""
    return runner(request.param)
