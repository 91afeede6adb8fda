"""The rights that docs/consumers.md asks for are enough, with every feature on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from inlet import BadRecord, Record
from tests.consumer.support import QUICK, Run, add, command, connect, dead, fill, pending, until
from tests.support import ROOT, debian_redis, listen_on_a_free_port

RULE = """\
~logs ~logs:* -@all +ping +client|setinfo +xreadgroup +xack +xpending +xclaim +xinfo +xgroup|create \\
  +xgroup|delconsumer +eval +time +hsetnx +hget +get +set +del +xadd +xdel +xrange +xrevrange
"""
SINCE_7_2 = "+client|setinfo"
"""To be left out before Redis 7.2, which refuses rules that name what it does not know."""


@pytest.fixture(params=["valkey", "redis7"])
def kind_and_url(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A store of one's own of each kind: Redis 7.0 knows no CLIENT SETINFO."""
    if request.param == "valkey":
        yield request.param, request.getfixturevalue("own_store").url
        return
    if shutil.which("redis-server") is None:
        pytest.skip("Debian's redis-server is not installed here")
    with debian_redis() as url:
        yield request.param, url


def test_a_consumer_needs_no_more_rights_than_documented(run: Run, kind_and_url: tuple[str, str]) -> None:
    kind, own_url = kind_and_url
    with connect(own_url) as client:
        words = RULE.replace("\\\n", " ").split()
        if kind == "redis7":
            words.remove(SINCE_7_2)
        client.execute_command("ACL", "SETUSER", "consumer", "on", ">secret", *words)
        url = f"redis://consumer:secret@127.0.0.1:{listen_on_a_free_port(client)}"
        fill(client, "logs", 300)
        add(client, "logs", "bad", "failing", "late")
        client.xadd("logs", {"junk": "x"})
        client.xgroup_create("logs", "g", id="0")
        client.xreadgroup("g", "gone", {"logs": ">"}, count=4)
        late = ["late"]

        def handle(record: Record) -> None:
            if record.event_id == "bad":
                raise BadRecord("no")
            if record.event_id == "failing" or (record.event_id in late and late.pop()):
                raise ValueError("always, or once")

        until(
            run, url, "logs", handle, lambda: len(dead(client, "logs")) == 3 and not pending(client, "logs", "g"),
            options=replace(QUICK, attempts_max=2, dedup_window_ms=60_000),
        )  # fmt: skip
        for action in (["list"], ["replay", "--all"], ["drop", "--all"]):
            result = command(url, "logs", "dead", *action)
            assert (result.returncode, result.stderr) == (0, "")
        with pytest.raises(redis.exceptions.NoPermissionError):
            connect(url).flushall()


def test_the_guide_prints_these_rights() -> None:
    guide = (ROOT / "docs/consumers.md").read_text()
    assert f"ACL SETUSER consumer on >... {RULE}```" in guide
    assert f"Before Redis 7.2, leave out `{SINCE_7_2}`" in guide
