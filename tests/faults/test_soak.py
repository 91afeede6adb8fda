"""A short soak finds nothing wrong, and one that saw too little says so."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults import soak
from tests.faults.consumer import KINDS, poison
from tests.faults.soak import EMBEDDED_FAULTS, FAULTS, LEAST, LEAST_PER_MINUTE, Sizes, Soak, rig_for

SHORTLY = ("store killed (SIGKILL), restarted", "every connection to the store reset", "store turned into a replica")
KEPT_SECONDS = 8.0
"""Of load that retention keeps in the short soak, so that it is full soon."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Soak]:
    monkeypatch.setattr(soak, "RETENTION_SECONDS", KEPT_SECONDS)
    with rig_for(embedded=False) as rig:
        yield Soak(rig, 1)


def test_under_kills_faults_poison_and_full_retention_nothing_is_lost_and_nothing_healthy_buried(short: Soak) -> None:
    try:
        short.warm()
        short.cycle(short.full)
        for fault in FAULTS:
            if fault.name.startswith(SHORTLY):
                short.cycle(fault)
    finally:
        short.end()
    assert short.wrong() == []
    figures = short.figures()
    assert figures["faults"] == 1 + len(SHORTLY)
    assert figures["429"] > 0
    assert figures["handled records"] + short.letters() == figures["stored"]
    assert all(figures[f"letters: {kind}"] for kind in KINDS)
    assert any(words.startswith("only") for words in short.too_little(minutes=600))


def test_every_least_figure_is_one_that_the_report_has(short: Soak) -> None:
    short.rig.store.command("XADD", "faults", "*", "r", "x", "n", "1")
    assert {*LEAST_PER_MINUTE, *LEAST} <= {*short.figures()}
    assert "retention was never full" in short.too_little(minutes=1)


def test_both_kinds_of_run_have_many_faults_and_only_the_embedded_one_kills_the_embedded_store() -> None:
    names = {fault.name for fault in FAULTS}
    assert len(names) >= 25
    assert len(EMBEDDED_FAULTS) >= 8
    assert "embedded store killed (SIGKILL)" in {fault.name for fault in EMBEDDED_FAULTS} - names


def test_a_seed_gives_the_same_order_again() -> None:
    orders = [random.Random(seed).sample(FAULTS, len(FAULTS)) for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]


def test_memory_and_descriptors_that_grow_past_their_bound_are_found() -> None:
    most = soak.GROWTH_BYTES_MAX["worker"]
    assert Sizes({"worker": [100, 100 + most]}, {"worker": [5, 5]}).grown() == []
    assert Sizes({"worker": [100, 101 + most]}, {"worker": [5, 5]}).grown()
    more = soak.DESCRIPTORS_MORE_MAX["worker"]
    assert Sizes({"worker": [100]}, {"worker": [5, 5 + more]}).grown() == []
    assert Sizes({"worker": [100]}, {"worker": [5, 6 + more]}).grown()


def test_a_poison_record_is_known_by_its_id() -> None:
    assert poison("1-2-poison-kills-7") == "kills"
    assert poison("1-2-beside-7-0") == ""


def test_a_counter_over_a_million_is_read_as_such() -> None:
    """Regression: Prometheus' client writes 1.2e+06, of which a run of an hour read 1."""
    text = b"# HELP inlet_x_total 5 things\ninlet_x_total 1.234567e+06\ninlet_y_total 12.0\n"
    assert [soak.counter(text, name) for name in (b"inlet_x_total", b"inlet_y_total", b"inlet_z_total")] == [
        1234567,
        12,
        0,
    ]
