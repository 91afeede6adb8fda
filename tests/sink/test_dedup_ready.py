"""Readiness with INLET_DEDUP_SECONDS: a look finds what refuses the script, before the first record and without one.

Found from outside: with the permissions of before, or another type at an id key, every record was refused while
/readyz said 200, since a look tried XADD only.
"""

from __future__ import annotations

from typing import Any

import pytest

from inlet.stream.keys import ids_keys
from tests.sink.support import Sink, Store, once_closed
from tests.sink.test_dedup import commit, line, stored
from tests.support import wait_until
from wsgi.problems import SinkError

BEFORE_DEDUP = ("+xadd", "+info", "+type", "+xinfo", "+xlen")
FOR_DEDUP = ("+evalsha", "+hmget", "+hset", "+pexpire", "+script|load", "+time", "+unlink")


@pytest.fixture
def own(stores: Any) -> Store:
    """A store of this test's own."""
    store: Store = stores()
    return store


def unready(subject: Sink) -> str:
    """The detail with which the subject is not ready after a look."""
    with pytest.raises(SinkError) as caught:
        subject.check()
    assert caught.value.reason == "sink-misconfigured"
    return str(caught.value.detail)


@pytest.mark.parametrize("missing", FOR_DEDUP)
def test_without_a_permission_it_is_not_ready_before_the_first_record_and_with_it_it_is(
    own: Store, stream: str, missing: str
) -> None:
    rights = [right for right in (*BEFORE_DEDUP, *FOR_DEDUP) if right != missing]
    patterns = (f"~{stream}", f"~{{{stream}}}:ids:*")
    own.client.execute_command("ACL", "SETUSER", "once", "reset", "on", ">p", *patterns, *rights)
    subject = Sink(own.url.replace("unix://", "unix://once:p@"), stream, dedup_seconds=60)
    for _ in range(3):
        unready(subject)
    own.client.execute_command("ACL", "SETUSER", "once", missing)
    subject.check()
    assert commit(subject, line("a"))[0][2] is False


@pytest.mark.parametrize("bucket", [0, 1, 2])
def test_another_type_at_an_id_key_is_found_before_the_first_record(own: Store, stream: str, bucket: int) -> None:
    key = ids_keys(stream.encode())[bucket]
    own.client.set(key, "x")
    subject = Sink(own.url, stream, dedup_seconds=60)
    assert "script of INLET_DEDUP_SECONDS" in unready(subject)
    own.client.delete(key)
    subject.check()
    assert own.client.exists(stream) == 0


def test_what_a_commit_has_found_keeps_it_unready_until_it_is_fixed_and_no_record_is_needed_for_that(
    own: Store, stream: str
) -> None:
    subject = Sink(own.url, stream, dedup_seconds=60)
    commit(subject, line("a"))
    subject.check()
    key = ids_keys(stream.encode())[2]
    own.client.set(key, "x")
    subject.check()  # A look alone does not try what has worked.
    ticket = subject.append([line("b")])
    with pytest.raises(SinkError):
        ticket.commit()
    for _ in range(3):
        unready(subject)
    own.client.delete(key)

    def ready() -> bool:
        subject.watcher.look()
        return subject.watcher.readiness() is None

    wait_until(ready, "it is ready again")
    once_closed(subject, line("b")).commit()
    assert stored(own.client, stream) == [line("a"), line("b")]


def test_a_tenant_whose_ids_cannot_be_kept_is_refused_alone(own: Store, stream: str) -> None:
    names = [stream, f"{stream}-t"]
    own.client.set(ids_keys(names[1].encode())[0], "x")
    subject = Sink(own.url, stream, dedup_seconds=60, streams=lambda: names)
    subject.check()
    assert list(subject.watcher.refused_streams()) == [names[1]]
    with pytest.raises(SinkError):
        subject.append([line("a")], destination=names[1].encode())
    commit(subject, line("a"))
    own.client.delete(ids_keys(names[1].encode())[0])
    subject.check()
    assert subject.watcher.refused_streams() == {}


def test_a_trial_appends_nothing_and_remembers_nothing(own: Store, stream: str) -> None:
    subject = Sink(own.url, stream, dedup_seconds=60)
    for _ in range(3):
        subject.check()
    assert own.client.exists(stream) == 0
    (key,) = (key for key in ids_keys(stream.encode()) if own.client.exists(key))
    assert sorted(own.client.hkeys(key)) == [b"b", b"n", b"t", b"w"]
    assert own.client.ttl(key) > 60
