"""Recorded requests of clients that cannot be installed, replayed byte for byte. They were written from the clients'
sources and documentation, as the comment of each file says; only the key is put in.

Docker's gelf driver has none: it sends over UDP or TCP, and Inlet speaks HTTP.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients.support import Inlet, Tenant, check_fields, check_once
from tests.support import ROOT

GITHUB = "github-push"
FOLDER = ROOT / "tests/clients/recorded"
SECOND = "2026-01-31T23:59:5"
FLUENT_BIT = {
    "stream": "stdout", "kubernetes.pod_name": "shop-1", "ok": "true",
    "amount": "12.5", "items": '[1,"zwei",null]',
}  # fmt: skip
VECTOR = {"file": "/var/log/shop.log", "host": "web-1", "source_type": "file", "kubernetes.pod": "shop-1"}
DATADOG = {"status": "info", "hostname": "web-1", "ddsource": "python", "ddtags": "env:prod,filename:shop.log"}


class Wanted(NamedTuple):
    """What a request must do: its answer's statuses, what is stored, and beginnings of the records' times."""

    statuses: tuple[int, ...]
    messages: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    metadata: dict[str, str] = {}  # noqa: RUF012  # never changed
    service: str = "unknown"


PAID = ("paid ü€😀 0", "paid ü€😀 1")
SUCCESS = (200, 201, 202, 204)
WANTED = {
    "fluent-bit-json": Wanted(
        SUCCESS, PAID, ("2026-01-31T23:59:59.123456", "2026-02-01T00:00:00.123456"), FLUENT_BIT, "checkout"
    ),
    "fluent-bit-json-gzip": Wanted(SUCCESS, PAID, ("2026-01-31T23:59:59.123456",), FLUENT_BIT, "checkout"),
    "fluent-bit-json-lines": Wanted(SUCCESS, PAID, ("2026-01-31T23:59:59.123456",), FLUENT_BIT, "checkout"),
    "fluent-bit-json-stream": Wanted(
        SUCCESS, PAID, (f"{SECOND}8.123456Z", f"{SECOND}9.123456Z"), FLUENT_BIT, "checkout"
    ),
    "fluent-bit-msgpack": Wanted(SUCCESS, PAID, (f"{SECOND}9.123456789Z",), FLUENT_BIT, "checkout"),
    "vector-json": Wanted(SUCCESS, PAID, (f"{SECOND}9.123456780Z", f"{SECOND}9.123456781Z"), VECTOR),
    "vector-ndjson": Wanted(SUCCESS, PAID, (f"{SECOND}9.123456780Z",), VECTOR),
    "vector-health": Wanted((200, 204)),
    "datadog-agent-gzip": Wanted((202,), PAID, (f"{SECOND}9.123", f"{SECOND}9.124"), DATADOG, "checkout"),
    "datadog-agent-zstd": Wanted((202,), PAID, (f"{SECOND}9.123", f"{SECOND}9.124"), DATADOG, "checkout"),
    "datadog-agent-v1": Wanted(SUCCESS, PAID, (f"{SECOND}9.123",), DATADOG, "checkout"),
    "datadog-agent-probe": Wanted((200, 202)),
    "datadog-agent-validate": Wanted((200,)),
}


def request(name: str, key: str) -> bytes:
    """Return a recorded request as its client sends it."""
    text = re.sub(r"\A(#.*\n)+", lambda found: "", (FOLDER / f"{name}.http").read_text())
    head, _, body = text.partition("\n\n")
    body = body.removesuffix("\n")
    is_hex = "# body: hex\n" in (FOLDER / f"{name}.http").read_text()
    octets = bytes.fromhex(body) if is_hex else body.encode()
    basic = base64.b64encode(f"inlet:{key}".encode()).decode()
    lines = head.replace("INLET_KEY", key).replace("@BASIC", basic).split("\n")
    length = re.search(r"^content-length: (\d+)$", head, re.IGNORECASE | re.MULTILINE)
    assert len(octets) == (int(length[1]) if length else 0), name
    return "\r\n".join([*lines, "", ""]).encode() + octets


def test_every_recorded_request_is_replayed() -> None:
    assert {path.stem for path in FOLDER.glob("*.http")} == {*WANTED, GITHUB}


@pytest.fixture(scope="module")
def tenants() -> Iterator[dict[str, Tenant]]:
    """A key, and a stream, for each recorded request."""
    with Inlet(tenants=(*WANTED, GITHUB)) as inlet:
        yield inlet.tenants


@pytest.mark.parametrize("name", [name for name in (*WANTED, GITHUB) if name != "vector-health"])
def test_a_recorded_request_with_a_wrong_key_is_refused(name: str, tenants: dict[str, Tenant]) -> None:
    tenant = tenants[name]
    assert tenant.server.send(request(name, "inlet_000000000000_" + "0" * 64))[0] in (401, 403)
    assert not tenant.records()


@pytest.mark.parametrize("name", WANTED)
def test_a_recorded_request_is_answered_and_stored_as_its_client_needs(name: str, tenants: dict[str, Tenant]) -> None:
    wanted, tenant = WANTED[name], tenants[name]
    status, headers, _ = tenant.server.send(request(name, tenant.key))
    assert status in wanted.statuses, headers
    # The client did not see the answer, and sends the same again.
    assert tenant.server.send(request(name, tenant.key))[0] in wanted.statuses
    records = tenant.records()
    check_once([record.message for record in records], wanted.messages)
    for record in records:
        check_fields(record, service=wanted.service, metadata=wanted.metadata)
    for record, start in zip(records, wanted.times, strict=False):
        assert record.timestamp.startswith(start.rstrip("Z"))


def test_a_delivery_of_github_is_one_record_with_its_id_and_event(tenants: dict[str, Tenant]) -> None:
    tenant = tenants[GITHUB]
    for _ in range(2):
        status, _, _ = tenant.server.send(request(GITHUB, tenant.key))
        assert 200 <= status < 300
    (record,) = tenant.records()
    check_fields(record, event_id="72d3162e-cc78-11e3-81ab-4c9367dc0958", service="github", metadata={"event": "push"})
    assert json.loads(record.message)["head_commit"]["message"] == "Update README.md ü€😀"


def test_each_recorded_request_says_where_its_form_is_from() -> None:
    for path in Path(FOLDER).glob("*.http"):
        assert re.match(r"# .*(source|documentation)", path.read_text()), path
