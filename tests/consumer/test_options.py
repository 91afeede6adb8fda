"""inlet.consumer.options: every bound, and the table in docs/consumers.md."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from inlet.consumer.options import BOUNDS, Options
from tests.support import ROOT


@pytest.mark.parametrize("name", BOUNDS)
def test_an_option_is_taken_at_its_bounds_and_refused_one_past(name: str) -> None:
    low, high = BOUNDS[name]
    others = {"claim_idle_ms": {"claim_idle_ms_max": 604_800_000}, "claim_idle_ms_max": {"claim_idle_ms": 10},
              "handle_timeout_ms": {"claim_idle_ms": 86_400_000, "claim_idle_ms_max": 604_800_000}}  # fmt: skip

    def options(value: int) -> None:
        arguments: dict[str, Any] = {**others.get(name, {}), name: value}
        Options(**arguments)

    for value in (low, high):
        options(value)
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=name):
            options(value)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="claim_idle_ms_max"):
        Options(claim_idle_ms=1_000, claim_idle_ms_max=999)
    with pytest.raises(ValueError, match="handle_timeout_ms"):
        Options(claim_idle_ms=1_000, handle_timeout_ms=1_000)
    Options(claim_idle_ms=1_000, handle_timeout_ms=999)
    with pytest.raises(ValueError, match="start"):
        Options(start="middle")  # type: ignore[arg-type]  # what a caller without types may pass


def test_the_guide_lists_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", (ROOT / "docs/consumers.md").read_text(), re.MULTILINE)
    said: dict[str, str] = {}
    for names, texts in rows:
        said.update(zip(names.split(", "), texts.split(", "), strict=False))
    for item in fields(Options):
        default = item.default if item.name != "bytes_max" else "8 MiB"
        shown = f'`"{default}"`' if item.name == "start" else f"{default:,}" if type(default) is int else default
        assert said[f"`{item.name}`"] == shown, item.name
