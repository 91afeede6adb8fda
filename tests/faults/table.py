"""The table of docs/reliability.md: every fault at every level it is run at, as pytest cases and as Markdown.

What lives here: which scenarios there are, and how a row looks. What must not: how one runs (``scenario``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.faults.scenario import Fault, Row, run
from tests.support import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by python -m tests.faults --write -->", "<!-- end of faults -->"
HEAD = (
    "| fault | level | answers meanwhile | again after "
    "| answered 202 | found | lost | doubled | altered | delivered |\n"
    "|---|---|---|---|---|---|---|---|---|---|\n"
)


def cases(faults: Iterable[Fault]) -> list[Any]:
    """A pytest parameter for each fault and level."""
    return [pytest.param(fault, level, id=f"{fault.name} / {level}") for fault in faults for level in fault.levels]


def check(fault: Fault, level: str) -> None:
    """Run a scenario as a test: print its row, and hold it against the promise."""
    reason = fault.impossible()
    if reason:
        pytest.skip(reason)
    row = run(fault, level)
    print(line(row))
    assert not row.wrong, row.wrong


def line(row: Row) -> str:
    """One row of the table."""
    again = "-" if row.recovered is None else f"{max(row.recovered, 0):.1f} s"
    verdict = row.verdict
    delivered = "-" if row.delivered is None else row.delivered
    counts = (
        f"{verdict.answered} | {verdict.found} | {verdict.lost} | {verdict.doubled} | {verdict.altered} | {delivered}"
    )
    return f"| {row.name} | `{row.level}` | {row.answers} | {again} | {counts} |"


def not_run(name: str, level: str, reason: str) -> str:
    """The row of a scenario that this machine cannot run."""
    return f"| {name} | `{level}` | not run: {reason} | - | - | - | - | - | - | - |"


def write(lines: Iterable[str]) -> None:
    """Put the table into docs/reliability.md, between its markers."""
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n{HEAD}{chr(10).join(lines)}\n{after}")
