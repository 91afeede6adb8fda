"""The log of a server that hostile clients talk to: nothing that they sent is in it raw, and no key and no body at all.

Everything that is sent has a marker of its own, and the whole log is searched for all of them afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import ujson

from tests.conftest import Serve
from tests.sink.support import Store
from tests.support import DEADLINE_SECONDS, ROOT, Server, record, wait_until

FORMAT = (
    'ACCESS %(h)s %(l)s %(u)s %(t)s "%(r)s" "%(m)s" "%(U)s" "%(q)s" "%(H)s" %(s)s %(b)s "%(f)s" "%(a)s"'
    ' "%({authorization}i)s" "%({x-api-key}i)s" "%({dd-api-key}i)s" "%({cookie}i)s" "%({x-other}i)s"'
    ' "%({raw_uri}e)s" "%({query_string}e)s" "%({http_authorization}e)s" "%({http_x_api_key}e)s" "%({x-request-id}o)s"'
)
"""Everything that an access log could name, and more than anybody should."""
TEXT_LINE = re.compile(rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[[A-Z]+\] [^\n]*")
ACCESS_LINE = re.compile(rb'ACCESS \S+ - .+? \[[^\]"]+\](?: (?:"(?:[^"\\]|\\.)*"|\d+|-))+')
HOSTILE = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "\x00", "\x7f", "\t", "\x08\x08", "é", "\xff\xfe", "\xc2\x85",
    '"', '" 200 5 "-" "', "\\", '\\"', "%0d%0a", "%1b[2J", "${jndi:ldap://x}", "%(a)s %s {}", "<script>",
    "[2026-01-31 23:59:59 +0000] [1] [INFO] forged", '{"time":"2026-01-31T23:59:59Z"}',
)  # fmt: skip
CRLF = ("\r\n", "\n", "\r", "\n\n", "\r\n\r\n")


class Sent(NamedTuple):
    """What was sent: bodies' markers and secrets, none of which may be in the log; and markers of requests' lines."""

    bodies: list[str]
    secrets: list[str]
    targets: list[str]


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, str]:
    """The path of a keys file, and the key."""
    path = str(tmp_path / "keys.toml")
    done = subprocess.run(
        [sys.executable, "-m", "inlet", "keys", "new", "till"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "INLET_KEYS_FILE": path}, check=True,
    )  # fmt: skip
    return path, done.stdout.splitlines()[-1]


def attack(server: Server, key: str) -> Sent:
    """Send everything; each request on a connection of its own."""
    draw = random.Random(13)
    sent = Sent([], [key, key[-64:]], [])
    for request in requests(draw, key, sent):
        with contextlib.suppress(OSError), server.connect() as connection:
            connection.settimeout(5)
            connection.sendall(request)
            # Half a request stays one: nothing comes back before its connection ends.
            if request.endswith(b"\r\n\r\n") or b"\r\n\r\n" in request:
                connection.settimeout(0.2)
                connection.recv(65_536)
    return sent


def requests(draw: random.Random, key: str, sent: Sent) -> Iterator[bytes]:
    """All that a hostile client could send, some hundred requests."""
    for number, hostile in enumerate(HOSTILE):
        target = marker("t", number, draw, sent.targets)
        body = body_of(marker("b", number, draw, sent.bodies), hostile)
        bad = marker("s", number, draw, sent.secrets)
        other = f"inlet_{draw.randrange(16**12):012x}_{draw.randrange(16**64):064x}"
        sent.secrets.append(other[-64:])
        secret = (key, other, bad)[number % 3]
        for field in fields_of(secret, sent):
            yield post(f"/ingest?t={target}", body, field)
        quoted = draw.choice((secret, secret.replace("_", "%5F"), f"{secret}&key={secret}"))
        yield post(f"/ingest?t={target}&key={quoted}", body, f"Referer: http://page/?key={secret}")
        yield post(f"/ingest?t={target}&key={secret}", body, f"User-Agent: {hostile} {secret}")
        # A key that no credential of the request gives away: without its id, percent-encoded, or in base64.
        for shown in disguised(other, sent):
            yield post(f"/{shown}?t={target}", body, f"User-Agent: {shown}", f"Referer: http://x/{shown}/")
            yield post(f"/ingest?t={target}&x={shown}", body, f"X-Request-Id: {shown}")
            yield head(f"/{shown}", f"User-Agent: {shown}", f"X-Request-Id: {shown}", f"Host: {hostile}")
        good = f"Authorization: Bearer {key}"
        yield post(f"/{target}/{hostile}", body, good)
        yield post(f"/{target}{draw.choice(CRLF)}X-Forged: {hostile}", body, good)
        for name in ("User-Agent", "Referer", "X-Other", "X-Request-Id", "Cookie", "Content-Type", "Host", "Expect",
                     "Transfer-Encoding", "Content-Encoding", "Inlet-Durability", "Origin"):  # fmt: skip
            yield post(f"/ingest?t={target}", body, good, f"{name}: {hostile}{target}")
        yield post(f"/ingest?t={target}", body, good, f"X-Other: a{draw.choice(CRLF)}forged {hostile}")
        yield post(f"/ingest?t={target}", body, good, f"X{hostile}: a")
        # Bodies: broken, invalid, in chunks that are wrong, shorter than they say, followed by more.
        yield post(f"/ingest?t={target}", body[:-3], good)
        yield post(f"/ingest?t={target}", f'[{body},{{"event_id":{ujson.dumps(hostile + body)}}}]', good)
        yield post(f"/ingest?t={target}", body, good, "Content-Encoding: gzip")
        yield post(f"/ingest?t={target}", body, good, "Content-Length: 3")
        yield post(f"/ingest?t={target}", body, good, length=5)
        yield head(f"/ingest?t={target}", good, "Transfer-Encoding: chunked") + body.encode()
        yield head(f"/ingest?t={target}", good, "Transfer-Encoding: chunked") + b"5;" + body.encode() + b"\r\n"
        yield post(f"/ingest?t={target}", body, good, length=len(body) + 500)
        # No HTTP at all, and half of it.
        yield body.encode("utf-8", "replace")
        yield f"{hostile} /{target} HTTP/1.1\r\n\r\n".encode("latin-1", "replace")
        yield f"POST /ingest?t={target} HTTP/{hostile}\r\nHost: x\r\n\r\n".encode("latin-1", "replace")
        yield f"GET /ingest?t={target} HTTP/1.1\r\n{good}\r\nX-Hal".encode()
        yield post(f"/ingest?t={target}", body, good)[: draw.randrange(20, 200)]
    yield b"GET /" + b"a" * 100_000
    yield head("/ingest", *(f"X-{number}: y" for number in range(300)))
    yield head("/ingest", "X-Api-Key: " + key * 500)


def marker(kind: str, number: int, draw: random.Random, known: list[str]) -> str:
    known.append(f"{kind}mark{number}x{draw.randrange(10**12):012}")
    return known[-1]


def body_of(mark: str, hostile: str) -> str:
    """A body that is not valid, as most of what arrives from a confused client."""
    bad = record(f"id-{mark}\n{hostile}", message=f"{mark} {hostile}", timestamp=mark, **{mark: mark})
    return ujson.dumps([record(mark, service=mark, metadata={mark: mark}), bad])


def fields_of(secret: str, sent: Sent) -> list[str]:
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    sent.secrets.append(basic)
    return [
        f"Authorization: Bearer {secret}", f"authorization: Splunk {secret}", f"Authorization: Basic {basic}",
        f"Authorization: ApiKey {basic}", f"X-Api-Key: {secret}", f"DD-API-KEY: {secret}",
        f"Authorization: {secret}", f"Authorization : Bearer {secret}", f"Authorization: Bearer {secret}\x01",
        f"Cookie: session={secret}", f"Proxy-Authorization: Bearer {secret}",
    ]  # fmt: skip


def disguised(secret: str, sent: Sent) -> list[str]:
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    bare = base64.b64encode(f"u:{secret[-64:]}".encode()).decode()
    encoded = "".join(f"%{ord(mark):02x}" for mark in secret)
    sent.secrets.extend((basic, bare.rstrip("="), encoded[-120:]))
    return [secret[-64:], f"{secret[:19]}%{ord(secret[19]):02x}{secret[20:]}", encoded, basic, bare, f"basic/{basic}"]


def post(target: str, body: str, *fields: str, length: int | None = None) -> bytes:
    data = body.encode("utf-8", "replace")
    wanted = [f"Content-Length: {len(data) if length is None else length}", "Content-Type: application/json"]
    return head(target, *wanted, *fields) + data


def head(target: str, *fields: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: x", "Connection: close", *fields]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def check(log: bytes, sent: Sent) -> None:
    """Search the log for what may not be in it."""
    control = re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", log)
    assert control is None, around(log, control.start() if control else 0)
    assert b"Traceback" not in log, around(log, log.index(b"Traceback"))
    for what in (*sent.bodies, *sent.secrets):
        # A part of it would be too much as well.
        for part in {what, what[:40], what[-40:]}:
            place = log.find(part.encode())
            assert place < 0, f"{part!r} in {around(log, place)!r}"


def around(log: bytes, place: int) -> bytes:
    return log[log.rfind(b"\n", 0, place) + 1 :][:1_000]


@pytest.mark.parametrize(
    ("kind", "form"), [("phased", "text"), ("phased", "json"), ("sync", "text"), ("gthread", "json")]
)
def test_nothing_of_a_hostile_client_is_in_the_log(serve: Serve, key: tuple[str, str], kind: str, form: str) -> None:
    path, secret = key
    options = [] if kind == "phased" else ["--worker-class", kind, "--threads", "4" if kind == "gthread" else "1"]
    server = serve(
        "--workers", "1", "--access-logfile", "-", "--access-logformat", FORMAT, "--log-level", "debug", *options,
        INLET_KEYS_FILE=path, INLET_LOG=form, INLET_KEEP_REJECTED="1",
    )  # fmt: skip
    sent = attack(server, secret)
    headers = {"X-Api-Key": secret, "X-Request-Id": "the-last-one"}
    answer = httpx.post(server.url + "/ingest", json=record(), headers=headers, timeout=DEADLINE_SECONDS)
    assert (answer.status_code, answer.headers["x-request-id"]) == (202, "the-last-one")
    wait_until(lambda: b"the-last-one" in server.log_path.read_bytes(), "the end of it")
    assert server.stop() == 0
    log = server.log_path.read_bytes()
    check(log, sent)
    logged = sum(mark.encode() in log for mark in sent.targets)
    assert logged >= len(sent.targets) // 2, "the access log has requests at all"
    for line in log.splitlines():
        assert line.isascii()
        if form == "json":
            assert {"time", "level", "logger", "message", "pid"} <= set(json.loads(line))
        else:
            ours = line == b"" or line.startswith(b"    ") or TEXT_LINE.fullmatch(line) or ACCESS_LINE.fullmatch(line)
            assert ours, line.decode()[300:900]


def test_a_store_that_quotes_a_command_brought_a_record_into_the_log_and_into_answers(serve: Serve) -> None:
    """Regression: Redis quotes arguments of a command that it does not know, and a batch holds other clients' too."""
    store = Store("--rename-command", "XADD", "")
    try:
        server = serve("--workers", "1", REDIS_URL=store.url)
        body = record("id-of-mine", message="body-of-mine", service="service-of-mine")
        answer = httpx.post(server.url + "/ingest", json=body, timeout=DEADLINE_SECONDS)
        assert (answer.status_code, answer.json()["reason"]) == (503, "sink-misconfigured")
        wait_until(lambda: "commits fail" in server.log() or "commits at" in server.log(), "the log")
        assert "unknown command" in server.log()
        assert "of-mine" not in server.log() + answer.text
    finally:
        store.close()
