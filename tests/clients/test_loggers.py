"""Loggers of Python, Node and Go, as their recipes in docs/clients.md configure them, against ``POST /ingest/json``."""

from __future__ import annotations

import logging
import logging.handlers
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from inlet.stream import timestamp as timestamps
from tests.clients.recipes import FLAT, LOGGERS_OF, logger_of, messages, run, run_through_outage
from tests.clients.support import RECORDS, Inlet, check_messages, check_once

RETRYING = [client for client in LOGGERS_OF if client != "winston"]
FIRST = 100
"""Records before the outage: a batch of each logger."""
OUTAGE_RECORDS = 400
LEVELS = {
    "python-json-logger": ("levelname", "INFO"), "structlog": ("level", "info"), "winston": ("level", "info"),
    "pino": ("level", "30"), "pino-http-send": ("level", "30"), "zap": ("level", "info"), "zerolog": ("level", "info"),
}  # fmt: skip
FAILURES = {
    "python-json-logger": ("exc_info", "ZeroDivisionError"), "structlog": ("exception", "ZeroDivisionError"),
    "winston": ("stack", "TypeError: failed"), "pino": ("err.stack", "TypeError: failed"),
    "pino-http-send": ("err.stack", "TypeError: failed"), "zap": ("error", "failed"), "zerolog": ("error", "failed"),
}  # fmt: skip
"""Logger -> the metadata that holds an error, and a part of it."""
DIGITS = {"zap": 4, "zerolog": 4, "python-json-logger": 4, "structlog": 4}
"""Logger -> digits of a second that at least one of its times has; three, if it is not here."""


@pytest.mark.parametrize("client", LOGGERS_OF)
def test_every_record_of_a_logger_is_stored_with_all_its_members(client: str, keyed: Inlet, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    run(logger_of(client, keyed, tmp_path), RECORDS, FAILURE="1")
    records = check_messages(keyed, [*messages(RECORDS), "failed"])
    name, word = FAILURES[client]
    by_message = {record.message: record for record in records}
    assert word in by_message.pop("failed").metadata[name]
    level, value = LEVELS[client]
    digits = 0
    for number, message in enumerate(messages(RECORDS)):
        record = by_message[message]
        assert record.service == "checkout"
        own = {pair: text for pair, text in record.metadata.items() if pair not in ("name", "number", level)}
        assert own == FLAT
        assert (record.metadata["number"], record.metadata[level]) == (str(number), value)
        written = datetime.fromisoformat(record.timestamp)
        assert timestamps.is_valid(record.timestamp)
        assert abs((written - began).total_seconds()) < 300
        fraction = record.timestamp.partition(".")[2].rstrip("Z").partition("+")[0].rstrip("0")
        digits = max(digits, len(fraction))
    assert digits >= DIGITS.get(client, 1)
    assert len({record.event_id for record in records}) == len(records)


@pytest.mark.parametrize("client", RETRYING)
def test_a_logger_that_retries_loses_and_doubles_nothing_in_an_outage(
    client: str, inlet: Inlet, tmp_path: Path
) -> None:
    status, output = run_through_outage(inlet, logger_of(client, inlet, tmp_path), OUTAGE_RECORDS, FIRST)
    assert status == 0, output
    check_messages(inlet, messages(OUTAGE_RECORDS))


def test_winston_loses_what_it_sends_during_an_outage_and_says_so(inlet: Inlet, tmp_path: Path) -> None:
    status, output = run_through_outage(inlet, logger_of("winston", inlet, tmp_path), OUTAGE_RECORDS, FIRST)
    assert status == 0, output
    found = [record.message for record in inlet.records()]
    check_once(found, messages(len(found)))
    assert FIRST <= len(found) < OUTAGE_RECORDS
    assert "not delivered: Invalid HTTP Status Code: 503" in output


@pytest.mark.parametrize("body_type", ["json", "ndjson"])
def test_both_bodies_of_pino_http_send_are_taken(body_type: str, inlet: Inlet, tmp_path: Path) -> None:
    program = logger_of("pino-http-send", inlet, tmp_path)
    words = [word.replace("--batchSize", f"--bodyType {body_type} --batchSize") for word in program.words]
    run(program._replace(words=tuple(words)), RECORDS)
    check_messages(inlet, messages(RECORDS))


def test_the_form_of_pythons_http_handler_is_refused_with_words_that_help(inlet: Inlet) -> None:
    handler = logging.handlers.HTTPHandler(f"127.0.0.1:{inlet.port}", "/ingest/json", method="POST")
    record = logging.makeLogRecord({"msg": "paid", "levelname": "INFO"})
    handler.emit(record)
    handler.close()
    answer = httpx.post(f"{inlet.url}/ingest/json", data=handler.mapLogRecord(record), timeout=30)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["detail"]
    assert not inlet.records()
