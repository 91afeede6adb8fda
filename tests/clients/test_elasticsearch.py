"""The official Elasticsearch clients of Python, versions 8 and 9, send to Inlet as they would to Elasticsearch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import elasticsearch
import elasticsearch.helpers
import elasticsearch8
import elasticsearch8.helpers
import pytest

from tests.clients.support import RECORDS, Inlet, check_fields, check_messages, check_once, in_background, outage
from tests.support import DEADLINE_SECONDS, wait_until

CLIENTS = [elasticsearch8, elasticsearch]
RETRIES: dict[str, Any] = {
    "retry_on_status": (429, 503), "max_retries": 60, "initial_backoff": 0.25, "max_backoff": 1, "chunk_size": 50,
}  # fmt: skip


def client_of(module: ModuleType, inlet: Inlet, **more: Any) -> Any:
    """A client with its defaults."""
    return module.Elasticsearch(inlet.url, request_timeout=60, **more)


def documents(count: int, **members: Any) -> Iterator[dict[str, Any]]:
    """Actions as ``helpers.bulk`` takes them, with all that a document can hold."""
    for n in range(count):
        yield {
            "_op_type": "create" if n % 2 else "index",
            "_index": f"logs-{n % 3}",
            "_id": f"id-{n}",
            "@timestamp": f"2026-01-31T23:59:59.{n:06}Z",
            "message": f'message {n} é€😀 "quoted" \\ \n\t\u2028',
            "service": {"name": f"service-{n % 5}", "version": "1.2"},
            "log.level": "info",
            "labels": {"team": "a", "n": n, "ratio": 0.5, "ok": True, "none": None},
            "tags": ["x", "é"],
            "nested": {"deep": {"er": [1, {"two": 2}]}},
            **members,
        }


@pytest.mark.parametrize("module", CLIENTS, ids=lambda module: module.__name__)
def test_a_bulk_is_stored_with_all_that_its_documents_hold(module: ModuleType, inlet: Inlet) -> None:
    with client_of(module, inlet) as client:
        assert client.info()["version"]["number"].startswith("8.")
        assert client.ping()
        wait_until(lambda: client.cluster.health()["status"] == "green", "the watcher has seen the store")
        assert module.helpers.bulk(client, documents(RECORDS), chunk_size=100) == (RECORDS, [])
    sent = list(documents(RECORDS))
    records = {record.event_id: record for record in inlet.wait_for(RECORDS)}
    assert len(records) == RECORDS
    for n, document in enumerate(sent):
        check_fields(
            records[f"logs-{n % 3}/id-{n}"], timestamp=document["@timestamp"], service=f"service-{n % 5}",
            message=document["message"],
        )  # fmt: skip
        assert records[f"logs-{n % 3}/id-{n}"].metadata == {
            "_index": f"logs-{n % 3}", "service.version": "1.2", "log.level": "info", "labels.team": "a",
            "labels.n": str(n), "labels.ratio": "0.5", "labels.ok": "true", "labels.none": "null",
            "tags": '["x","é"]', "nested.deep.er": '[1,{"two":2}]',
        }  # fmt: skip


@pytest.mark.parametrize("module", CLIENTS, ids=lambda module: module.__name__)
def test_nothing_is_lost_or_doubled_when_the_store_goes_away(module: ModuleType, inlet: Inlet) -> None:
    sent = [f"message {n}" for n in range(RECORDS)]
    seen: list[str] = []
    half_way, gone = threading.Event(), threading.Event()

    def actions() -> Iterator[dict[str, str]]:
        for n, text in enumerate(sent):
            if n == RECORDS // 2:
                half_way.set()
                assert gone.wait(DEADLINE_SECONDS)
            yield {"_index": "logs", "message": text, "@timestamp": "2026-01-31T23:59:59Z"}

    def send() -> None:
        with client_of(module, inlet) as client:
            for ok, item in module.helpers.streaming_bulk(client, actions(), **RETRIES):
                assert ok, item
                seen.append(item["index"]["_id"])

    join = in_background(send)
    assert half_way.wait(DEADLINE_SECONDS)
    with outage(inlet):
        gone.set()
    join()
    records = check_messages(inlet, sent)
    check_once([record.event_id for record in records], seen)


@pytest.mark.parametrize("module", CLIENTS, ids=lambda module: module.__name__)
def test_what_is_sent_twice_is_a_conflict_for_create_and_stored_once(module: ModuleType, inlet: Inlet) -> None:
    with client_of(module, inlet) as client:
        for _ in range(2):
            count, errors = module.helpers.bulk(client, documents(100), raise_on_error=False)
        assert (count, len(errors)) == (50, 50)
        assert {error["create"]["status"] for error in errors} == {409}
        bad = [
            {"_op_type": "delete", "_index": "logs", "_id": "1"},
            {"_op_type": "update", "_index": "l", "_id": "2", "doc": {}},
        ]
        count, errors = module.helpers.bulk(client, bad, raise_on_error=False)
        assert (count, [next(iter(error.values()))["status"] for error in errors]) == (0, [400, 400])
    assert inlet.count() == 100


@pytest.mark.parametrize("module", CLIENTS, ids=lambda module: module.__name__)
def test_keys_work_as_an_api_key_and_as_a_password(module: ModuleType, keyed: Inlet) -> None:
    for how in ({"api_key": keyed.key}, {"api_key": ("name", keyed.key)}, {"basic_auth": ("elastic", keyed.key)}):
        with client_of(module, keyed, **how) as client:
            assert client.bulk(operations=[{"index": {"_index": "logs"}}, {"message": "m"}])["errors"] is False
    with client_of(module, keyed, api_key="wrong") as client, pytest.raises(module.AuthenticationException):
        client.bulk(operations=[{"index": {"_index": "logs"}}, {"message": "m"}])
    assert keyed.count() == 3


@pytest.mark.parametrize("module", CLIENTS, ids=lambda module: module.__name__)
def test_what_clients_set_up_is_acknowledged(module: ModuleType, inlet: Inlet) -> None:
    with client_of(module, inlet) as client:
        assert client.indices.put_index_template(name="t", index_patterns=["logs-*"])["acknowledged"]
        assert client.ilm.put_lifecycle(name="p", policy={"phases": {}})["acknowledged"]
        assert client.indices.exists_index_template(name="t")
        assert client.ingest.put_pipeline(id="p", processors=[])["acknowledged"]
        assert client.indices.create_data_stream(name="d")["acknowledged"]
        assert client.license.get()["license"]["status"] == "active"
        # Far larger than what a connection holds on its way: the answer must not come before the body was read.
        mapping = {"properties": {f"field{n}": {"type": "keyword"} for n in range(50_000)}}
        assert client.indices.put_index_template(name="t", index_patterns=["x"], template={"mappings": mapping})
    with client_of(module, inlet, sniff_on_start=True) as client:
        assert client.bulk(operations=[{"index": {"_index": "logs"}}, {"message": "m"}])["errors"] is False
    assert inlet.wait_for(1)[0].message == "m"
