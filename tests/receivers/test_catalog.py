"""wsgi.receivers.catalog, and paths that begin with a field: which receivers are open, and what leads to them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from inlet import keyfile
from inlet.stream.limits import RecordLimits
from tests.receivers.support import MemorySink, Reply, ask, body_of, environ, record, refused
from wsgi.receivers.admission import OPEN
from wsgi.receivers.application import Application
from wsgi.receivers.catalog import MOUNTS, mount
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.mounting import Bounds
from wsgi.receivers.native import Native
from wsgi.receivers.resources import Operator
from wsgi.receivers.routes import create_app

BOUNDS = Bounds(PayloadLimits(), RecordLimits())


class Put(Native):
    """A receiver with a field in its path, as Elasticsearch's, and what all of them may have."""

    methods: tuple[str, ...] = ("POST", "PUT")
    receipts, addressed, partial, probed = True, False, True, True


def app_of(*names: str) -> Application:
    """The application with these receivers open."""
    found = mount(names, BOUNDS)
    return create_app(
        receivers=found.receivers, pages=found.pages, append=MemorySink().append, admission=OPEN,
        operator=Operator(lambda: None),
    )  # fmt: skip


def field_app(sink: MemorySink, bytes_max: int = 1_000) -> Application:
    put = Put(PayloadLimits(payload_bytes_max=bytes_max), RecordLimits())
    receivers = {"/_put": put, "/{index}/_put": put}
    return create_app(receivers=receivers, append=sink.append, admission=OPEN, operator=Operator(lambda: None))


def test_the_catalog_has_the_receivers_that_keys_can_name() -> None:
    assert tuple(MOUNTS) == keyfile.RECEIVERS


def test_each_receiver_has_its_own_name_and_a_path_of_its_own() -> None:
    paths: list[str] = []
    for name in MOUNTS:
        found = mount([name], BOUNDS)
        assert {receiver.name for receiver in found.receivers.values()} == {name}
        paths += [*found.receivers, *found.pages]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("name", list(MOUNTS))
def test_the_paths_of_a_closed_receiver_are_not_found(name: str) -> None:
    paths = [path.replace("{index}", "logs") for path in mount([name], BOUNDS).receivers]
    others = app_of(*(other for other in MOUNTS if other != name))
    for path in paths:
        assert ask(app_of(name), environ(b"\xff", path=path)).status != 404
        refused(ask(others, environ(b"\xff", path=path)), "not-found")
        assert others.before_body(environ(path=path)) is not None


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/_put", "//_put", "/logs/_put", "/logs%2F/_put", "/v1/_put"])
def test_a_path_that_begins_with_a_field_leads_to_its_receiver(path: str, method: str) -> None:
    sink = MemorySink()
    app = field_app(sink)
    env = environ(body_of(record()), path=path, method=method)
    assert app.before_body(env) is None
    assert ask(app, env).status == 202
    assert len(sink.stored) == 1


@pytest.mark.parametrize("path", ["/a/b/_put", "/logs/_puts", "/logs/_put/"])
def test_a_path_with_another_shape_is_not_found(path: str) -> None:
    app = field_app(MemorySink())
    early = app.before_body(environ(path=path))
    assert early is not None
    assert early[0].startswith("404")
    refused(ask(app, environ(path=path)), "not-found")


def test_a_receiver_answers_probes_where_it_says_so_and_names_its_methods() -> None:
    app = field_app(MemorySink())
    for method in ("GET", "HEAD"):
        assert ask(app, environ(path="/x/_put", method=method)).status == 200
    reply: Reply = ask(app, environ(path="/x/_put", method="OPTIONS"))
    assert reply.headers["allow"] == "GET, HEAD, POST, PUT, OPTIONS"
    reply = ask(app_of("native"), environ(path="/ingest", method="OPTIONS"))
    assert reply.headers["allow"] == "POST, OPTIONS"
    refused(ask(app_of("native"), environ(path="/ingest", method="PUT")), "method-not-allowed")


def test_a_receivers_own_bound_on_a_body_holds_at_its_head_and_without_a_length() -> None:
    body = body_of(record())
    for size, status in ((len(body), 202), (len(body) - 1, 413)):
        app = field_app(MemorySink(), size)
        assert ask(app, environ(body, path="/_put")).status == status
        early = app.before_body(environ(body, path="/_put"))
        assert early is None if status == 202 else early is not None and early[0].startswith("413")
        more: dict[str, Any] = {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}
        more |= {"wsgi.input": BytesIO(body), "wsgi.input_terminated": True}
        assert ask(app, environ(path="/_put", **more)).status == status
