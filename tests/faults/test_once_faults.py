"""Each event stored once, over every fault of ``once_rows``: a client that retries blindly, and the real server."""

from __future__ import annotations

import pytest

from tests.faults.once_rows import FAULTS, TAKEN, run
from tests.faults.retrying import Retrying
from tests.faults.scenario import Fault
from tests.faults.table import cases


@pytest.mark.parametrize(("fault", "level"), cases(FAULTS))
def test_every_id_that_is_retried_until_it_is_answered_is_stored_exactly_once(fault: Fault, level: str) -> None:
    if reason := fault.impossible():
        pytest.skip(reason)
    row = run(fault, level)
    assert not row.wrong, f"{row.wrong}\n{row.answers}\n{row.verdict}"


def test_every_fault_that_is_named_is_run() -> None:
    assert set(TAKEN) <= {fault.name for fault in FAULTS}


def test_the_oracle_sees_what_is_missing_doubled_altered_and_never_sent() -> None:
    load = Retrying("name", lambda: ("127.0.0.1", 0))
    load.valid, load.promised = {"a", "b", "c"}, {"a", "b"}
    found = load.verdict([b'["a",1]', b'["a",1]', b'["b"]', b'["x"]'])
    assert found[2:] == (1, 1, 1, 1, 4)
    assert found.faults() == "1 unanswered, 1 missing, 1 doubled, 1 strangers, 4 altered"
