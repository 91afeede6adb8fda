"""Every fault of the server's own processes, in the middle of load: see ``tests.faults.process_faults``."""

from __future__ import annotations

import pytest

from tests.faults.process_faults import FAULTS
from tests.faults.scenario import Fault
from tests.faults.table import cases, check


@pytest.mark.parametrize(("fault", "level"), cases(FAULTS))
def test_no_202_is_lost_and_no_record_doubled_over_a_fault_of_its_processes(fault: Fault, level: str) -> None:
    check(fault, level)
