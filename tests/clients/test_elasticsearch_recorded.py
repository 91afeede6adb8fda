"""Requests of shippers that cannot be installed here, byte for byte: Filebeat, Logstash, Fluent Bit, Vector.

Written from their sources, which the tests name, with the start-up calls in their order. What must not be here: clients
that run (test_elasticsearch, test_rsyslog_elasticsearch).
"""

from __future__ import annotations

import gzip
from typing import NamedTuple

import pytest
import ujson

from tests.clients.support import Inlet


class Exchange(NamedTuple):
    """A request, and what the shipper looks at in its answer."""

    head: str
    body: bytes = b""
    status: int = 200
    contains: bytes = b""


def start_up(agent: str, *requests: str) -> list[Exchange]:
    """Requests without a body that must be answered with 200."""
    return [Exchange(f"{request} HTTP/1.1\r\nHost: HOST\r\nUser-Agent: {agent}\r\n") for request in requests]


FILEBEAT = "Elastic-filebeat/8.17.0 (linux; amd64; 0123456789abcdef; 2024-12-11 12:00:00 +0000 UTC)"
FILEBEAT_BODY = (
    b'{"create":{"_index":"filebeat-8.17.0"}}\n'
    b'{"@timestamp":"2026-01-31T23:59:59.123Z","message":"paid \xe2\x82\xac","log":{"offset":0,"file":{"path":'
    b'"/var/log/app.log"}},"input":{"type":"filestream"},"ecs":{"version":"8.0.0"},"host":{"name":"web-1"},'
    b'"agent":{"ephemeral_id":"e","id":"i","name":"web-1","type":"filebeat","version":"8.17.0"}}\n'
    b'{"create":{"_id":"given","_index":"filebeat-8.17.0"}}\n'
    b'{"@timestamp":"2026-01-31T23:59:59.124Z","message":"again"}\n'
)
"""libbeat/esleg/eslegclient: connection.go (Ping, GetVersion), bulkapi.go; libbeat/licenser, libbeat/template/load.go,
libbeat/idxmgmt/lifecycle; outputs/elasticsearch/client.go (filter_path, gzip level 1 from 8.12 on)."""
LOGSTASH = "Logstash/8.17.0 (OS=Linux-6.1.0-amd64; JVM=Eclipse Adoptium-21.0.5) logstash-output-elasticsearch/11.22.10"
LOGSTASH_BODY = (
    b'{"index":{"_id":null,"_index":"logstash","routing":null}}\n'
    b'{"@timestamp":"2026-01-31T23:59:59.123456789Z","@version":"1","message":"paid","event":{"original":"paid"},'
    b'"host":{"name":"web-1"},"tags":["a"]}\n'
)
"""logstash-output-elasticsearch: http_client.rb (bulk, template, ilm), http_client/pool.rb (HEAD and GET /, _license),
ilm.rb (an alias that exists, so no index is made, and the policy); the list of its calls is in its issue 1191."""
FLUENT_BIT_BODY = (
    b'{"create":{"_index":"fluent-bit","_type":"_doc"}}\n'
    b'{"@timestamp":"2026-01-31T23:59:59.123Z","log":"paid","stream":"stdout","kubernetes":{"pod_name":"p-1"}}\n'
)
"""fluent-bit plugins/out_es/es.c: elasticsearch_format, es_compose_bulk_uri, elasticsearch_error_check."""
VECTOR_BODY = (
    b'{"index":{"_index":"vector-2026.01.31","_type":"_doc"}}\n'
    b'{"file":"/var/log/app.log","host":"web-1","message":"paid","source_type":"file",'
    b'"timestamp":"2026-01-31T23:59:59.123456789Z"}\n'
)
"""vector src/sinks/elasticsearch: config.rs, common.rs (version, health), encoder.rs, retry.rs."""

SEQUENCES: dict[str, list[Exchange]] = {
    "filebeat": [
        *start_up(
            FILEBEAT, "GET /", "GET /_license?human=false", "GET /_ilm/policy/filebeat",
            "HEAD /_index_template/filebeat-8.17.0",
            "GET /_data_stream/filebeat-8.17.0",
            "GET /_ingest/pipeline/filebeat-8.17.0-nginx-access-pipeline",
        ),
        Exchange(
            f"PUT /_index_template/filebeat-8.17.0 HTTP/1.1\r\nHost: HOST\r\nUser-Agent: {FILEBEAT}\r\n"
            "Content-Type: application/json; charset=UTF-8\r\n",
            b'{"index_patterns":["filebeat-8.17.0"],"data_stream":{},"priority":150}',
            contains=b'"acknowledged":true',
        ),
        Exchange(
            "POST /_bulk?filter_path=errors%2Citems.%2A.error%2Citems.%2A.status HTTP/1.1\r\nHost: HOST\r\n"
            f"User-Agent: {FILEBEAT}\r\nAccept: application/json\r\nContent-Encoding: gzip\r\n"
            "Content-Type: application/json; charset=UTF-8\r\nX-Elastic-Product-Origin: beats\r\n",
            gzip.compress(FILEBEAT_BODY, 1, mtime=0),
            contains=b'{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":201}}]}',
        ),
    ],
    "logstash": [
        *start_up(
            LOGSTASH, "HEAD /", "GET /", "GET /_license", "GET /_xpack", "HEAD /_index_template/ecs-logstash",
            "HEAD /_template/ecs-logstash", "GET /_ilm/policy/logstash-policy", "HEAD /logstash", "GET /_nodes/http",
        ),
        Exchange(
            "POST /_bulk?filter_path=errors,items.*.error,items.*.status HTTP/1.1\r\nHost: HOST\r\n"
            f"User-Agent: {LOGSTASH}\r\nContent-Type: application/json\r\nx-elastic-product-origin: "
            "logstash-output-elasticsearch\r\n",
            LOGSTASH_BODY,
            contains=b'{"errors":false,"items":[{"index":{"status":201}}]}',
        ),
    ],
    "fluent-bit": [
        Exchange(
            "POST /_bulk HTTP/1.1\r\nHost: HOST\r\nUser-Agent: Fluent-Bit\r\nContent-Type: application/x-ndjson\r\n",
            FLUENT_BIT_BODY,
            contains=b'"errors":false,"items":[',
        ),
    ],
    "vector": [
        *start_up("Vector/0.43.0 (x86_64-unknown-linux-gnu)", "GET /", "GET /_cluster/health"),
        Exchange(
            "POST /_bulk HTTP/1.1\r\nhost: HOST\r\nuser-agent: Vector/0.43.0 (x86_64-unknown-linux-gnu)\r\n"
            "content-type: application/x-ndjson\r\naccept-encoding: identity\r\n",
            VECTOR_BODY,
            contains=b'"errors":false',
        ),
    ],
}  # fmt: skip

RECORDS = {
    "filebeat": [
        (
            "paid €",
            "filebeat-8.17.0",
            {"agent.type": "filebeat", "log.file.path": "/var/log/app.log", "log.offset": "0"},
        ),
        ("again", "filebeat-8.17.0", {}),
    ],
    "logstash": [("paid", "logstash", {"event.original": "paid", "@version": "1", "tags": '["a"]'})],
    "fluent-bit": [("paid", "fluent-bit", {"kubernetes.pod_name": "p-1", "stream": "stdout"})],
    "vector": [("paid", "vector-2026.01.31", {"host": "web-1", "source_type": "file"})],
}
TIMES = {
    "filebeat": "2026-01-31T23:59:59.123Z", "logstash": "2026-01-31T23:59:59.123456789Z",
    "fluent-bit": "2026-01-31T23:59:59.123Z", "vector": "2026-01-31T23:59:59.123456789Z",
}  # fmt: skip


def replay(inlet: Inlet, exchange: Exchange, credentials: str = "") -> tuple[int, dict[str, str], bytes]:
    """Send a request as it was recorded, on a connection of its own; Host and the length are this server's."""
    head = exchange.head.replace("HOST", f"127.0.0.1:{inlet.port}") + credentials
    if exchange.body or not exchange.head.startswith(("GET", "HEAD")):
        head += f"Content-Length: {len(exchange.body)}\r\n"
    return inlet.server.send(f"{head}Connection: close\r\n\r\n".encode() + exchange.body)


@pytest.mark.parametrize("shipper", SEQUENCES)
def test_a_shipper_starts_and_sends_what_it_has(shipper: str, inlet: Inlet) -> None:
    for exchange in SEQUENCES[shipper]:
        status, headers, body = replay(inlet, exchange)
        assert (status, headers["x-elastic-product"]) == (exchange.status, "Elasticsearch"), (exchange.head, body)
        assert exchange.contains in body
        if body:
            ujson.loads(body)
    records = inlet.wait_for(len(RECORDS[shipper]))
    assert records[0].timestamp == TIMES[shipper]
    for record, (message, index, metadata) in zip(records, RECORDS[shipper], strict=True):
        assert (record.message, record.metadata["_index"], record.service) == (message, index, index)
        assert {name: record.metadata[name] for name in metadata} == metadata


@pytest.mark.parametrize("shipper", SEQUENCES)
def test_a_shipper_that_sends_again_stores_nothing_twice(shipper: str, inlet: Inlet) -> None:
    for _ in range(2):
        status, _, body = replay(inlet, SEQUENCES[shipper][-1])
        assert status == 200
    assert inlet.count() == len(RECORDS[shipper])
    # Only an _id of the client's own can be in conflict: Filebeat counts that as a duplicate and goes on.
    assert body.count(b"409") == (1 if shipper == "filebeat" else 0)


def test_without_a_key_a_shipper_starts_but_its_records_are_refused(keyed: Inlet) -> None:
    *first, bulk = SEQUENCES["filebeat"]
    assert [replay(keyed, exchange)[0] for exchange in first] == [200] * len(first)
    status, headers, body = replay(keyed, bulk)
    assert (status, headers["x-elastic-product"]) == (401, "Elasticsearch")
    assert ujson.loads(body)["error"]["type"] == "security_exception"
    assert replay(keyed, bulk, f"Authorization: ApiKey {keyed.key}\r\n")[0] == 200
