"""inlet.consumer.names: which consumers are left over."""

from __future__ import annotations

from typing import Any

from inlet.consumer.names import GHOST_IDLE_MS, consumer_name, ghosts


def test_ghosts_are_consumers_with_made_up_names_that_have_nothing_and_are_long_gone() -> None:
    def row(name: str, pending: int = 0, idle: int = GHOST_IDLE_MS) -> dict[str, Any]:
        return {"name": name.encode(), "pending": pending, "idle": idle}

    made_up = consumer_name("host-1", 77, "0a1b2c")
    assert ghosts([row(made_up)]) == [made_up.encode()]
    assert ghosts([row(made_up, pending=1), row(made_up, idle=GHOST_IDLE_MS - 1), row("billing-1")]) == []
