"""Clients of Splunk's HTTP Event Collector against the Splunk receiver.

Real: splunk-handler (PyPI), splunk-logging and winston-splunk-httplogger (npm). Recorded, written from their sources:
Docker's splunk driver, Fluent Bit, Vector, the OpenTelemetry Collector, Splunk's libraries for Java and .NET.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from tests.clients.programs import QUIET, npm_packages
from tests.clients.support import (
    RECORDS,
    Inlet,
    check_fields,
    check_messages,
    check_once,
    in_background,
    outage,
    run_client,
)  # fmt: skip
from tests.clients.test_recorded import FOLDER, request
from tests.support import ROOT

NODE = ROOT / "tests/clients/node/splunk"
URL = "/services/collector"

CHANNEL = "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba"
LABELS = {"host": "web-1", "source": "checkout", "sourcetype": "shop", "index": "main"}
OUTAGE_RECORDS, FIRST = 400, 100


def message(number: int) -> str:
    """What the record of this number says."""
    return f'paid ü€😀 "quoted" \\ /\ttab\nnext line {number}'


@contextmanager
def splunk_handler(inlet: Inlet) -> Iterator[logging.Logger]:
    """A logger with splunk-handler behind it, configured by its own parameters alone."""
    module: Any = pytest.importorskip("splunk_handler")
    handler = module.SplunkHandler(
        host="127.0.0.1", port=inlet.port, token=inlet.key or "any", index="main", protocol="http", verify=False,
        hostname="web-1", source="checkout", sourcetype="shop", flush_interval=0.2, queue_size=0, retry_count=20,
        retry_backoff=0.3, timeout=60,
    )  # fmt: skip
    logger = logging.Logger("splunk", logging.INFO)
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()


def test_splunk_handler_has_every_record_stored_with_its_labels(keyed: Inlet) -> None:
    with splunk_handler(keyed) as logger:
        for number in range(RECORDS):
            logger.info(message(number))
    for record in check_messages(keyed, [message(number) for number in range(RECORDS)]):
        check_fields(record, service="checkout", metadata=LABELS)
        assert record.metadata == LABELS
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,9}Z", record.timestamp)


def test_splunk_handler_loses_and_doubles_nothing_in_an_outage(inlet: Inlet) -> None:
    with splunk_handler(inlet) as logger:
        for number in range(FIRST):
            logger.info(message(number))
        inlet.wait_for(FIRST)
        with outage(inlet):
            for number in range(FIRST, OUTAGE_RECORDS):
                logger.info(message(number))
        check_messages(inlet, [message(number) for number in range(OUTAGE_RECORDS)])


def send(inlet: Inlet, client: str, records: int) -> str:
    """Run a client of Node to its end; what it said."""
    npm_packages(NODE)
    env: dict[str, Any] = {
        "CLIENT": client,
        "PORT": str(inlet.port),
        "KEY": inlet.key or "any",
        "RECORDS": str(records),
        **QUIET,
    }
    return run_client([shutil.which("node") or "node", "send.js"], cwd=NODE, **env).stdout


def test_splunks_logger_for_node_has_every_record_stored(keyed: Inlet) -> None:
    send(keyed, "splunk-logging", RECORDS)
    sent = [f"paid ü€😀 {number}" for number in range(RECORDS)]
    for record in check_messages(keyed, sent):
        assert record.service == "checkout"
        assert record.metadata == {**LABELS, "event.severity": "warn"}
        assert record.timestamp == "2026-01-31T23:59:59.123Z"


def test_winstons_transport_has_every_record_stored(keyed: Inlet) -> None:
    send(keyed, "winston", RECORDS)
    for record in check_messages(keyed, [f"paid ü€😀 {number}" for number in range(RECORDS)]):
        wanted = {"sourcetype": "shop", "event.severity": "info", "event.message.meta.region": "eu"}
        check_fields(record, service="checkout", metadata=wanted)
        assert record.metadata["event.message.meta.nested.list"] == '[1,"zwei",null]'


def test_splunks_logger_for_node_says_what_it_loses_where_its_key_is_wrong(keyed: Inlet) -> None:
    keyed.key = "inlet_000000000000_" + "0" * 64
    with pytest.raises(AssertionError, match="Invalid authorization"):
        send(keyed, "splunk-logging", 100)
    assert not keyed.records()


class Wanted(NamedTuple):
    """What a recorded request must do: its answer, and the metadata of its records."""

    status: int = 200
    metadata: dict[str, str] = {}  # noqa: RUF012  # never changed
    prefix: str = ""
    times: tuple[str, ...] = ("2026-01-31T23:59:59.123Z", "2026-02-01T00:00:00.123Z")


MICROS = ("2026-01-31T23:59:59.123456Z", "2026-02-01T00:00:00.123456Z")
DOCKER = {"host": "node-1", "source": "checkout", "sourcetype": "docker", "index": "main"}
FLUENT_BIT = {
    **LABELS, "sourcetype": "kube", "region": "eu", "event.stream": "stdout", "event.kubernetes.pod_name": "shop-1",
    "event.kubernetes.labels.app": "checkout", "event.items": '[1,"zwei",null]',
}  # fmt: skip
VECTOR = {**LABELS, "region": "eu"}
VECTOR_JSON = {**VECTOR, "event.file": "/var/log/shop.log", "event.source_type": "file"}
OTEL = {
    **LABELS, "source": "otel", "service.name": "checkout", "otel.log.severity.text": "INFO",
    "otel.log.severity.number": "9", "trace_id": "5b8efff798038103d269b633813fc60c",
}  # fmt: skip
WANTED = {
    "docker-inline": Wanted(200, {
        **DOCKER, "event.source": "stdout", "event.tag": "shop/0123456789ab", "event.attrs.app": "checkout",
    }, times=MICROS),
    "docker-json": Wanted(
        200, {**DOCKER, "event.source": "stderr", "event.tag": "t", "event.line.level": "info"}, times=MICROS
    ),
    "docker-raw-gzip-ack": Wanted(200, DOCKER, "t ", MICROS),
    "fluent-bit": Wanted(200, FLUENT_BIT, times=MICROS),
    "fluent-bit-gzip": Wanted(200, FLUENT_BIT, times=MICROS),
    "fluent-bit-basic": Wanted(200, FLUENT_BIT, times=MICROS),
    "vector-json": Wanted(200, VECTOR_JSON),
    "vector-json-gzip": Wanted(200, VECTOR_JSON),
    "vector-text": Wanted(200, VECTOR),
    "otel": Wanted(200, OTEL),
    "otel-gzip": Wanted(200, OTEL),
    "java": Wanted(200, {
        **LABELS, "event.severity": "INFO", "event.logger": "shop.Pay", "event.thread": "main",
        "event.properties.region": "eu",
    }),
    "dotnet": Wanted(200, {**LABELS, "event.id": "7", "event.severity": "Information", "event.data.region": "eu"}),
}  # fmt: skip
UNTIMED = {"vector-raw": LABELS, "java-raw": {}}
OTHERS = {"docker-options", "vector-health", "vector-ack", "fluent-bit-send-raw"}
MESSAGES = [f"paid ü€😀 <&> {number}" for number in range(2)]


def refuse_without_key(inlet: Inlet, name: str) -> None:
    """Send a recorded request with a key that nobody has."""
    status, _, body = inlet.server.send(request(f"splunk/{name}", "inlet_000000000000_" + "0" * 64))
    assert (status, json.loads(body)["code"]) == (401, 3)


def replay(inlet: Inlet, name: str) -> tuple[int, bytes]:
    """Send a recorded request; the answer's status and body."""
    status, headers, body = inlet.server.send(request(f"splunk/{name}", inlet.key))
    assert headers.get("content-type", "application/json") == "application/json"
    return status, body


def test_every_recorded_request_is_replayed_and_says_where_its_form_is_from() -> None:
    files = list((FOLDER / "splunk").glob("*.http"))
    assert {path.stem for path in files} == {*WANTED, *UNTIMED, *OTHERS}
    assert all(re.match(r"# .* written from the source", path.read_text()) for path in files)


@pytest.mark.parametrize("name", WANTED)
def test_a_recorded_request_is_stored_once_though_it_is_sent_twice(name: str, keyed: Inlet) -> None:
    wanted = WANTED[name]
    refuse_without_key(keyed, name)
    for _ in range(2):
        status, body = replay(keyed, name)
        assert status == wanted.status
        answer = json.loads(body)
        assert ("ackId" in answer) == ("channel" in request(f"splunk/{name}", "").lower().decode("latin-1"))
        answer.pop("ackId", None)
        assert answer == {"text": "Success", "code": 0}
    records = keyed.records()
    check_once([record.message for record in records], [wanted.prefix + text for text in MESSAGES])
    for record, moment in zip(records, wanted.times, strict=True):
        assert (record.service, record.timestamp, record.metadata) == ("checkout", moment, wanted.metadata)


@pytest.mark.parametrize("name", UNTIMED)
def test_recorded_lines_without_a_time_are_stored_as_often_as_they_are_sent(name: str, keyed: Inlet) -> None:
    refuse_without_key(keyed, name)
    for _ in range(2):
        assert replay(keyed, name)[0] == 200
    records = keyed.records()
    assert [record.message for record in records] == MESSAGES * 2
    assert all(record.metadata == UNTIMED[name] for record in records)


def test_what_clients_ask_besides_is_answered_as_they_need(keyed: Inlet) -> None:
    # Docker's driver sends no key, and wants exactly 200.
    assert replay(keyed, "docker-options") == (200, b"")
    # These ids were given by another server: its events are not acknowledged here.
    refuse_without_key(keyed, "vector-ack")
    status, body = replay(keyed, "vector-ack")
    assert (status, json.loads(body)) == (200, {"acks": {"0": False, "1": False, "2": False}})
    # Without a member event: by Fluent Bit's splunk_send_raw.
    refuse_without_key(keyed, "fluent-bit-send-raw")
    status, body = replay(keyed, "fluent-bit-send-raw")
    assert (status, json.loads(body)["code"], json.loads(body)["invalid-event-number"]) == (400, 12, 0)
    assert not keyed.records()
    keyed.key = "none"
    assert replay(keyed, "vector-health") == (200, b'{"text":"HEC is healthy","code":17}')


def batch(first: int, count: int) -> bytes:
    """Events as Docker's driver writes them."""
    return b"".join(
        json.dumps(
            {"event": {"line": message(first + at), "source": "stdout"}, "time": f"1769903999.{at:06d}"}
        ).encode()
        for at in range(count)
    )


def test_an_outage_is_busy_for_agents_until_it_ends_and_costs_and_doubles_nothing(inlet: Inlet) -> None:
    """Docker, Vector, Fluent Bit and the OpenTelemetry exporter send a request again until it is 200."""
    statuses: list[int] = []

    def agent() -> None:
        with httpx.Client(base_url=inlet.url, timeout=60) as client:
            for first in range(0, OUTAGE_RECORDS, 40):
                answer = None
                while answer is None or answer.status_code != 200:
                    answer = client.post(
                        f"{URL}/event/1.0", content=gzip.compress(batch(first, 40)),
                        headers={"Content-Encoding": "gzip", "X-Splunk-Request-Channel": CHANNEL},
                    )  # fmt: skip
                    statuses.append(answer.status_code)
                    assert answer.status_code == 200 or (answer.status_code, answer.json()["code"]) == (503, 9)
                ack = answer.json()["ackId"]
                found = client.post(f"{URL}/ack?channel={CHANNEL}", json={"acks": [ack]})
                assert found.json() == {"acks": {str(ack): True}}

    with outage(inlet):
        assert httpx.get(f"{inlet.url}{URL}/health", timeout=60).status_code in (200, 503)
        join = in_background(agent)
    join()
    assert 503 in statuses
    check_messages(inlet, [message(number) for number in range(OUTAGE_RECORDS)])
