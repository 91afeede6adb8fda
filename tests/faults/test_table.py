"""docs/reliability.md holds a row for every scenario, and none that breaks a promise."""

from __future__ import annotations

import re

import pytest

from tests.faults import power_rows
from tests.faults.__main__ import ANSWERED_MIN, FAULTS, ROWS_MIN, SEEN, too_little
from tests.faults.oracle import Verdict
from tests.faults.scenario import Row
from tests.faults.table import BEGIN, END, PAGE

ROWS = re.compile(r"^\| (.+?) \| `(\w+)` \| (.*) \| (\S+)(?: s)?" + r" \| (\S+)" * 6 + r" \|$", re.MULTILINE)
POWER = [(power_rows.name(fsync), level) for level, fsync in power_rows.CASES.values()]


@pytest.fixture(scope="module")
def written() -> dict[tuple[str, str], tuple[str, ...]]:
    """The page's rows: (name, level) -> answers, again after, answered, found, lost, doubled, altered, delivered."""
    page = PAGE.read_text()
    section = page[page.index(BEGIN) : page.index(END)]
    return {(row[0], row[1]): row[2:] for row in ROWS.findall(section)}


def test_the_page_has_a_row_for_every_fault_and_level(written: dict[tuple[str, str], tuple[str, ...]]) -> None:
    expected = {(fault.name, level) for fault in FAULTS for level in fault.levels} | set(POWER)
    assert set(written) == expected, "run: python -m tests.faults --write"


def test_only_rows_whose_level_does_not_promise_it_have_losses(
    written: dict[tuple[str, str], tuple[str, ...]],
) -> None:
    may_lose = {(fault.name, level) for fault in FAULTS for level in fault.loses}
    may_lose |= {(name, level) for name, level in POWER if level == "stored"}
    losing = {row for row, (_, _, _, _, *bad, _) in written.items() if set(bad) - {"0", "-"}}
    assert losing <= may_lose
    assert losing, "a page on which nothing can be lost would be too good"


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
    assert all(set(fault.loses) <= set(fault.levels) for fault in FAULTS)


def rows(count: int, answered: int, answers: str) -> list[Row]:
    """So many rows, in which so many records were answered 202 together."""
    each = Verdict(answered // count, answered // count, 0, 0, 0, 0, 0)
    rest = each._replace(answered=answered - answered // count * (count - 1))
    return [Row("r", "stored", answers, 0.0, 0.0, verdict, "") for verdict in [*[each] * (count - 1), rest]]


@pytest.mark.parametrize(
    ("count", "answered", "unseen", "words"),
    [
        (ROWS_MIN, ANSWERED_MIN, "", []),
        (ROWS_MIN - 1, ANSWERED_MIN, "", [f"only {ROWS_MIN - 1} rows, where {ROWS_MIN} are needed"]),
        (
            ROWS_MIN,
            ANSWERED_MIN - 1,
            "",
            [f"only {ANSWERED_MIN - 1} records answered 202, where {ANSWERED_MIN} are needed"],
        ),
        (ROWS_MIN, ANSWERED_MIN, "backlog-full", ["no client was answered backlog-full"]),
    ],
)
def test_a_run_of_all_rows_that_saw_too_little_fails(count: int, answered: int, unseen: str, words: list[str]) -> None:
    found = too_little(rows(count, answered, " ".join(reason for reason in SEEN if reason != unseen)))
    assert found == words
