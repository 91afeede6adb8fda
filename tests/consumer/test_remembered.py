"""The group is remembered in the store before it exists, so that a keeper holds its entries after a failover."""

from __future__ import annotations

import time
from typing import Any

from inlet.consumer.session import Session
from inlet.consumer.steps import Call, Done, Steps, advance
from inlet.stream.keys import groups_key
from tests.consumer.support import QUICK, Handler, Run, add, until


def test_a_group_is_remembered_by_name_and_time(run: Run, store_url: str, db: Any, stream: str) -> None:
    add(db, stream, "a")
    before = int(time.time() * 1000)
    run(store_url, stream, Handler())
    [(name, since)] = db.hgetall(groups_key(stream)).items()
    assert name == b"g"
    assert before <= int(since) <= int(time.time() * 1000)


def test_a_group_is_remembered_in_every_partition(run: Run, store_url: str, db: Any, stream: str) -> None:
    run(store_url, stream, Handler(), partitions=2)
    assert [list(db.hgetall(groups_key(f"{stream}:{{{number}}}"))) for number in range(2)] == [[b"g"], [b"g"]]


def test_a_forgotten_group_is_remembered_again_while_a_consumer_lives(
    run: Run, store_url: str, db: Any, stream: str
) -> None:
    add(db, stream, "a")
    handle = Handler()
    forgotten: list[int] = []

    def step() -> bool:
        if handle.seen and not forgotten:
            forgotten.append(db.delete(groups_key(stream)))
        return bool(forgotten and db.exists(groups_key(stream)))

    until(run, store_url, stream, handle, step)


def test_the_group_is_remembered_before_it_is_created() -> None:
    session = Session("logs", "g", "me", 1, QUICK, time.monotonic, recover=False)
    steps: Steps[None] = session.open()
    step = advance(steps)
    assert isinstance(step, Call)
    assert [command[:2] for command in step.commands] == [("HSETNX", "logs:groups"), ("XGROUP", "CREATE")]
    assert isinstance(advance(steps, [1, b"OK"]), Done)
