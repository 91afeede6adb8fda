"""The plan: names of loads, which peers run under which, how long it takes, and the command line over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as command_line
from bench import peers, plan, targets
from bench.plan import Load, Options


def built(monkeypatch: pytest.MonkeyPatch, everything: bool) -> None:
    """Have every peer built, or none of those that must be."""
    monkeypatch.setattr(peers.Peer, "is_built", lambda peer: everything or peer.needs is None)


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (Load(peers.SINGLE, 4), "single_varied_c4"),
        (Load(peers.SINGLE, 64, "467b"), "single_467b_c64"),
        (Load(peers.BULK, 16, "gzip"), "bulk100_gzip_c16"),
        (Load(peers.OPEN, 64), "open_varied_c64"),
        (Load(peers.MIXED, 64), "mixed_varied_5mb_c64"),
        (Load(peers.SINGLE, 256, away_ms=5), "single_varied_5ms_c256"),
    ],
)
def test_a_name_states_its_load_and_names_it(load: Load, name: str) -> None:
    assert load.name == name
    assert plan.named(name) == load


@pytest.mark.parametrize("name", ["single_varied", "single_varied_c0", "mixed_varied_c64", "single_other_c4", "x"])
def test_a_name_that_is_no_loads_names_none(name: str) -> None:
    assert plan.named(name) is None


def test_every_planned_load_has_a_name_of_its_own_and_only_peers_that_can_take_it() -> None:
    names = [load.name for load, _ in plan.PLAN]
    assert len(set(names)) == len(names)
    for load, chosen in plan.PLAN:
        assert plan.named(load.name) == load
        assert chosen[0] == "inlet"
        assert len(set(chosen)) == len(chosen)
        assert all(plan.takes(name, load) for name in chosen)


def test_the_load_that_finds_the_open_loops_rate_comes_before_it() -> None:
    names = [load.name for load, chosen in plan.PLAN if plan.RATE_FROM in chosen]
    for load, _ in plan.PLAN:
        if load.kind == peers.OPEN:
            assert names.index(Load(peers.SINGLE, load.connections).name) < names.index(load.name)


def test_every_target_is_measured_by_the_plan() -> None:
    planned = {load.name: chosen for load, chosen in plan.PLAN}
    for target in targets.TARGETS:
        for name in target.loads:
            assert {"inlet", target.against} <= set(planned[name])


def test_only_inlets_application_takes_compressed_bulks_and_the_bounds() -> None:
    for content in ("gzip", "zstd"):
        takers = {name for name in peers.PEERS if plan.takes(name, Load(peers.BULK, 16, content))}
        assert takers == {"inlet", "inlet_gthread", "granian", "uvloop_constant"}


def test_the_whole_plan_fits_its_minutes_and_the_quick_one_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    built(monkeypatch, True)
    assert plan.expected_seconds(Options()) < (plan.MINUTES_MAX - 3) * 60  # three are for the memory run
    assert plan.expected_seconds(plan.quick()) < plan.QUICK_MINUTES_MAX * 60
    assert (plan.MINUTES_MAX, plan.QUICK_MINUTES_MAX) == (40, 5)
    assert {name for _, names in plan.schedule(plan.quick()) for name in names} == {"inlet", "go_goredis", "rust_redis"}


def test_without_a_choice_only_what_is_built_runs_and_a_choice_runs_wherever_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built(monkeypatch, False)
    chosen = {load.name: names for load, names in plan.schedule(Options())}
    assert "go_goredis" not in chosen["single_varied_c64"]
    assert {"inlet", "uvloop_constant"} <= set(chosen["single_varied_c64"])
    one = plan.schedule(Options(peers=("inlet_sync",)))
    assert {load.kind for load, _ in one} == {peers.SINGLE}


def test_loads_are_chosen_by_how_names_start_or_by_a_full_name_outside_the_plan() -> None:
    assert [load.name for load in plan.selected(("bulk100_varied",))] == ["bulk100_varied_c4", "bulk100_varied_c16"]
    assert [load.name for load in plan.selected(("single_varied_c2",))] == ["single_varied_c256"]
    assert [load.name for load in plan.selected(("single_varied_c3", "open"))] == [
        "open_varied_c64",
        "single_varied_c3",
    ]
    with pytest.raises(ValueError, match="nothing"):
        plan.selected(("open", "nothing"))


def test_the_plan_is_printed_with_its_time_and_nothing_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--plan", "--seconds=1", "--rounds=2", "--peers=inlet,uvloop_constant"]
    assert command_line.main([*words, "--loads=single_varied_c64,bulk100_zstd", f"--json={tmp_path / 'r.json'}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["single_varied_c64", "inlet,", "uvloop_constant"]
    assert out[1].split() == ["bulk100_zstd_c16", "inlet,", "uvloop_constant"]
    assert out[2].startswith("4 runs of 1 s in each of 2 rounds: about 1 minutes, at most 40")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--peers=nobody"], ["--loads=none"], ["--loads=single_other_c4"]])
def test_an_unknown_peer_or_load_is_refused_with_what_there_is(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["compare", *words])
    error = capsys.readouterr().err
    assert "inlet_gthread" in error or "single_varied_c64" in error
