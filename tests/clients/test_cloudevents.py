"""CloudEvents of the ``cloudevents`` library, in binary and structured mode, sent by ``requests`` with retries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.clients.support import CLIENT_SECONDS, RECORDS, Inlet, check_once, in_background, outage

T = "2026-01-31T23:59:59.123456+00:00"
MODES = (to_binary_event, to_structured_event)
SOURCES = ("/orders", "urn:example:pay%20ments", "https://example.com/ü?a=b#c")
ENCODED = tuple(source.replace("%", "%25") for source in SOURCES)
"""Sources as they stand in ids."""
DATA: tuple[Any, ...] = ({"n": 1.5, "text": "ü€\U0001f600", "list": [1, None]}, "plain ü", b"\x00\xff")
TYPES = ("application/json", "text/plain; charset=utf-8", "application/octet-stream")


def event(number: int, source: str | None = None) -> CloudEvent:
    """An event with everything that one can hold."""
    kind = number % 3
    return CloudEvent(
        {
            "id": f"id {number // 3} ü%",
            "source": source or SOURCES[kind],
            "type": "com.example.created",
            "time": isoparse(T),
            "subject": f'subject/{number} "quoted" ü€',
            "dataschema": "https://example.com/schema",
            "datacontenttype": TYPES[kind],
            "traceparent": "00-1-2-01",
            "specversion": "1.0",
        },
        DATA[kind],
    )


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A session with a retry policy of its own configuration."""
    with requests.Session() as session:
        policy = Retry(total=30, backoff_factor=0.3, backoff_max=2, status_forcelist=(429, 503), allowed_methods=None)
        session.mount("http://", HTTPAdapter(max_retries=policy))
        yield session


def send(session: requests.Session, target: Inlet, message: HTTPMessage) -> requests.Response:
    """Post a message as the library made it."""
    headers = {**message.headers, **({"Authorization": f"Bearer {target.key}"} if target.key else {})}
    return session.post(f"{target.url}/cloudevents", data=message.body, headers=headers, timeout=CLIENT_SECONDS)


def test_a_thousand_events_are_stored_field_by_field_the_same_in_both_modes(
    session: requests.Session, keyed: Inlet
) -> None:
    for number in range(RECORDS):
        assert send(session, keyed, MODES[number // 3 % 2](event(number))).status_code == 202
    records = keyed.wait_for(RECORDS)
    assert len({record.event_id for record in records}) == RECORDS
    for number, record in enumerate(records):
        kind = number % 3
        assert record.event_id == f"{ENCODED[kind]} id {number // 3} ü%"
        assert record.timestamp in (T, T.replace("+00:00", "Z"))
        assert record.service == SOURCES[kind]
        wanted = {
            "type": "com.example.created",
            "subject": f'subject/{number} "quoted" ü€',
            "dataschema": "https://example.com/schema",
            "datacontenttype": TYPES[kind],
            "traceparent": "00-1-2-01",
        }
        if kind == 2:
            wanted["data_base64"] = "true"
        assert record.metadata == wanted
        message = json.loads(record.message) if kind == 0 else record.message
        assert message == (DATA[0], DATA[1], "AP8=")[kind]


def test_nothing_is_lost_or_doubled_where_the_store_is_killed(session: requests.Session, inlet: Inlet) -> None:
    sent = [event(number) for number in range(300)]

    def send_all() -> None:
        for number, each in enumerate(sent):
            assert send(session, inlet, MODES[number % 2](each)).status_code == 202

    join = in_background(send_all)
    inlet.wait_for(20)
    with outage(inlet):
        pass
    join()
    records = inlet.wait_for(len(sent))
    check_once([record.event_id for record in records], [f"{ENCODED[n % 3]} id {n // 3} ü%" for n in range(300)])


def test_an_event_sent_again_is_stored_once_and_one_of_another_source_too(
    session: requests.Session, inlet: Inlet
) -> None:
    for source in ("/a", "/a", "/b"):
        assert send(session, inlet, to_binary_event(event(1, source))).status_code == 202
    assert [record.service for record in inlet.wait_for(2)] == ["/a", "/b"]
