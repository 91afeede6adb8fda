"""OpenTelemetry's own exporters of Python and Node against the real server: every field, and a store that is killed.

What lives here: OTLP/HTTP in protobuf and JSON, plain and with gzip. What must not: hostile bodies
(``tests.receivers.test_otlp_hostile``).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.access.support import keys_file, new_key
from tests.clients.programs import npm_packages
from tests.conftest import Serve
from tests.faults.rig import Store
from tests.support import ROOT, Server, stored_lines

NODE = ROOT / "tests/clients/node/otlp"
RECORDS = 1_000
SECONDS, TIME = 1_769_903_999, "2026-01-31T23:59:59"
AWAY_SECONDS = 3.0
"""How long the store is gone: the exporters' own retries last longer."""
OWN = ("resource.telemetry.", "resource.service.instance.id")
"""Metadata that a client adds of itself."""
CLIENTS = ["python", "node proto", "node http"]
BODIES: list[Any] = [
    "paid", "", "line\nwith \"quotes\" é \U0001f600 \u2028", 7, True, 1.5, ["a", 1, [True]],
    {"a": {"b": "c"}, "d": [1]}, {"bytes": [0, 255, 16]}, "x" * 5_000,
]  # fmt: skip


def record_of(number: int) -> dict[str, Any]:
    """One record of the file that the clients read."""
    return {
        "seconds": SECONDS, "nanos": number * 1_000 + 7, "severityNumber": 1 + number % 24, "severityText": "LEVEL",
        "eventName": "payment", "traceId": f"{number + 1:032x}", "spanId": f"{number + 1:016x}",
        "body": BODIES[number % len(BODIES)],
        "attributes": {
            "number": number, "text": "é\n", "empty": "", "yes": True, "ratio": 0.25 + number,
            "list": ["a", "b"], "nested": {"deep": {"er": number}}, "raw": {"bytes": [1, 2, 255]},
        },
    }  # fmt: skip


def message_of(body: Any) -> str:
    """What Inlet makes of a body (docs/receivers/otlp.md)."""
    if isinstance(body, str):
        return body
    if isinstance(body, dict) and "bytes" in body:
        return base64.b64encode(bytes(body["bytes"])).decode()
    return json.dumps(body, separators=(",", ":"))


def expected(number: int) -> tuple[Any, ...]:
    """The record as it must be stored, without its id."""
    sent = record_of(number)
    return (
        f"{TIME}.{sent['nanos']:09d}Z", "checkout", message_of(sent["body"]),
        {
            "observed_timestamp": f"{TIME}.{sent['nanos'] + 1:09d}Z", "severity_number": str(sent["severityNumber"]),
            "severity_text": "LEVEL", "trace_id": sent["traceId"], "span_id": sent["spanId"],
            "event_name": "payment", "number": str(number), "text": "é\n", "empty": "", "yes": "true",
            "ratio": str(sent["attributes"]["ratio"]), "list": '["a","b"]', "nested.deep.er": str(number),
            "raw": "AQL/", "resource.deployment.environment.name": "test", "scope.name": "app", "scope.version": "1.2",
            "scope.schema_url": "https://example.com/scope",
        },
    )  # fmt: skip


def seen(line: list[Any]) -> tuple[Any, ...]:
    """A stored record without its id, and without what a client adds or leaves out of itself."""
    _, timestamp, service, message, metadata = line
    kept = {name: value for name, value in metadata.items() if not name.startswith(OWN)}
    kept["ratio"] = str(float(kept["ratio"]))
    flags = kept.pop("flags")
    assert int(flags) & 1
    return timestamp, service, message, kept


class Exporter:
    """A client in a process of its own, which waits after half of its records."""

    def __init__(self, client: str, server: Server, directory: Path, **env: str) -> None:
        file = directory / "records.json"
        file.write_text(json.dumps([record_of(number) for number in range(RECORDS)]))
        if client == "python":
            command = [sys.executable, str(ROOT / "tests/clients/otlp_python.py"), str(file)]
        else:
            npm_packages(NODE)
            command = ["node", str(NODE / "send.cjs"), client.removeprefix("node "), str(file)]
        own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        own.update(
            OTEL_EXPORTER_OTLP_ENDPOINT=server.url, OTEL_SERVICE_NAME="checkout",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test", OTEL_BLRP_EXPORT_TIMEOUT="60000",
            OTEL_EXPORTER_OTLP_TIMEOUT="60" if client == "python" else "60000",
        )  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**own, **env}
        )

    def half(self) -> None:
        """Wait until half of the records are sent."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "half\n"

    def rest(self) -> None:
        """Let it send the rest."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Wait until it has ended, and well."""
        self.process.communicate(timeout=120)
        assert self.process.returncode == 0

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def store() -> Iterator[Store]:
    """A store that is killed and started again."""
    store = Store({"appendfsync": "always"})
    store.start()
    yield store
    store.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("client", CLIENTS)
def test_every_field_that_an_exporter_sends_is_stored(
    client: str, compression: str, serve: Serve, store: Store, tmp_path: Path
) -> None:
    key, sent = new_key(receivers=("otlp",))
    server = serve(REDIS_URL=store.url, INLET_KEYS_FILE=str(keys_file(tmp_path / "keys.toml", key)))
    exporter = Exporter(
        client, server, tmp_path, OTEL_EXPORTER_OTLP_COMPRESSION=compression,
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{sent}",
    )  # fmt: skip
    try:
        exporter.half()
        exporter.rest()
        exporter.end()
    finally:
        exporter.close()
    with store.client() as connection:
        stored = sorted(map(seen, stored_lines(connection, "logs")), key=lambda line: str(line[0]))
    assert len(stored) == RECORDS
    for number, line in enumerate(stored):
        assert line == expected(number)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_exporter_loses_nothing_and_doubles_nothing_while_the_store_is_killed(
    client: str, serve: Serve, store: Store, tmp_path: Path
) -> None:
    server = serve(REDIS_URL=store.url, INLET_DEDUP_SECONDS="3600")
    exporter = Exporter(client, server, tmp_path)
    try:
        exporter.half()
        store.kill()
        exporter.rest()
        time.sleep(AWAY_SECONDS)  # the fault itself
        store.start()
        exporter.end()
    finally:
        exporter.close()
    with store.client() as connection:
        lines = stored_lines(connection, "logs")
    assert sorted(line[4]["number"] for line in lines) == sorted(map(str, range(RECORDS)))
    assert len({line[0] for line in lines}) == RECORDS
