"""Retention's faults over the real server: see ``tests.faults.retention_faults``."""

from __future__ import annotations

import pytest

from tests.faults.retention_faults import FAULTS
from tests.faults.scenario import Fault
from tests.faults.table import cases, check


@pytest.mark.parametrize(("fault", "level"), cases(FAULTS))
def test_retention_trims_nothing_unread_and_accepts_again_once_all_is_acked(fault: Fault, level: str) -> None:
    check(fault, level)
