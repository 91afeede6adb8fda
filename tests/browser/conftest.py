"""The browser of this folder's tests, and the sites that its pages come from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.browser.support import PROGRAMS, Browser, site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium, shared by the session."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)} (Debian: chromium, chromium-driver)")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def app() -> Iterator[str]:
    """The origin of pages that may send records, where the setting lists any."""
    with site() as origin:
        yield origin


@pytest.fixture(scope="session")
def stranger() -> Iterator[str]:
    """The origin of pages that no list names."""
    with site() as origin:
        yield origin
