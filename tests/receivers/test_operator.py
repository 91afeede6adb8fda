"""Who may read the metrics and the details of readiness.

What lives here: the operators' paths, over keys that the test makes up. What must not: keys themselves (tests/access).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.receivers.support import Reply, ask, environ, refused
from wsgi.problems import Denied, SinkError
from wsgi.receivers.application import Application
from wsgi.receivers.resources import Operator, is_local
from wsgi.receivers.routes import create_routes

STORE = "the store cannot be reached: Error 111 connecting to 10.0.0.5:6379"


@dataclass(frozen=True)
class Key:
    """What a key permits."""

    metrics: bool


def grant(env: Any) -> Key:
    """Return the key that a header names."""
    key = env.get("HTTP_X_API_KEY")
    if key is None:
        raise Denied("unauthorized", "no key", [("www-authenticate", "Bearer")])
    return Key(metrics=key == "operator")


def get(path: str, operator: Operator, **more: Any) -> Reply:
    """One GET, through the front door."""
    return ask(Application(create_routes({}, operator), {}), environ(path=path, method="GET", **more))


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""])
def test_a_loopback_peer_is_local(peer: str) -> None:
    assert is_local({"REMOTE_ADDR": peer})
    for host in ("", "localhost", "LocalHost:8000", "127.0.0.1:80", "[::1]:8000", "[::1]", "10.0.0.7:8000"):
        assert is_local({"REMOTE_ADDR": peer, "HTTP_HOST": host})


@pytest.mark.parametrize(
    "env",
    [{"REMOTE_ADDR": "10.0.0.1"}, {"REMOTE_ADDR": "2001:db8::1"}, {"REMOTE_ADDR": "::ffff:10.0.0.1"},
     {"REMOTE_ADDR": "fe80::1%eth0"}, {"REMOTE_ADDR": "localhost"},
     {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, {"HTTP_FORWARDED": "for=1"},
     {"REMOTE_ADDR": "::1", "HTTP_VIA": "1.1 proxy"}, {"REMOTE_ADDR": "::1", "HTTP_CF_CONNECTING_IP": "1.1.1.1"},
     {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "evil.example"}, {"REMOTE_ADDR": "::1", "HTTP_HOST": "a.b:8000"},
     {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost.evil"}, {"REMOTE_ADDR": "::1", "HTTP_HOST": "a@127.0.0.1"},
     {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_REAL_IP": "9.9.9.9"}],
)  # fmt: skip
def test_any_other_peer_and_whatever_came_through_a_proxy_is_not(env: dict[str, Any]) -> None:
    assert not is_local(env)


REMOTE: dict[str, str] = {"REMOTE_ADDR": "10.0.0.1"}


@pytest.mark.parametrize("keys", [None, grant])
def test_metrics_are_open_to_this_machine(keys: Callable[[Any], Key] | None) -> None:
    assert get("/metrics", Operator(lambda: None, grant=keys), REMOTE_ADDR="127.0.0.1").status == 200


def test_metrics_are_open_to_others_only_with_a_key_that_has_the_right() -> None:
    operator = Operator(lambda: None, grant=grant)
    assert refused(get("/metrics", operator, **REMOTE), "unauthorized")["detail"] == "no key"
    problem = refused(get("/metrics", operator, **REMOTE, HTTP_X_API_KEY="producer"), "forbidden")
    assert "right: metrics" in problem["detail"]
    assert get("/metrics", operator, **REMOTE, HTTP_X_API_KEY="operator").status == 200
    refused(get("/metrics", Operator(lambda: None), **REMOTE), "forbidden")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_key(path: str) -> None:
    assert get(path, Operator(lambda: None, grant=grant), **REMOTE).status == 200


@pytest.mark.parametrize(
    ("more", "detailed"),
    [({"REMOTE_ADDR": "127.0.0.1"}, True), (REMOTE, False), ({**REMOTE, "HTTP_X_API_KEY": "producer"}, False),
     ({**REMOTE, "HTTP_X_API_KEY": "operator"}, True), ({"HTTP_X_FORWARDED_FOR": "1.2.3.4"}, False)],
)  # fmt: skip
def test_readiness_tells_others_nothing_of_the_store_or_the_streams(more: dict[str, str], detailed: bool) -> None:
    away = SinkError("sink-unavailable", STORE)
    problem = refused(get("/readyz", Operator(lambda: away, grant=grant), **more), "sink-unavailable")
    assert (problem["detail"] == STORE) is detailed
    assert ("10.0.0.5" in str(problem)) is detailed
    full = {"tenant-a": SinkError("backlog-full", "of tenant-a")}
    ready = get("/readyz", Operator(lambda: None, grant=grant, refused=lambda: full), **more).json
    assert ready["status"] == "ready"
    assert ready.get("streams_refused") == ({"tenant-a": "backlog-full"} if detailed else None)


def test_readiness_says_that_the_keys_are_those_of_before() -> None:
    operator = Operator(lambda: None, keys_broken=lambda: "keys.toml: line 3", drops_unread=True)
    assert get("/readyz", operator).json == {"status": "ready", "unread": "drop", "keys": "stale"}
    # Found from outside: it told strangers that no key can be revoked just now.
    assert get("/readyz", operator, **REMOTE).json == {"status": "ready", "unread": "drop"}
    assert get("/readyz", Operator(lambda: None)).json == {"status": "ready"}
