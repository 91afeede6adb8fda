"""Quotas of keys over the real server: the limit and one past it, the 429, reloads, and the rate that workers keep."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inlet import keyfile
from inlet.keyfile import Key, KeyQuotas, Quota
from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, Server, read_answer, record, wait_until

NEVER = 0.001
"""Per second: what is used up stays used up while a test runs."""
SECONDS = 10
TOLERANCE = 0.05
KINDS = {
    "requests": (Quota(100, 100), 1, 1),
    "records": (Quota(1_000, 1_000), 20, 20),
    "bytes": (Quota(60_000, 60_000), 10, 0),
}
"""Quota, records of one request, and tokens that it takes; 0 is the length of its body."""


class Keys:
    """A keys file, and the secrets of what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: dict[str, Key] = {}
        self.tokens: dict[str, str] = {}

    def put(self, name: str, **quotas: Quota) -> None:
        """Add a key of this name, or change its quotas, and write the file."""
        old = self.keys.get(name)
        if old is None:
            secret, sha256 = keyfile.new_secret()
            old = Key(keyfile.new_id(), name, sha256, datetime.now(UTC))
            self.tokens[name] = f"inlet_{old.id}_{secret}"
        self.keys[name] = Key(old.id, name, old.sha256, old.created, quotas=KeyQuotas(**quotas))
        keyfile.save(self.path, tuple(self.keys.values()))

    def fields(self, name: str) -> dict[str, str]:
        """Return the header fields of a request with this key."""
        return {"Content-Type": "application/x-ndjson", "Authorization": f"Bearer {self.tokens[name]}"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A keys file of one's own."""
    return Keys(tmp_path / "keys.toml")


@pytest.fixture
def start(serve: Serve, valkey: str, stream: str, keys: Keys) -> Callable[..., Server]:
    """Start Inlet with the keys."""

    def started(*args: str) -> Server:
        return serve(*args, REDIS_URL=valkey, INLET_STREAM=stream, INLET_KEYS_FILE=str(keys.path))

    return started


def body_of(records: int, number: int = 0) -> bytes:
    """Return NDJSON."""
    return b"\n".join(json.dumps(record(f"e-{number}-{n}")).encode() for n in range(records))


class Producer:
    """A client with one key on one connection, opened anew as often as it needs to be."""

    def __init__(self, server: Server, fields: dict[str, str]) -> None:
        self._server, self._fields = server, fields
        self._connection: http.client.HTTPConnection | None = None

    def send(self, body: bytes | Iterator[bytes]) -> tuple[int, dict[str, str], Any]:
        """Return the status, the header fields and the document of the answer. Raises OSError, HTTPException."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                self._server.host, self._server.port, timeout=DEADLINE_SECONDS
            )
        try:
            self._connection.request("POST", "/ingest", body, self._fields)
            answer = self._connection.getresponse()
            text = answer.read()
        except BaseException:
            self.close()
            raise
        if answer.will_close:
            self.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(text or b"null")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextlib.contextmanager
def producer(server: Server, fields: dict[str, str]) -> Iterator[Producer]:
    """A producer whose connection is closed afterwards."""
    one = Producer(server, fields)
    try:
        yield one
    finally:
        one.close()


def statuses(server: Server, fields: dict[str, str], count: int, body: bytes) -> list[int]:
    """Send the same request so many times, each on a connection of its own, so that every worker gets some."""
    found = []
    for _ in range(count):
        with producer(server, fields) as one:
            found.append(one.send(body)[0])
    return found


@pytest.mark.parametrize(
    "worker", [(), ("-k", "gthread", "--threads", "4"), ("-k", "sync")], ids=["own", "gthread", "sync"]
)
@pytest.mark.parametrize("workers", ["1", "2", "4"])
def test_all_workers_together_admit_the_burst_and_not_one_request_more(
    start: Callable[..., Server], keys: Keys, worker: tuple[str, ...], workers: str
) -> None:
    keys.put("a", requests=Quota(NEVER, 12))
    server = start("--workers", workers, *worker)
    assert statuses(server, keys.fields("a"), 48, body_of(1)) == [202] * 12 + [429] * 36


def test_records_and_bytes_are_admitted_up_to_their_burst_and_not_one_more(
    start: Callable[..., Server], keys: Keys
) -> None:
    body = body_of(5)
    keys.put("records", records=Quota(NEVER, 12))
    keys.put("bytes", bytes=Quota(NEVER, len(body) * 2 + 10))
    server = start("--workers", "2")
    assert statuses(server, keys.fields("records"), 3, body) == [202, 202, 429]
    assert statuses(server, keys.fields("records"), 2, body_of(2)) == [202, 429]
    assert statuses(server, keys.fields("bytes"), 3, body) == [202, 202, 429]
    assert statuses(server, keys.fields("bytes"), 2, b"x" * 10) == [422, 429], "what was read counts, stored or not"


def test_a_body_of_unknown_length_is_charged_when_it_has_been_read(start: Callable[..., Server], keys: Keys) -> None:
    body = body_of(1)
    keys.put("a", bytes=Quota(NEVER, len(body) + 1))
    with producer(start(), keys.fields("a")) as one:
        assert one.send(iter([body]))[0] == 202
        status, headers, problem = one.send(iter([body]))
    assert status == 429
    assert re.fullmatch('"bytes";r=0;t=[0-9]+', headers["ratelimit"])
    assert f"0 are left, and this request needs {len(body)};" in problem["detail"]


def test_a_429_says_which_quota_and_when_to_retry_and_a_202_says_nothing(
    start: Callable[..., Server], keys: Keys
) -> None:
    keys.put("a", requests=Quota(0.1, 2), records=Quota(100, 100))
    with producer(start("--workers", "2"), keys.fields("a")) as one:
        answers = [one.send(body_of(1)) for _ in range(3)]
    assert [status for status, _, _ in answers] == [202, 202, 429]
    assert not [name for _, headers, _ in answers[:2] for name in headers if "ratelimit" in name or "retry" in name]
    _, headers, problem = answers[2]
    assert headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["reason"], problem["retryable"]) == (429, "quota-exceeded", True)
    assert re.fullmatch(
        "the key may send 0.1 requests per second and 2 at once; 0 are left, and this request needs 1; "
        "retry in [0-9]+ s", problem["detail"]
    )  # fmt: skip
    window = re.fullmatch('"requests";r=0;t=([0-9]+)', headers["ratelimit"])
    assert window
    assert 1 <= int(window[1]) <= int(headers["retry-after"]) <= 12
    assert headers["ratelimit-policy"] == (
        '"requests";q=1;w=10;qu="requests";inlet-burst=2, "records";q=100;w=1;qu="records";inlet-burst=100'
    )
    token = keys.tokens["a"].removeprefix("inlet_")
    assert not [part for part in token.split("_") if part in f"{headers}{problem}"]


def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends_its_body(
    start: Callable[..., Server], keys: Keys
) -> None:
    keys.put("a", requests=Quota(NEVER, 1))
    server = start()
    head = "".join(f"{name}: {value}\r\n" for name, value in keys.fields("a").items())
    request = f"POST /ingest HTTP/1.1\r\nHost: x\r\n{head}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n".encode()
    assert statuses(server, keys.fields("a"), 1, body_of(1)) == [202]
    status, headers, _ = server.send(request)
    assert (status, headers["ratelimit"].partition(";")[0]) == (429, '"requests"')


def begin(server: Server, keys: Keys, name: str, size: int, sent: bytes = b"") -> socket.socket:
    """Begin an upload of ``size`` bytes, chunked if that is 0, and send a part of it."""
    fields = "".join(f"{field}: {value}\r\n" for field, value in keys.fields(name).items())
    framing = f"Content-Length: {size}" if size else "Transfer-Encoding: chunked"
    connection = server.connect()
    connection.sendall(f"POST /ingest HTTP/1.1\r\nHost: x\r\n{fields}{framing}\r\n\r\n".encode() + sent)
    return connection


def status_of(connection: socket.socket) -> int:
    """Return the status of its answer, 0 if none comes for a moment, since its body is waited for; and close it."""
    with connection:
        connection.settimeout(1.5)
        with contextlib.suppress(TimeoutError):
            return read_answer(connection)[0]
    return 0


def test_an_upload_is_charged_when_it_begins_and_once(start: Callable[..., Server], keys: Keys) -> None:
    body = body_of(5)
    keys.put("one", requests=Quota(NEVER, 1))
    keys.put("two", requests=Quota(NEVER, 2), bytes=Quota(NEVER, 2 * len(body)))
    server = start()
    with begin(server, keys, "one", 1_000, b"{"):
        time.sleep(1)  # So that its head is seen first.
        assert status_of(begin(server, keys, "one", 1_000, b"{")) == 429
    for expected in (202, 202, 429):
        with begin(server, keys, "two", len(body)) as connection:
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                connection.sendall(body)
            assert read_answer(connection)[0] == expected


@pytest.mark.parametrize("end", [b"", b"zz\r\n", b"1500000\r\n"], ids=["aborted", "broken", "too large"])
def test_a_chunked_upload_that_comes_to_nothing_is_charged_with_what_arrived(
    start: Callable[..., Server], keys: Keys, end: bytes
) -> None:
    keys.put("a", bytes=Quota(1_000, 20_000))
    server = start()
    sent = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
    with begin(server, keys, "a", 0, sent + end) as connection:
        if end:
            assert read_answer(connection)[0] in (400, 413)
        else:
            time.sleep(1.5)  # Until it is read; what is not read is not charged.
    wait_until(lambda: statuses(server, keys.fields("a"), 1, body_of(1)) == [429], "its bytes are charged")
    with producer(server, keys.fields("a")) as one:
        retry = int(one.send(body_of(1))[1]["retry-after"])
    assert 60 < retry <= 90, "80,000 of debt"


def test_an_upload_of_known_length_has_used_its_bytes_however_it_ends(start: Callable[..., Server], keys: Keys) -> None:
    keys.put("a", bytes=Quota(NEVER, 20_000))
    keys.put("large", requests=Quota(NEVER, 2))
    server = start()
    assert status_of(begin(server, keys, "a", 19_500, b"{")) == 0
    assert status_of(begin(server, keys, "a", 1_000, b"{")) == 429
    assert [status_of(begin(server, keys, "large", 10**8)) for _ in range(3)] == [413, 413, 429]


def test_chunked_bodies_beyond_the_quota_are_refused_and_charged(start: Callable[..., Server], keys: Keys) -> None:
    """Regression: a key that never let its bucket be full could upload without end."""
    keys.put("a", bytes=Quota(1_000, 20_000))
    with producer(start(), keys.fields("a")) as one:
        assert one.send(iter([body_of(1)]))[0] == 202
        assert one.send(iter([b" " * 100_000]))[0] == 429
        status, fields, _ = one.send(iter([body_of(1)]))
    assert (status, int(fields["retry-after"]) > 60) == (429, True)


def test_a_key_revoked_during_an_upload_is_refused(start: Callable[..., Server], keys: Keys) -> None:
    body = body_of(1)
    keys.put("a", requests=Quota(NEVER, 9))
    keys.put("b")
    server = start("--workers", "1")  # Each worker looks at the file by itself, and only one has the upload.
    with begin(server, keys, "a", len(body)) as connection:
        time.sleep(0.2)
        fields = keys.fields("a")
        del keys.keys["a"]
        keys.put("b")
        wait_until(lambda: statuses(server, fields, 1, body) == [401], "the key is gone")
        connection.sendall(body)
        assert read_answer(connection)[0] == 401


def test_uploads_of_one_key_leave_room_for_the_bodies_of_others(start: Callable[..., Server], keys: Keys) -> None:
    """Regression: one key held all memory for bodies, and larger bodies of others were refused for as long."""
    keys.put("greedy")
    keys.put("modest")
    server = start("--workers", "1")
    large = body_of(1) + b"\n" * 6_000_000
    hoard: list[socket.socket] = []
    try:
        for _ in range(150):
            hoard.append(begin(server, keys, "greedy", 8_000_000))
            hoard[-1].settimeout(0.2)
            with contextlib.suppress(OSError):
                hoard[-1].sendall(b" " * 2_000_000)
        found = statuses(server, keys.fields("modest"), 3, large)
        assert found == [202] * 3
    finally:
        for one in hoard:
            one.close()


def test_one_key_over_its_quota_costs_the_others_nothing(start: Callable[..., Server], keys: Keys) -> None:
    keys.put("greedy", requests=Quota(NEVER, 5))
    keys.put("modest", requests=Quota(NEVER, 300))
    keys.put("unbounded")
    server = start("--workers", "2")
    stop = threading.Event()
    greedy: list[int] = []

    def flood() -> None:
        with producer(server, keys.fields("greedy")) as one:
            while not stop.is_set():
                greedy.append(one.send(body_of(1))[0])

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with producer(server, keys.fields("modest")) as modest, producer(server, keys.fields("unbounded")) as unbounded:
            others = [one.send(body_of(1))[0] for _ in range(300) for one in (modest, unbounded)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert others == [202] * 600
    assert greedy.count(202) == 5
    assert greedy.count(429) == len(greedy) - 5 > 0


def test_a_changed_quota_takes_effect_on_reload_and_an_unchanged_one_keeps_its_level(
    start: Callable[..., Server], keys: Keys
) -> None:
    keys.put("changed", requests=Quota(NEVER, 1))
    keys.put("kept", requests=Quota(NEVER, 1))
    server = start("--workers", "2")
    for name in ("changed", "kept"):
        assert statuses(server, keys.fields(name), 3, body_of(1)) == [202, 429, 429]
    keys.put("changed", requests=Quota(NEVER, 10))
    seen: list[int] = []

    def all_workers_have_read_it() -> bool:
        seen.extend(statuses(server, keys.fields("changed"), 1, body_of(1)))
        return seen.count(202) == 10

    wait_until(all_workers_have_read_it, "ten requests are admitted")
    assert statuses(server, keys.fields("changed"), 4, body_of(1)) == [429] * 4
    assert statuses(server, keys.fields("kept"), 4, body_of(1)) == [429] * 4


class Flood:
    """Clients that send one kind of request with one key as long as there is time; and what was admitted of it."""

    clients = 2

    def __init__(self, server: Server, keys: Keys, kind: str) -> None:
        self.kind = kind
        self.quota, records, tokens = KINDS[kind]
        self.body = body_of(records)
        self.tokens = tokens or len(self.body)
        self.fields = keys.fields(kind)
        self.admitted: list[int] = []
        self.lost: list[int] = []
        self._server = server

    def drain(self) -> None:
        """Use up the burst, and note when it was."""
        with producer(self._server, self.fields) as one:
            self.begin = time.monotonic()
            while one.send(self.body)[0] == 202:
                self.begin = time.monotonic()

    def run(self, until: float) -> None:
        """Send until then."""
        with producer(self._server, self.fields) as one:
            while time.monotonic() < until:
                try:
                    status = one.send(self.body)[0]
                except (OSError, http.client.HTTPException):
                    self.lost.append(self.tokens)  # With its worker; charged or not.
                    continue
                if status == 202:
                    self.admitted.append(self.tokens)
                else:
                    assert status == 429
                    time.sleep(0.02)

    def check(self, until: float, end: float) -> None:
        """Check what was admitted, once all clients have ended."""
        rate, admitted, lost = self.quota.per_second, sum(self.admitted), sum(self.lost)
        # What is pending at the end, and what workers admit at the same moment.
        over = (self.clients + 1) * self.tokens
        assert over + lost <= TOLERANCE * rate * SECONDS
        assert (1 - TOLERANCE) * rate * (until - self.begin) - lost <= admitted, self.kind
        assert admitted <= rate * (end - self.begin) + over, self.kind


def keep_to_the_rate(servers: list[Server], keys: Keys) -> None:
    """Check that the servers, each by itself, admit what the quotas set: within 5%, and never more."""
    floods = [Flood(server, keys, kind) for server in servers for kind in KINDS]
    for flood in floods:
        flood.drain()
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=flood.run, args=(until,)) for flood in floods for _ in range(flood.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + DEADLINE_SECONDS)
    end = time.monotonic()
    for flood in floods:
        flood.check(until, end)


@pytest.fixture
def bounded(keys: Keys) -> Keys:
    """A key for each kind of quota."""
    for kind, (quota, _, _) in KINDS.items():
        keys.put(kind, **{kind: quota})
    return keys


def test_the_rate_is_kept_within_5_percent_over_10_seconds_at_1_2_and_4_workers(
    start: Callable[..., Server], bounded: Keys
) -> None:
    keep_to_the_rate([start("--workers", workers) for workers in ("1", "2", "4")], bounded)


def test_the_rate_is_kept_within_5_percent_while_workers_are_recycled(
    start: Callable[..., Server], bounded: Keys
) -> None:
    server = start("--workers", "2", "--max-requests", "500")
    keep_to_the_rate([server], bounded)
    assert len(server.booted()) >= 4, "at least two workers were recycled"
