"""The comparison of two trees: its arithmetic, and a tiny run of this tree against itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import machine, peers, trees


def test_a_ratio_of_trees_is_the_median_of_its_rounds_and_a_fault_misses_the_target() -> None:
    def pair(number: int, old: float, new: float, fault: str | None = None) -> list[dict[str, Any]]:
        base = {"round": number, "load": "single_467b_c64", "cpu_us_per_request": 1.0}
        return [
            {**base, "tree": tree, "requests_per_second": rate, "fault": fault}
            for tree, rate in (("old", old), ("new", new))
        ]

    runs = [*pair(0, 100, 96), *pair(1, 200, 194), *pair(2, 100, 200)]
    (one,) = trees.summary(runs)
    assert (one["ratio"], one["met"]) == (pytest.approx(trees.RATIO_MIN), True)
    (one,) = trees.summary([*runs, *pair(3, 100, 96), *pair(4, 100, 96)])
    assert (one["ratio"], one["met"]) == (0.96, False)
    (one,) = trees.summary(pair(0, 0, 100, "no request was answered"))
    assert (one["ratio"], one["met"]) == (0.0, False)
    (one,) = trees.summary([*runs, *pair(3, 100, 200, "lost 3")])
    assert (one["faults"], one["met"]) == (["lost 3"], False)


def test_two_trees_are_compared_in_pairs_and_the_report_says_on_which_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "trees.json"
    words = [
        str(peers.ROOT),
        "--rounds=1",
        "--seconds=1",
        "--loads=single_varied_c2,bulk100_varied_c2",
        f"--json={path}",
    ]
    assert trees.main(words) in (0, 1)  # which one is faster here means nothing
    document = json.loads(path.read_text())
    order = [(run["round"], run["load"], run["tree"]) for run in document["runs"]]
    assert order == [
        (0, "single_varied_c2", "old"), (0, "single_varied_c2", "new"),
        (0, "bulk100_varied_c2", "new"), (0, "bulk100_varied_c2", "old"),
    ]  # fmt: skip
    assert [run["fault"] for run in document["runs"]] == [None] * 4
    assert all(one["ratio"] > 0 and one["faults"] == [] for one in document["summary"])
    text = path.with_suffix(".md").read_text()
    assert machine.python_build() in text
    assert document["commits"]["old"] == document["commits"]["new"]
    assert document["commits"]["old"] in text


def test_a_directory_without_inlet_is_no_tree(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no checkout of Inlet"):
        trees.main([str(tmp_path), f"--json={tmp_path / 'r.json'}"])


@pytest.mark.parametrize("word", ["single_varied", "single_other_c4", "open_varied_c64", "single_varied_c0", ""])
def test_trees_are_compared_only_under_loads_that_saturate(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trees.main([str(peers.ROOT), f"--loads={word}"])
    assert "is no load as single_varied_c4" in capsys.readouterr().err
