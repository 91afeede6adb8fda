"""Power cut, from a trace of the store's system calls: what a 202 had on the disk when it was sent."""

from __future__ import annotations

import pytest

from tests.faults.power_cut import Call, Disk, calls, no_strace, positions
from tests.faults.power_rows import CASES, run
from tests.faults.table import line

TRACE = """\
11 100.000000 write(9</d/appendonly.aof.1.incr.aof>, ""..., 10) = 10 <0.000100>
11 100.100000 fdatasync(9</d/appendonly.aof.1.incr.aof> <unfinished ...>
12 100.150000 write(9</d/appendonly.aof.1.incr.aof>, ""..., 7) = 7 <0.000100>
12 100.160000 write(4<socket:[1]>, ""..., 5) = 5 <0.000100>
11 100.200000 <... fdatasync resumed>) = 0 <0.100000>
12 100.300000 fdatasync(9</d/appendonly.aof.1.incr.aof>) = 0 <0.050000>
"""


def test_a_trace_is_read_with_calls_that_overlap() -> None:
    assert [(call.name, call.result) for call in calls(TRACE)] == [
        ("write", 10), ("write", 7), ("fdatasync", 0), ("fdatasync", 0),
    ]  # fmt: skip


def test_a_sync_covers_what_was_written_before_it_began_and_counts_from_its_end() -> None:
    disk = Disk(5, calls(TRACE))
    assert [disk.durable(when) for when in (100.05, 100.19, 100.21, 100.34, 100.36)] == [5, 5, 15, 15, 22]
    assert disk.window() == pytest.approx(0.2, abs=0.001)


def test_a_failed_sync_covers_nothing() -> None:
    disk = Disk(0, [Call("write", 1.0, 1.1, 10), Call("fdatasync", 1.2, 1.3, -1)])
    assert disk.durable(2.0) == 0


def test_a_record_is_at_the_end_of_the_command_that_adds_it() -> None:
    other = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n"
    lines = b'["a"]\n["b"]'
    add = b"*7\r\n$4\r\nXADD\r\n$1\r\ns\r\n$3\r\n1-1\r\n$1\r\nr\r\n$11\r\n%b\r\n$1\r\nn\r\n$1\r\n2\r\n" % lines
    assert positions(other + add, "s") == dict.fromkeys("ab", len(other + add))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_202_whose_level_promises_it_follows_an_fsync_that_covers_its_entry(case: str) -> None:
    reason = no_strace()
    if reason:
        pytest.skip(reason)
    row = run(case)
    print(line(row))
    assert not row.wrong, row.wrong
