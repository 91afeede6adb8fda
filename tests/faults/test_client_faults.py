"""Rude clients beside polite ones, over the real server: see ``tests.faults.client_faults``."""

from __future__ import annotations

import pytest

from tests.faults.client_faults import FAULTS
from tests.faults.scenario import Fault
from tests.faults.table import cases, check


@pytest.mark.parametrize(("fault", "level"), cases(FAULTS))
def test_rude_clients_harm_no_polite_one_and_no_record(fault: Fault, level: str) -> None:
    check(fault, level)
