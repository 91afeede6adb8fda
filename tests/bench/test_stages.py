"""The stages of a request: every stage answers, and the report shows the differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import machine, stages
from bench.plan import Load


def test_the_report_shows_what_each_stage_adds_to_the_one_before() -> None:
    def run(stage: str, cpu: float, fault: str | None = None) -> dict[str, Any]:
        return {"load": "single_varied_c4", "stage": stage, "fault": fault, stages.CPU: cpu, stages.RPS: 1000.0}

    runs = [run("server", 10), run("loads", 13), run("server", 12), run("server", 90, "no answer"), run("inlet", 20)]
    found = stages.medians(runs, "single_varied_c4")
    assert found == {"server": (11, 1000), "loads": (13, 1000), "inlet": (20, 1000)}
    about = {"date": "d", "commit": "c", "machine": {"cpu": "x", "cores": 2}, "versions": {}, "python_build": "b"}
    text = stages.markdown({**about, "runs": runs, "options": {"rounds": 1, "seconds": 1}})
    assert "| + ujson.loads | 13.0 | 2.0 | 1,000 |" in text
    assert f"| {stages.STAGES['inlet']} | 20.0 | 7.0 | 1,000 |" in text


def test_every_stage_answers_all_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LOADS", (Load("single", 2),))
    monkeypatch.setattr(stages, "OTHER", stages.BOUND)  # what must be built is not run here
    path = tmp_path / "stages.json"
    assert stages.main(["--rounds=1", "--seconds=1", f"--json={path}"]) == 0
    runs = json.loads(path.read_text())["runs"]
    assert {run["stage"]: run["fault"] for run in runs} == dict.fromkeys([*stages.STAGES, stages.BOUND])
    assert all(run[stages.CPU] > 0 for run in runs)
    text = path.with_suffix(".md").read_text()
    assert machine.python_build() in text
    assert all(what in text for what in stages.STAGES.values())
