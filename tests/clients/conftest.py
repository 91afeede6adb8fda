"""Fixtures of the tests of real clients: an Inlet without keys, and one with them.

What lives here: fixtures. What must not: anything about one client.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.support import Inlet


@pytest.fixture
def inlet() -> Iterator[Inlet]:
    """An Inlet without keys, deduplication on, on a store that the test may kill (``outage``)."""
    with Inlet() as started:
        yield started


@pytest.fixture
def keyed() -> Iterator[Inlet]:
    """The same with a keys file; ``keyed.key`` is the key that a client must send."""
    with Inlet(keys=True) as started:
        yield started
