"""What clients of Elasticsearch ask for at their start: they go on, and nobody else finds anything."""

from __future__ import annotations

from typing import Any

import pytest

from tests.receivers.elastic_support import app_of
from tests.receivers.support import MemorySink, Reply, ask, environ, refused
from wsgi.problems import SinkError

LOGSTASH = "Logstash/8.17.0 (OS=Linux)"
KEPT = (
    "/_ilm/policy/p", "/_index_template/t", "/_template/t", "/_component_template/c", "/_ingest/pipeline/p",
    "/_data_stream/d", "/_alias/a",
)  # fmt: skip
READ = ("/", "/_license", "/_xpack", "/_nodes", "/_nodes/http", "/_nodes/_all/http", "/_cluster/health", "/_cat/health")


def get(path: str, method: str = "GET", sink: MemorySink | None = None, **more: Any) -> Reply:
    return ask(app_of(sink or MemorySink()), environ(b"", path, method, **more))


@pytest.mark.parametrize("path", [*READ, *KEPT])
def test_a_page_is_found_by_get_and_head(path: str) -> None:
    found, head = get(path), get(path, "HEAD")
    assert (found.status, found.headers["x-elastic-product"]) == (200, "Elasticsearch")
    assert (head.status, head.headers["x-elastic-product"], head.body) == (200, "Elasticsearch", b"")
    if path != "/_cat/health":
        assert isinstance(found.json, dict)
        assert found.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", KEPT)
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_what_a_client_sets_up_is_acknowledged(path: str, method: str) -> None:
    assert get(path, method).json == {"acknowledged": True}
    assert get(path, "DELETE").status == 405
    assert "PUT" in get(path, "OPTIONS").headers["allow"]


def test_the_first_page_says_what_clients_look_for_and_is_not_for_browsers() -> None:
    found = get("/", HTTP_ACCEPT="application/vnd.elasticsearch+json; compatible-with=9").json
    assert (found["version"]["number"], found["version"]["build_flavor"]) == ("8.19.0", "default")
    assert found["tagline"] == "You Know, for Search"
    assert get("/", HTTP_ACCEPT="*/*").status == 200
    refused(get("/", HTTP_ACCEPT="text/html,application/xhtml+xml,*/*;q=0.8"), "not-found")


@pytest.mark.parametrize(
    ("host", "scheme", "address"),
    [
        ("inlet.example", "http", "inlet.example:80"), ("inlet.example", "https", "inlet.example:443"),
        ("127.0.0.1:8000", "http", "127.0.0.1:8000"), ("[::1]:8000", "http", "[::1]:8000"),
        ("[::1]", "http", "[::1]:80"),
        ('x"y', "http", None), ("a/b", "http", None), (None, "http", None),
    ],
)  # fmt: skip
def test_the_only_node_is_where_the_client_came_by(host: str | None, scheme: str, address: str | None) -> None:
    more: dict[str, Any] = {"HTTP_HOST": host, "wsgi.url_scheme": scheme}
    nodes = get("/_nodes/http", **more).json["nodes"]
    assert [node["http"]["publish_address"] for node in nodes.values()] == ([address] if address else [])


def test_health_is_red_while_nothing_can_be_stored() -> None:
    away = MemorySink(not_ready=SinkError("sink-unavailable", "away"))
    for sink, status in ((MemorySink(), "green"), (away, "red")):
        assert get("/_cluster/health", sink=sink).json["status"] == status
        assert f" inlet {status} ".encode() in get("/_cat/health", sink=sink).body


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_an_index_exists_for_clients_of_elasticsearch_alone(method: str) -> None:
    for agent in (LOGSTASH, "Elastic-filebeat/8", "elasticsearch-py/8.17.0"):
        assert get("/logstash", method, HTTP_USER_AGENT=agent).status == 200
    assert get("/logstash", method, HTTP_USER_AGENT="Mozilla/5.0").status == 404
    assert get("/logstash", method).status == 404


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/logstash", "/favicon.ico"])
def test_an_index_cannot_be_read_or_written_otherwise(path: str, method: str) -> None:
    refused(get(path, method, HTTP_USER_AGENT=LOGSTASH), "not-found")


@pytest.mark.parametrize("path", ["/_search", "/_sql", "/logs/_search", "/_ilm/policy", "/_nodes/stats", "/a/b/_bulk"])
def test_anything_else_is_not_found(path: str) -> None:
    refused(get(path), "not-found")


def test_a_bulk_is_not_read_by_get() -> None:
    reply = get("/_bulk")
    assert (reply.status, reply.headers["allow"]) == (405, "OPTIONS, POST, PUT")
