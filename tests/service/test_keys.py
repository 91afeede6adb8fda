"""Keys over the real server: each client's own header, one 401, rights, and a file that changes while requests run."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis
import ujson

from inlet import keyfile
from inlet.command import keyedit
from inlet.keyfile import Key
from tests.access.support import keys_file, new_key
from tests.conftest import Serve
from tests.support import Server, read_answer, record, stored_lines, wait_until

KEY, TOKEN = new_key("full")
LOKI, LOKI_TOKEN = new_key("loki-only", receivers=("loki",))
GONE, GONE_TOKEN = new_key("gone")
JSON = {"Content-Type": "application/json"}
BODY = ujson.dumps(record()).encode()


class Keyed(NamedTuple):
    """A server with keys, its keys file, its stream, and a client of its store."""

    server: Server
    path: Path
    stream: str
    store: Any

    def post(self, headers: dict[str, str], query: str = "", body: bytes = BODY) -> httpx.Response:
        return httpx.post(f"{self.server.url}/ingest{query}", content=body, headers={**JSON, **headers}, timeout=60)

    def status(self, token: str) -> int:
        return self.post({"Authorization": f"Bearer {token}"}).status_code

    def always(self, token: str, status: int, requests: int = 20) -> bool:
        """Whether so many requests in a row, each of a connection of its own, so of any worker, got this status."""
        return all(self.status(token) == status for _ in range(requests))

    def event_ids(self) -> list[str]:
        return [line[0] for line in stored_lines(self.store, self.stream)]


def keyed(serve: Any, valkey: str, path: Path, *keys: Key, args: tuple[str, ...] = (), **env: str) -> Keyed:
    stream = f"test-{uuid.uuid4().hex}"
    keys_file(path, *keys)
    settings = {"REDIS_URL": valkey, "INLET_STREAM": stream, "INLET_KEYS_FILE": str(path), **env}
    return Keyed(serve(*(args or ("--workers", "2")), **settings), path, stream, redis.Redis.from_url(valkey))


@pytest.fixture(scope="module")
def shared(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server whose keys file no test changes."""
    started: list[Server] = []

    def serve(*args: str, **env: str) -> Server:
        started.append(Server("app:application", args, env))
        return started[-1]

    found = keyed(serve, valkey, tmp_path_factory.mktemp("keys") / "keys.toml", KEY, LOKI, GONE)
    keyedit.remove(found.path, GONE.id)
    wait_until(lambda: found.always(GONE_TOKEN, 401), "the revoked key is refused by both workers")
    yield found
    found.store.close()
    started[0].close()


def basic(user: str, token: str = TOKEN) -> str:
    return b64encode(f"{user}:{token}".encode()).decode()


# Each client's own way ------------------------------------------------------------------------------------------------

CLIENTS: dict[str, tuple[dict[str, str], str]] = {
    "curl -H": ({"Authorization": f"Bearer {TOKEN}", "User-Agent": "curl/8.5.0"}, ""),
    "curl -u": ({"Authorization": f"Basic {basic('inlet')}", "User-Agent": "curl/8.5.0"}, ""),
    "OpenTelemetry SDK, OTEL_EXPORTER_OTLP_HEADERS": (
        {"authorization": f"Bearer {TOKEN}", "user-agent": "OTel-OTLP-Exporter-Python/1.27.0"}, ""),
    "OpenTelemetry Collector, bearertokenauth": (
        {"Authorization": f"Bearer {TOKEN}", "User-Agent": "OpenTelemetry Collector/0.110.0 (linux/amd64)"}, ""),
    "Vector, auth.strategy bearer": ({"authorization": f"Bearer {TOKEN}", "user-agent": "Vector/0.41.1"}, ""),
    "Fluent Bit, HTTP_User and HTTP_Passwd": (
        {"Authorization": f"Basic {basic('fluent')}", "User-Agent": "Fluent-Bit"}, ""),
    "Promtail, basic_auth": (
        {"Authorization": f"Basic {basic('29')}", "User-Agent": "promtail/2.9.8", "X-Scope-OrgID": "tenant1"}, ""),
    "Grafana Alloy, basic_auth with an instance id": (
        {"Authorization": f"Basic {basic('123456')}", "User-Agent": "Alloy/v1.4.2 (linux; docker)"}, ""),
    "Grafana Alloy, bearer_token": (
        {"Authorization": f"Bearer {TOKEN}", "User-Agent": "Alloy/v1.4.2 (linux; docker)"}, ""),
    "Splunk HEC, Docker's driver": ({"Authorization": f"Splunk {TOKEN}", "User-Agent": "Go-http-client/1.1"}, ""),
    "Splunk HEC, with a channel": (
        {"Authorization": f"Splunk {TOKEN}", "X-Splunk-Request-Channel": str(uuid.UUID(int=7))}, ""),
    "elasticsearch-py, api_key as a pair": (
        {"Authorization": f"ApiKey {basic('inlet')}", "User-Agent": "elasticsearch-py/8.15.1 (Python/3.11.7)",
         "x-elastic-client-meta": "es=8.15.1,py=3.11.7,t=8.15.0"}, ""),
    "elasticsearch-py, api_key as one string": (
        {"authorization": f"ApiKey {TOKEN}", "user-agent": "elasticsearch-py/8.15.1 (Python/3.11.7)"}, ""),
    "Filebeat, api_key": (
        {"Authorization": f"ApiKey {basic('inlet')}", "User-Agent": "Elastic-filebeat/8.15.1 (linux; amd64)"}, ""),
    "Logstash, user and password": (
        {"Authorization": f"Basic {basic('logstash')}", "User-Agent": "Manticore 0.9.1"}, ""),
    "Datadog agent": (
        {"DD-API-KEY": TOKEN, "User-Agent": "datadog-agent/7.57.1", "DD-EVP-ORIGIN": "agent",
         "DD-EVP-ORIGIN-VERSION": "7.57.1"}, ""),
    "datadog-api-client": ({"dd-api-key": TOKEN, "user-agent": "datadog-api-client-python/2.29.0"}, ""),
    "X-Api-Key, as gateways and webhooks": ({"X-Api-Key": TOKEN}, ""),
    "fetch": ({"authorization": f"Bearer {TOKEN}", "sec-fetch-mode": "cors", "sec-fetch-site": "same-origin"}, ""),
    "navigator.sendBeacon": (
        {"Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "same-origin"},
        f"?key={TOKEN}"),
    "a client that sends its key twice": ({"Authorization": f"Bearer {TOKEN}", "X-Api-Key": TOKEN}, f"?key={TOKEN}"),
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_a_key_is_taken_as_this_client_sends_it(shared: Keyed, client: str) -> None:
    headers, query = CLIENTS[client]
    event_id = uuid.uuid4().hex
    body = ujson.dumps(record(event_id)).encode()
    for _ in range(2):  # The second one is remembered, by one of the workers at least.
        answer = shared.post(headers, query, body)
        assert (answer.status_code, answer.content) == (202, b'{"status":"queued"}'), answer.text
    assert shared.event_ids().count(event_id) == 2


# One refusal ----------------------------------------------------------------------------------------------------------


def failures() -> list[tuple[str, list[str]]]:
    """Every way to fail: the query, and the fields of the request."""
    wrong = TOKEN[:-1] + ("0" if TOKEN[-1] != "0" else "1")
    unknown = "inlet_" + "0" * 12 + TOKEN[18:]
    fields = [
        [], ["Authorization:"], ["Authorization: Bearer"], [f"Authorization: {TOKEN}"], ["Authorization: Basic !!!"],
        ["Authorization: Bearer \xff\xfe"], ["Authorization: Bearer " + "a" * 7_000],
        [f"Authorization: Digest {TOKEN}"], [f"Authorization: Bearer {wrong}"], [f"Authorization: Bearer {unknown}"],
        [f"Authorization: Bearer {GONE_TOKEN}"],
        [f"Authorization: Basic {basic('a', wrong)}"], [f"Authorization: Splunk {wrong}"],
        [f"Authorization: ApiKey {basic('a', wrong)}"], [f"X-Api-Key: {wrong}"], [f"DD-API-KEY: {unknown}"],
        [f"Authorization: Bearer {TOKEN}", f"X-Api-Key: {wrong}"], [f"DD-API-KEY: {TOKEN}", "X-Api-Key:"],
        [f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {LOKI_TOKEN}"],
        [f"X-Api-Key: {TOKEN}", f"X-Api-Key: {TOKEN}"], [f"Authorization: Bearer {TOKEN}x"],
    ]  # fmt: skip
    return [("", lines) for lines in fields] + [
        (f"?key={wrong}", []),
        ("?key=", []),
        (f"?key={TOKEN}&key={LOKI_TOKEN}", []),
        (f"?Key={TOKEN}", []),
        (f"?key={wrong}", [f"Authorization: Bearer {TOKEN}"]),
    ]


def raw(query: str, fields: list[str], framing: str) -> bytes:
    lines = [f"POST /ingest{query} HTTP/1.1", "Host: inlet", "Content-Type: application/json", *fields, framing, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def bytes_of(server: Server, sent: bytes) -> bytes:
    """The whole answer as it came, without what is different in each: the request id and the time."""
    with server.connect() as connection:
        connection.sendall(sent)
        answer = b""
        while not (match := re.search(rb"content-length: (\d+)", answer, re.I)) or len(
            answer.partition(b"\r\n\r\n")[2]
        ) < int(match[1]):
            piece = connection.recv(65_536)
            assert piece, answer
            answer += piece
    answer = re.sub(rb'(?i)(x-request-id: |"request_id":")[^\r"]+', rb"\1ID", answer)
    return re.sub(rb"(?i)date: [^\r]+", b"date: T", answer)


def test_every_failure_is_answered_byte_by_byte_alike_and_stores_nothing(shared: Keyed) -> None:
    before = shared.event_ids()
    answers = {}
    for query, fields in failures():
        sent = raw(query, [*fields, "Connection: close"], f"Content-Length: {len(BODY)}") + BODY
        answers[f"{query} {fields}"[:200]] = bytes_of(shared.server, sent)
    assert len(set(answers.values())) == 1, answers
    head, _, body = answers.popitem()[1].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b'\r\nwww-authenticate: Bearer realm="inlet"\r\n' in head + b"\r\n"
    problem = ujson.loads(body)
    assert (problem["reason"], problem["status"], problem["retryable"]) == ("unauthorized", 401, False)
    assert shared.event_ids() == before


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
def test_every_failure_is_answered_alike_before_the_body_has_come(
    shared: Keyed, framing: str, expect: list[str]
) -> None:
    answers = {bytes_of(shared.server, raw(query, [*fields, *expect], framing)) for query, fields in failures()}
    assert len(answers) == 1, answers
    assert answers.pop().startswith(b"HTTP/1.1 401 Unauthorized\r\n")


def test_a_valid_key_is_told_to_go_on_with_its_body(shared: Keyed) -> None:
    sent = raw("", [f"Authorization: Bearer {TOKEN}", "Expect: 100-continue"], f"Content-Length: {len(BODY)}")
    with shared.server.connect() as connection:
        connection.sendall(sent)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(BODY)
        assert connection.recv(100).startswith(b"HTTP/1.1 202 Accepted\r\n")


def test_a_key_counts_for_its_own_request_only_not_for_its_connection(shared: Keyed) -> None:
    """The server keeps what is alike in the heads of a connection; a credential must not be among it."""
    wrong = TOKEN[:-1] + ("0" if TOKEN[-1] != "0" else "1")
    ways: list[tuple[list[str], int]] = [
        ([f"Authorization: Bearer {TOKEN}"], 202), ([], 401), ([f"Authorization: Bearer {wrong}"], 401),
        ([f"X-Api-Key: {TOKEN}"], 202), ([f"Authorization: Bearer {LOKI_TOKEN}"], 403), ([f"X-Api-Key: {wrong}"], 401),
    ]  # fmt: skip
    pairs = [way for first in ways for second in ways for way in (first, second)]
    before = len(shared.event_ids())
    with shared.server.connect() as connection:
        for fields, status in pairs:
            connection.sendall(raw("", fields, f"Content-Length: {len(BODY)}") + BODY)
            assert read_answer(connection)[0] == status, fields
    pipelined = b"".join(raw("", fields, f"Content-Length: {len(BODY)}") + BODY for fields, _ in pairs)
    with shared.server.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(pipelined)
        connection.shutdown(socket.SHUT_WR)
        got = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers.read())]
    assert got == [status for _, status in pairs]
    assert len(shared.event_ids()) == before + 2 * sum(status == 202 for _, status in pairs)


@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "HEAD", "PATCH", "DELETE", "OPTIONS", "post", "INGEST"])
@pytest.mark.parametrize(
    "target",
    ["/ingest", "/ingest/", "//ingest", "/ingest//", "/./ingest", "/%69ngest", "/INGEST", "/ingest;a", "/ingest?a",
     "/ingest/?a", "http://inlet/ingest", "/healthz/../ingest", "/ingest%00", "*"],
)  # fmt: skip
def test_no_way_to_write_a_request_stores_anything_without_a_key(shared: Keyed, method: str, target: str) -> None:
    before = len(shared.event_ids())
    head = f"{method} {target} HTTP/1.1\r\nHost: inlet\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
    with shared.server.connect() as connection:
        connection.sendall(head.encode() + BODY)
        answer = connection.makefile("rb").read()
    status = int(answer.split()[1])
    assert 400 <= status < 500 or status == 501 or (method == "OPTIONS" and status in (200, 204)), answer
    assert len(shared.event_ids()) == before


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_other_workers_ask_for_a_key_too(serve: Serve, valkey: str, tmp_path: Path, worker: str) -> None:
    found = keyed(serve, valkey, tmp_path / "keys.toml", KEY, args=("-k", worker))
    assert [found.status(GONE_TOKEN), found.status(TOKEN)] == [401, 202]
    assert len(found.event_ids()) == 1


def test_a_key_without_the_right_to_a_receiver_gets_403_that_names_the_right_and_not_the_key(shared: Keyed) -> None:
    before = shared.event_ids()
    answer = shared.post({"Authorization": f"Bearer {LOKI_TOKEN}"})
    problem = answer.json()
    assert (answer.status_code, problem["reason"], problem["retryable"]) == (403, "forbidden", False)
    assert "receiver 'native'" in problem["detail"]
    for hidden in (LOKI.id, LOKI.name, LOKI_TOKEN[19:]):
        assert hidden not in answer.text + str(answer.headers)
    assert shared.event_ids() == before


def test_no_key_reaches_the_log(serve: Serve, valkey: str, tmp_path: Path) -> None:
    wrong = new_key()[1]
    found = keyed(serve, valkey, tmp_path / "keys.toml", KEY, args=("--access-logfile", "-"))
    for token in (TOKEN, wrong):
        for headers, query in (
            ({"Authorization": f"Bearer {token}"}, ""),
            ({"X-Api-Key": token}, ""),
            ({}, f"?key={token}"),
        ):
            found.post(headers, query)
            found.post(headers, query, b"{")
    found.server.stop()
    log = found.server.log()
    assert "/ingest" in log
    for token in (TOKEN, wrong):
        assert token[19:] not in log


# A file that changes --------------------------------------------------------------------------------------------------


def stale(found: Keyed) -> bool:
    """Whether both workers say that the keys file cannot be read."""
    gets = [httpx.get(f"{found.server.url}/readyz", timeout=60) for _ in range(20)]
    return all(answer.status_code == 200 and answer.json().get("keys") == "stale" for answer in gets)


def gauge(found: Keyed) -> str:
    text = httpx.get(f"{found.server.url}/metrics", timeout=60).text
    return "".join(re.findall(r"^inlet_keys_file_broken (\S+)", text, re.MULTILINE))


def test_keys_come_and_go_under_load_without_one_failed_request(serve: Serve, valkey: str, tmp_path: Path) -> None:
    found = keyed(serve, valkey, tmp_path / "keys.toml", KEY)
    over = threading.Event()
    statuses: list[list[int]] = [[] for _ in range(4)]

    def post(into: list[int]) -> None:
        with httpx.Client(base_url=found.server.url, headers={**JSON, "X-Api-Key": TOKEN}, timeout=60) as http:
            while not over.is_set():
                into.append(http.post("/ingest", content=BODY).status_code)

    threads = [threading.Thread(target=post, args=(into,)) for into in statuses]
    for thread in threads:
        thread.start()
    for number in range(3):
        other, token = new_key(f"other-{number}")
        keyedit.add(found.path, other)
        wait_until(lambda token=token: found.always(token, 202), "the new key is taken")  # type: ignore[misc]
        keyedit.remove(found.path, other.id)
        wait_until(lambda token=token: found.always(token, 401), "the revoked key is refused")  # type: ignore[misc]
        if number == 1:
            found.server.signal(signal.SIGHUP)
            wait_until(lambda: len(found.server.booted()) >= 4 and len(found.server.workers()) == 2, "HUP")
    over.set()
    for thread in threads:
        thread.join()
    got = [status for into in statuses for status in into]
    assert set(got) == {202}
    assert len(found.event_ids()) >= len(got)


def test_a_broken_file_keeps_the_keys_and_says_so_everywhere(serve: Serve, valkey: str, tmp_path: Path) -> None:
    found = keyed(serve, valkey, tmp_path / "keys.toml", KEY, GONE)
    assert (stale(found), gauge(found)) == (False, "0.0")
    good = found.path.read_text()
    found.path.write_text("[[key]\n")
    wait_until(lambda: stale(found) and gauge(found) == "1.0", "both workers say so")
    assert found.always(TOKEN, 202)
    assert found.always(GONE_TOKEN, 202)
    lines = [line for line in found.server.log().splitlines() if "stay in force" in line]
    assert len(lines) == 2
    assert all(f"keys file {found.path} is not TOML" in line for line in lines)
    found.path.write_text(good)
    wait_until(lambda: not stale(found) and gauge(found) == "0.0", "both workers read it again")
    found.path.unlink()
    wait_until(lambda: stale(found), "both workers miss it")
    assert found.always(TOKEN, 202)
    keyfile.save(found.path, [GONE])
    wait_until(lambda: found.always(TOKEN, 401) and found.always(GONE_TOKEN, 202), "the new keys")


def test_a_revoked_key_stays_revoked_in_a_worker_that_starts_while_the_file_is_broken(
    serve: Serve, valkey: str, tmp_path: Path
) -> None:
    """The master read the file before the key was revoked, and workers are its forks."""
    found = keyed(serve, valkey, tmp_path / "keys.toml", KEY, GONE)
    keyedit.remove(found.path, GONE.id)
    wait_until(lambda: found.always(GONE_TOKEN, 401), "the revoked key is refused")
    found.path.write_text("[[key]\n")
    wait_until(lambda: stale(found), "both workers say so")
    old = found.server.workers()
    found.server.signal(signal.SIGHUP)
    taken: list[int] = []
    deadline = time.monotonic() + 60
    while set(old) & set(found.server.workers()) or len(found.server.workers()) < 2:
        taken.append(found.status(GONE_TOKEN))
        assert time.monotonic() < deadline
    taken += [found.status(GONE_TOKEN) for _ in range(20)]
    assert set(taken) == {401}
    assert found.always(TOKEN, 202)
    assert stale(found)


def test_a_worker_never_serves_with_keys_that_were_revoked_before_it_started(
    serve: Serve, valkey: str, tmp_path: Path
) -> None:
    found = keyed(serve, valkey, tmp_path / "keys.toml", KEY, GONE)
    keyedit.remove(found.path, GONE.id)
    wait_until(lambda: found.always(GONE_TOKEN, 401), "the revoked key is refused")
    statuses = []
    for _ in range(3):
        booted = len(found.server.booted())
        found.server.signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while len(found.server.booted()) < booted + 2:
            statuses.append(found.status(GONE_TOKEN))
            assert time.monotonic() < deadline
        statuses += [found.status(GONE_TOKEN) for _ in range(20)]
    assert set(statuses) == {401}
