"""Clients of Loki against the Loki receiver.

The real ones: python-logging-loki and pino-loki, which both try once. Agents that cannot be installed (Promtail, Alloy,
Docker's driver, Fluent Bit, Vector) are recorded requests, written from the sources that each file names; what they do
after a refusal is done here: the same bytes again, until the answer is one that they stop at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import programs
from tests.clients.support import (
    CLIENT_SECONDS,
    RECORDS,
    Inlet,
    StoredRecord,
    check_once,
    in_background,
    outage,
    run_client,
)
from tests.clients.test_recorded import FOLDER, request
from tests.receivers.loki_support import NANOS, PROTOBUF, snappy
from tests.receivers.loki_support import request as push_request
from tests.support import ROOT, wait_until

DRIVERS = ROOT / "tests/clients/drivers"
NODE = ROOT / "tests/clients/node/loki"
OUTAGE_RECORDS, FIRST = 300, 100
TEXT = 'paid %d ü€😀 "quoted" \\ \ttab\nnext line'


def python_words(inlet: Inlet, version: str, records: int, pause_at: int = 0) -> list[str]:
    """How python-logging-loki is started."""
    words = [sys.executable, str(DRIVERS / "loki_logging.py"), inlet.url, inlet.key, version]
    return [*words, str(records), str(pause_at)]


def node_words(inlet: Inlet, records: int, pause_at: int = 0) -> tuple[list[str], dict[str, str]]:
    """How pino-loki is started, and its environment."""
    modules = programs.npm_packages(NODE)
    words = ["node", str(DRIVERS / "pino_loki.cjs"), inlet.url, inlet.key, str(records), str(pause_at)]
    return words, {**programs.QUIET, "NODE_PATH": str(modules)}


@pytest.mark.parametrize("version", ["0", "1"])
def test_every_record_of_python_logging_loki_is_stored_with_its_tags(version: str, keyed: Inlet) -> None:
    run_client(python_words(keyed, version, RECORDS))
    records = keyed.wait_for(RECORDS)
    check_once([record.message for record in records], [TEXT % number for number in range(RECORDS)])
    for number, record in enumerate(records):
        assert (record.service, record.message) == ("checkout", TEXT % number)
        assert record.metadata == {
            "application": "checkout", "path": "C:\\logs", "severity": "warning", "logger": "shop.api",
            "number": str(number),
        }  # fmt: skip
    assert len({record.event_id for record in records}) == RECORDS


def test_every_record_of_pino_loki_is_stored_with_its_labels_and_metadata(keyed: Inlet) -> None:
    words, env = node_words(keyed, RECORDS)
    run_client(words, cwd=NODE, seconds=CLIENT_SECONDS, **env)
    records = keyed.wait_for(RECORDS)
    by_number: dict[int, StoredRecord] = {json.loads(record.message)["number"]: record for record in records}
    assert sorted(by_number) == list(range(RECORDS))
    for number, record in by_number.items():
        line = json.loads(record.message)
        assert (record.service, line["msg"], line["name"]) == ("checkout", 'paid ü€😀 "q" \\ \n', "shop")
        own = {name: value for name, value in record.metadata.items() if name != "hostname"}
        assert own == {
            "level": "info", "app": "checkout", "region": "eu-1", "trace": f"t-{number}", "deep": '{"a":[1]}',
            "flag": "true",
        }  # fmt: skip
        millis = int(line["time"])
        assert record.timestamp.partition(".")[2].startswith(f"{millis % 1_000:03d}")


def run_through_outage(inlet: Inlet, words: list[str], env: dict[str, str], complaint: str, folder: Path) -> None:
    """Let a client log FIRST records, and the others while the store is away, until it says ``complaint``."""
    output = folder / "client.log"
    with open(output, "wb") as log:
        process = subprocess.Popen(
            words, cwd=NODE, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    try:
        assert process.stdin is not None
        wait_until(lambda: process.poll() is not None or inlet.count() >= FIRST, "the first records")
        assert process.poll() is None, output.read_text()
        with outage(inlet):
            process.stdin.write(b"go on\n")
            process.stdin.flush()
            wait_until(lambda: complaint in output.read_text(), f"the client's complaint: {complaint}")
        process.stdin.close()
        process.wait(CLIENT_SECONDS)
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def check_first_kept(inlet: Inlet, numbers: list[int]) -> None:
    """What was logged before is there once; of what was logged during the outage nothing is there twice."""
    check_once(map(str, numbers), map(str, sorted(set(numbers))))
    assert set(range(FIRST)) <= set(numbers)
    assert len(numbers) < OUTAGE_RECORDS


def test_python_logging_loki_tries_once_and_says_what_it_lost(inlet: Inlet, tmp_path: Path) -> None:
    words = python_words(inlet, "1", OUTAGE_RECORDS, FIRST)
    run_through_outage(inlet, words, {}, "Unexpected Loki API response status code: 503", tmp_path)
    check_first_kept(inlet, [int(record.metadata["number"]) for record in inlet.records()])


def test_pino_loki_tries_once_and_says_what_it_lost(inlet: Inlet, tmp_path: Path) -> None:
    words, env = node_words(inlet, OUTAGE_RECORDS, FIRST)
    run_through_outage(inlet, words, env, "Got error when trying to send log to loki", tmp_path)
    check_first_kept(inlet, [json.loads(record.message)["number"] for record in inlet.records()])


# Recorded requests ----------------------------------------------------------------------------------------------------

PAID = ("paid ü€😀 0", '{"level":"info","msg":"paid ü€😀 1"}')
TIMES = ("2026-01-31T23:59:59.123456780Z", "2026-01-31T23:59:59.123456781Z")
TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
TEAM = {"loki.tenant": "team-a"}
FLUENT_BIT = {**TEAM, "job": "checkout", "host": "node-1", **TRACE}
VECTOR = {**TEAM, "source": "vector", **TRACE}


class Wanted(NamedTuple):
    """What a recorded request becomes."""

    metadata: dict[str, str]


WANTED = {
    "promtail": Wanted({**TEAM, "filename": "/var/log/shop.log", "job": "checkout", "path": "C:\\logs"}),
    "alloy": Wanted(
        {**TEAM, "namespace": "shop", "pod": "checkout-1", **TRACE, "structured_metadata.pod": "own"}
    ),
    "docker": Wanted({
        "compose_project": "shop", "compose_service": "api", "container_name": "checkout",
        "filename": "/var/log/docker/0a/json.log", "host": "node-1", "source": "stdout",
    }),
    "fluent-bit": Wanted(FLUENT_BIT),
    "fluent-bit-gzip": Wanted(FLUENT_BIT),
    "vector-snappy": Wanted(VECTOR),
    "vector-json": Wanted(VECTOR),
}  # fmt: skip


def test_every_recorded_request_of_loki_is_replayed_and_says_where_its_form_is_from() -> None:
    files = {path.stem: path.read_text() for path in (FOLDER / "loki").glob("*.http")}
    assert set(files) == {*WANTED, "vector-ready"}
    for text in files.values():
        assert "written from the source" in text.partition("POST ")[0]


def recorded(name: str, key: str) -> bytes:
    """A recorded request as its agent sends it, the key in its own header: Basic or Bearer."""
    return request(f"loki/{name}", key)


@pytest.mark.parametrize("name", WANTED)
def test_a_recorded_request_is_stored_field_by_field(name: str, keyed: Inlet) -> None:
    sent = recorded(name, keyed.key)
    for _ in range(2):  # once more, as where the answer was lost
        status, headers, body = keyed.server.send(sent)
        assert (status, body) == (204, b""), headers
    records = keyed.records()
    assert [record.message for record in records] == list(PAID)
    assert [record.timestamp for record in records] == list(TIMES)
    assert {record.service for record in records} == {"checkout"}
    for record in records:
        assert record.metadata == WANTED[name].metadata


@pytest.mark.parametrize("name", WANTED)
def test_a_recorded_request_with_a_wrong_key_is_refused_and_says_how_to_send_one(name: str, keyed: Inlet) -> None:
    status, headers, body = keyed.server.send(recorded(name, "inlet_000000000000_" + "0" * 64))
    assert (status, headers["content-type"]) == (401, "text/plain; charset=utf-8")
    assert headers["www-authenticate"].startswith("Bearer")
    assert b"key" in body
    assert not keyed.records()


def test_vector_finds_inlet_ready(keyed: Inlet) -> None:
    def answer() -> tuple[int, bytes]:
        status, _, body = keyed.server.send(recorded("vector-ready", keyed.key))
        return status, body

    wait_until(lambda: answer()[0] == 200, "the worker has seen the store")
    assert answer() == (200, b"ready\n")


def test_an_agent_that_retries_loses_and_doubles_nothing_in_an_outage(inlet: Inlet) -> None:
    batches = [
        snappy(push_request(('{job="checkout"}', [(NANOS + at, f"m-{at}", []) for at in range(start, start + 10)])))
        for start in range(0, RECORDS, 10)
    ]
    head = "POST /loki/api/v1/push HTTP/1.1\r\nHost: a\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
    statuses: set[int] = set()

    def send() -> None:
        """As Promtail, Alloy and Docker's driver: the same again after 429, 5xx and a lost connection."""
        for body in batches:
            status = 0
            while status != 204:
                try:
                    status, _, _ = inlet.server.send(head.format(PROTOBUF, len(body)).encode() + body)
                except (OSError, AssertionError):
                    continue
                statuses.add(status)
                assert status == 204 or status == 429 or status >= 500

    join = in_background(send)
    wait_until(lambda: inlet.count() >= FIRST, "the first records")
    with outage(inlet):
        pass
    join()
    check_once([record.message for record in inlet.records()], [f"m-{at}" for at in range(RECORDS)])
    assert statuses == {204, 503}
