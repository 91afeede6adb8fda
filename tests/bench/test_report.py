"""What a result says: ratios, targets, the report, the headline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import __main__ as command_line
from bench import figures, headline, machine, peers, report, targets

LOAD = "single_varied_c64"


def run(
    number: int, peer: str, rate: float, fault: str | None = None, load: str = LOAD, **more: object
) -> dict[str, Any]:
    base = {"round": number, "load": load, "rate": 0.0, "peer": peer, "fault": fault, "stored_records": 5}
    return {**base, "requests_per_second": rate, "records_per_second": rate, "answered_records": 5, **more}


def document(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": "2026-11-27T01:02:03+00:00",
        "commit": "0123456789ab",
        "machine": {
            "cpu": "A CPU", "cores": 2, "memory_mb": 100, "kernel": "6.1", "python_build": "without PGO, without LTO"
        },
        "versions": {"python": "3.11.7"},
        "options": {"seconds": 4},
        "runs": runs,
    }  # fmt: skip


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    runs = [
        *(run(number, "inlet", rate) for number, rate in enumerate((100, 200, 900))),
        *(run(number, "go_goredis", rate) for number, rate in enumerate((50, 400, 300))),
    ]
    assert figures.median(figures.of(runs, LOAD, "inlet"), "requests_per_second") == 200
    assert figures.ratio(runs, LOAD, "inlet", "go_goredis", "requests_per_second") == 2.0


def test_a_peer_with_one_fault_is_out_of_the_tables_and_of_every_ratio() -> None:
    runs = [run(0, "inlet", 100), run(1, "inlet", 100), run(0, "go_goredis", 900), run(1, "go_goredis", 10, "lost 3")]
    assert figures.peers(runs, LOAD) == ["inlet", "go_goredis"]
    assert figures.ratio(runs, LOAD, "inlet", "go_goredis", "requests_per_second") is None
    assert figures.shown(runs, LOAD, "go_goredis", "requests_per_second") is None
    assert any("disqualified: lost 3" in line for line in report.table(runs, LOAD))
    assert headline.names(runs) == ["inlet"]
    assert [line.split(" | ")[-2:] for line in targets.table(runs)[2:]] == [
        ["-", "no figure: go_goredis disqualified |"]
    ]


def verdicts(runs: list[dict[str, Any]]) -> dict[tuple[str, ...], str]:
    rows = ([word.strip() for word in line.strip("|").split("|")] for line in targets.table(runs)[2:])
    return {tuple(words[:3]): words[5] for words in rows}


def test_a_target_is_met_at_its_bound_and_missed_past_it_and_missed_ones_are_shown() -> None:
    runs = [run(0, "inlet", 230), run(0, "go_goredis", 100), run(0, "py_flask", 19.2)]
    assert verdicts(runs) == {(LOAD, "go_goredis", "requests/s"): "met", (LOAD, "py_flask", "requests/s"): "**missed**"}
    opened = [
        run(0, peer, 1, load="open_varied_c64", p99_us=p99, p999_us=p999)
        for peer, p99, p999 in (("inlet", 6.0, 6.1), ("go_goredis", 10.0, 10.0))
    ]
    assert verdicts(opened) == {
        ("open_varied_c64", "go_goredis", "p99"): "met",
        ("open_varied_c64", "go_goredis", "p99.9"): "**missed**",
    }


def test_the_targets_are_those_of_the_project() -> None:
    many = [(target.against, target.bound) for target in targets.TARGETS if target.loads == targets.MANY]
    assert many == [
        ("go_goredis", 2.3), ("go_rueidis", 1.6), ("rust_redis", 0.75), ("rust_commit", 0.5),
        ("py_fastapi", 8.0), ("py_flask", 12.0), ("granian", 4.0),
    ]  # fmt: skip
    rest = [(t.loads[0], t.against, t.bound, t.at_least) for t in targets.TARGETS if t.loads != targets.MANY]
    assert rest == [
        ("single_varied_c4", "go_goredis", 1.5, True),
        ("bulk100_varied_c4", "go_goredis", 1.8, True),
        ("bulk100_varied_c4", "rust_redis", 0.75, True),
        ("open_varied_c64", "go_goredis", 0.6, False),
        ("open_varied_c64", "go_goredis", 0.6, False),
        ("mixed_varied_5mb_c64", "go_goredis", 1.0, False),
        ("single_varied_1ms_c256", "go_goredis", 1.0, True),
    ]


def test_the_fixed_load_says_what_it_flatters_by_how_much() -> None:
    fixed = "single_467b_c64"
    runs = [run(0, "inlet", 100), run(0, "inlet", 150, load=fixed), run(0, "go_goredis", 50, load=fixed)]
    text = report.note(runs, fixed)
    assert "flatters" in text
    assert "over those of `single_varied_c64`: inlet 1.50x." in text
    assert report.note(runs, LOAD) == ""


def test_compressed_bulks_say_who_does_not_take_part_and_far_stores_how_far_they_are() -> None:
    assert "do not take part" in report.note([run(0, "inlet", 1, load="bulk100_zstd_c16")], "bulk100_zstd_c16")
    far = [run(number, "inlet", 1, load="single_varied_5ms_c256", round_trip_ms=5.0 + number) for number in range(3)]
    assert "A round trip takes 6.00 ms" in report.note(far, "single_varied_5ms_c256")


def test_the_report_says_how_busy_the_generator_was_beside_what_stores() -> None:
    busy: dict[str, Any] = {"generator": "wrk", "seconds": 2.0}
    runs = [
        run(0, "inlet", 100, **busy, generator_cpu_seconds=1.0),
        run(0, "uvloop_constant", 900, **busy, generator_cpu_seconds=2.0),
    ]
    assert report.generator(runs) == (
        "wrk sent up to 900 requests/s to the fastest peer of all. Beside peers that store records, its one thread was "
        f"busiest with inlet under {LOAD}: 50% of a core, including reading the requests."
    )
    assert report.generator([run(0, "inlet", 1)]) == ""


def test_the_headline_is_a_table_and_a_picture_with_their_origin_and_limits(tmp_path: Path) -> None:
    runs = [
        *(run(0, name, rate) for name, rate in (("inlet", 300.0), ("go_goredis", 100.0), ("inlet_gthread", 50.0))),
        run(0, "uvloop_constant", 900),
        run(0, "inlet", 40, load="single_varied_c4"),
        run(0, "inlet", 1, load="open_varied_c64", p99_us=1500.0),
    ]
    written = report.write(document(runs), tmp_path / "compare.json")
    assert {path.name for path in written} == {"compare.md", "compare.svg", "varied.md", "varied.svg"}
    text = (tmp_path / "varied.md").read_text()
    assert "| **inlet** | 40 | 300 | - | 1.50 |\n| go_goredis | - | 100 | - | - |\n" in text
    assert "inlet_gthread" not in text
    assert "uvloop_constant" not in text
    for words in ("0123456789ab", "A CPU, 2 cores", "Python 3.11.7 built without PGO, without LTO", *headline.LIMITS):
        assert words in text
        assert words in (tmp_path / "compare.md").read_text()
    drawn = "".join(ElementTree.parse(tmp_path / "varied.svg").getroot().itertext())
    for words in ("64 connections", "go_goredis", "0123456789ab", "without PGO", "A CPU"):
        assert words in drawn


def test_a_result_without_the_headlines_load_has_no_headline(tmp_path: Path) -> None:
    written = report.write(document([run(0, "inlet", 1, load="bulk100_varied_c4")]), tmp_path / "r.json")
    assert [path.name for path in written] == ["r.md", "r.svg"]


def test_the_headline_is_put_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    result, page = tmp_path / "results" / "compare.json", tmp_path / "README.md"
    result.write_text(json.dumps(document([run(0, "inlet", 123)])))
    page.write_text(f"# Before\n\n{headline.BEGIN}\nold\n{headline.END}\nafter\n")
    for _ in range(2):
        assert command_line.main(["report", str(result), f"--into={page}"]) == 0
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{headline.BEGIN}\n![")
    assert text.endswith(f"{headline.END}\nafter\n")
    assert "](results/varied.svg)" in text
    assert text.count("| **inlet** | 123 |") == 1
    assert "old" not in text
    page.write_text("no marks")
    with pytest.raises(SystemExit):
        command_line.main(["report", str(result), f"--into={page}"])
    assert page.read_text() == "no marks"


def test_results_from_before_are_still_reported() -> None:
    for name in ("compare.json", "compare-earlier.json"):
        found = json.loads((peers.ROOT / "bench" / "results" / name).read_text())
        text = report.markdown(found)
        assert found["commit"] in text
        assert all(f"## {load}" in text for load in figures.loads(found["runs"]))
        assert machine.interpreter(found) in text
