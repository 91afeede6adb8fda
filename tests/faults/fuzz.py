"""A mutation fuzzer: bytes that were a request over HTTP, bytes that were a body into the parser.

``python -m tests.faults.fuzz --cases 100000 [--seed N]`` runs it by hand; the tests run fewer, always the same. With
``--keys valid`` the server wants keys and each request has one, which the mutations spoil now and then; with ``--keys
wrong`` none of them has a right one, and nothing may be stored.

What lives here: seeds, mutations, and what must hold for every case. What must not: hypothesis (``test_fuzz``).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import json
import random
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ujson

from inlet.stream.errors import RecordInvalid, RecordTooLarge
from inlet.stream.limits import RecordLimits
from tests.access.support import keys_file, new_key
from tests.faults.load import http_post
from tests.faults.rig import STREAM, Rig
from tests.support import ROOT, record
from wsgi.problems import ClientError
from wsgi.receivers.decompress import decompress
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.parsed import NothingAccepted
from wsgi.receivers.slices import finish

PAYLOAD_BYTES_MAX = 1_000_000
ANSWER_SECONDS = 30.0
WARM_CASES = 300
"""Cases before the workers' memory is measured for the first time: caches are full by then."""
GROWTH_BYTES_MAX = 24 * 2**20
"""How much a worker's memory may grow over a run: a leak of a kilobyte a request would be more."""
MUTATIONS_MAX = 6

_ONE = ujson.dumps(record("fuzz")).encode()
_LINES = b"\n".join(ujson.dumps(record(f"fuzz-{n}", message="m\u00e9\U0001f600" * n)).encode() for n in range(4))
_ARRAY = b"[" + _LINES.replace(b"\n", b",") + b"]"
BODIES = [
    (_ONE, "application/json", ""),
    (_ARRAY, "application/json", ""),
    (_LINES, "application/x-ndjson", ""),
    (gzip.compress(_LINES, mtime=0), "application/x-ndjson", "gzip"),
    (b'{"event_id":"a","timestamp":"2026-01-31T23:59:59Z","service":"s","message":"m","x":[1,{"y":null}]}', "", ""),
]
REQUESTS = [
    http_post(_ONE),
    http_post(_ARRAY),
    http_post(_LINES, b"application/x-ndjson"),
    http_post(_ONE) * 3,
    b"POST /ingest?receipt=1 HTTP/1.1\r\nHost: f\r\nContent-Length: %d\r\n\r\n%b" % (len(_LINES), _LINES),
    b"POST /ingest HTTP/1.1\r\nHost: f\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    % (len(BODIES[3][0]), BODIES[3][0]),
    b"POST /ingest HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_ONE), _ONE),
    b"POST /ingest HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (len(_ONE), _ONE),
    b"POST /ingest HTTP/1.1\r\nHost: f\r\nInlet-Durability: stored\r\nContent-Length: %d\r\n\r\n%b" % (len(_ONE), _ONE),
    b"POST http://f/ingest HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b" % (len(_ONE), _ONE),
    b"GET /healthz HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n",
    b"DELETE /ingest HTTP/1.1\r\nHost: f\r\n\r\n",
    b"OPTIONS /ingest HTTP/1.1\r\nHost: f\r\n\r\n",
    b"GET /nowhere?%00=%zz HTTP/1.1\r\nHost: f\r\nAccept: */*\r\n\r\n",
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0\r\n\r\n", b"\r\n\r\n",
    b"\xff\xfe", b"\xed\xa0\x80",
    b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Encoding: zstd\r\n",
    b"Connection: close\r\n", b"Host: g\r\n", b"Expect: 200-ok\r\n", b"Upgrade: h2c\r\n", b"HTTP/2.0", b"HTTP/1.1",
    b"POST ", b"GET ", b"/ingest", b"%2e%2e/", b"?receipt=1", b"ffffffffffffffff", b"0x10", b"1e400", b"NaN", b"null",
    b'"\\ud800"', b"\\u0000", b"[[[[[[[[", b"{}", b"[]", b'"', b"}", b"-0", b"2026-02-30T00:00:00Z",
]  # fmt: skip
NUMBERS = [b"0", b"1", b"-1", b"255", b"65536", b"2147483648", b"9223372036854775808", b"00", b"+5", b"1_0", b"5 5"]

KEY_TOKENS = [
    b"Authorization: ", b"X-Api-Key: ", b"DD-API-KEY: ", b"Bearer ", b"Basic ", b"Splunk ", b"ApiKey ", b"inlet_", b"_",
    b"key=", b"&key=", b"?key=", b"0" * 64, b"%69nlet_", b"\t", b"Og==", b"=",
]  # fmt: skip
"""What mutations insert where the server wants keys."""


@dataclass
class FuzzedKeys:
    """A keys file of one key: ``env`` for the server, ``right`` as a producer sends it, and keys that are nearly it."""

    directory: Path

    def __post_init__(self) -> None:
        key, self.right = new_key()
        self.env = {"INLET_KEYS_FILE": str(keys_file(self.directory / "keys.toml", key)), "INLET_KEEP_REJECTED": "1"}
        head, secret = self.right[: -len(key.sha256)], self.right[-len(key.sha256) :]
        other = new_key()[1]
        # Half of the secret is right at most: a few mutations must not make it whole.
        self.wrong = [
            head + key.sha256, head + "0" * 64, head + secret[:32] + "0" * 32, head, head + secret[:32], other, "",
            "inlet_000000000000_" + "0" * 64, key.id, other[-64:], head + other[-64:],
        ]  # fmt: skip

    def requests(self, keys: list[str]) -> list[bytes]:
        """REQUESTS, each with one of these keys, in every way to send one."""
        found = []
        for number, request in enumerate(REQUESTS * 3):
            key = keys[number % len(keys)]
            if number % 5 == 4:
                spot, text = rb"(?<=/ingest)(?=[? ])", f"?key={key}&"
            else:
                basic = base64.b64encode(f"u:{key}".encode()).decode()
                fields = (f"Authorization: Bearer {key}", f"X-Api-Key: {key}", f"Authorization: Basic {basic}",
                          f"Authorization: Splunk {key}")  # fmt: skip
                spot, text = rb"(?<= HTTP/1\.[01]\r\n)", fields[number % 5] + "\r\n"
            found.append(re.sub(spot, text.encode(), request))
        return found


def mutate(drawn: random.Random, data: bytes, seeds: list[bytes], tokens: list[bytes] = TOKENS) -> bytes:
    """Change a few things; sometimes nothing."""
    for _ in range(drawn.randrange(MUTATIONS_MAX)):
        start = drawn.randrange(len(data) + 1)
        stop = min(len(data), start + drawn.choice((1, 1, 2, 8, 64)))
        kind = drawn.randrange(8)
        if kind == 0 and data:
            at = min(start, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << drawn.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:start] + data[stop:]
        elif kind == 2:
            data = data[:stop] + data[start:stop] * drawn.choice((1, 2, 200)) + data[stop:]
        elif kind in (3, 4):
            data = data[:start] + drawn.choice(tokens) + data[start:]
        elif kind == 5:
            data = data[:start] + drawn.randbytes(drawn.choice((1, 4, 300))) + data[stop:]
        elif kind == 6:
            other = drawn.choice(seeds)
            data = data[:start] + other[drawn.randrange(len(other)) :]
        elif numbers := list(re.finditer(rb"\d+", data)):
            found = drawn.choice(numbers)
            data = data[: found.start()] + drawn.choice(NUMBERS) + data[found.end() :]
    return data


def documented() -> set[int]:
    """The statuses a client may see: the error table of docs/protocol.md, without the one for a bug, and successes."""
    rows = re.findall(r"^\| (\d{3}) \| `", (ROOT / "docs" / "protocol.md").read_text(), re.MULTILINE)
    return {200, 202} | {int(status) for status in rows} - {500}


@dataclass
class HttpFuzz:
    """Cases over HTTP against the server of ``rig``, and what came of them."""

    rig: Rig
    seed: int = 0
    requests: list[bytes] = field(default_factory=lambda: REQUESTS)
    tokens: list[bytes] = field(default_factory=lambda: TOKENS)
    cases: int = 0
    accepted: int = 0  # records of all 202s that were read
    cut: int = 0  # cases whose connection was reset, so that not every answer was read
    statuses: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._allowed = documented()

    def run(self, cases: int) -> None:
        """Run so many cases, over WARM_CASES; raise AssertionError, with the bytes, on the first that breaks a rule."""
        drawn = random.Random(self.seed)
        workers = self.rig.server.workers()
        memory: dict[int, int] = {}
        while self.cases < cases:
            if self.cases == WARM_CASES:
                memory = {pid: resident(pid) for pid in workers}
            self.case(mutate(drawn, drawn.choice(self.requests), self.requests, self.tokens), drawn)
        assert self.rig.server.workers() == workers, "a worker died"
        log = self.rig.server.log()
        assert "Traceback" not in log, log[log.index("Traceback") :][:3_000]
        growth = {pid: resident(pid) - before for pid, before in memory.items()}
        assert max(growth.values()) < GROWTH_BYTES_MAX, f"memory grew: {growth}"
        with self.rig.reader() as client:
            stored = sum(int(fields[b"n"]) for _, fields in client.xrange(STREAM))
        # What was accepted on a connection that was then reset was not read.
        assert stored == self.accepted or (self.cut and stored > self.accepted), (stored, self.accepted, self.cut)

    def case(self, request: bytes, drawn: random.Random) -> None:
        """Send one request, in pieces, and check all that comes back."""
        self.cases += 1
        with self.rig.server.connect() as connection:
            connection.settimeout(ANSWER_SECONDS)
            received = b""
            try:
                at = drawn.randrange(len(request) + 1) if drawn.random() < 0.3 else 0
                connection.sendall(request[:at])
                connection.sendall(request[at:])
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65_536):
                    received += piece
            except TimeoutError:
                raise AssertionError(f"no end of the answer to {request!r}: {received!r}") from None
            except OSError:
                self.cut += 1
                return
        for status, body in answers(received, request):
            self.statuses[status] += 1
            assert status in self._allowed, f"{status} to {request!r}"
            if status == 202:
                document = json.loads(body)
                self.accepted += document.get("accepted", 1)
            elif status >= 400:
                assert json.loads(body)["status"] == status, f"{body!r} to {request!r}"


def answers(data: bytes, request: bytes) -> Iterator[tuple[int, bytes]]:
    """Every response in ``data``, strictly: nothing may be left over."""
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.1 (\d{3}) [^\r\n]*(\r\n|$)", head)
        assert found, f"no response: {data!r} to {request!r}"
        assert end, f"no response: {data!r} to {request!r}"
        status = int(found[1])
        if status == 100:
            data = rest
            continue
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        # Without a length it ends with the connection, so it is the last one.
        size = int(length[1]) if length else len(rest)
        assert len(rest) >= size or b"HEAD" in request, f"a body cut short: {data!r} to {request!r}"
        yield status, rest[:size]
        data = rest[size:]


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4_096


def fuzz_payload(cases: int, seed: int = 0) -> Counter[str]:
    """Decode and parse mutated bodies: only documented errors may escape, every line is as docs/protocol.md says."""
    drawn, outcomes = random.Random(seed), Counter[str]()
    receiver = Native(PayloadLimits(payload_bytes_max=PAYLOAD_BYTES_MAX), RecordLimits())
    seeds = [body for body, _, _ in BODIES]
    for _ in range(cases):
        body, content_type, encoding = drawn.choice(BODIES)
        body = mutate(drawn, body, seeds)
        outcomes[payload_case(receiver, body, content_type, encoding)] += 1
    return outcomes


def payload_case(receiver: Native, body: bytes, content_type: str, encoding: str) -> str:
    """Return the outcome of one body, as a word."""
    try:
        decoded = finish(decompress(body, encoding, PAYLOAD_BYTES_MAX)) if encoding else body
        environ = {"CONTENT_TYPE": content_type} if content_type else {}
        parsed = receiver.read(environ, decoded) or finish(receiver.slices(environ, decoded))
    except (ClientError, RecordInvalid, RecordTooLarge, NothingAccepted) as error:
        return error.reason
    for line in parsed.lines:
        # Strictly JSON (RFC 8259): the standard library, without its own extensions.
        value = json.loads(line.decode(), parse_constant=_refuse)
        assert b"\n" not in line, body
        assert [type(part) for part in value] == [str, str, str, str, dict], body
        assert all(type(pair) is str for pair in value[4].values()), body
        "".join(value[:4]).encode()
    return "accepted" if not parsed.rejections else "partly accepted"


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def main() -> None:
    """Fuzz by hand, for longer."""
    options = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    options.add_argument(
        "--cases", type=int, default=10_000, help="over HTTP; bodies for the parser are ten times as many"
    )
    options.add_argument("--seed", type=int, default=int(time.time()), help="printed, so that a run can be repeated")
    options.add_argument("--keys", choices=("none", "valid", "wrong"), default="none", help="default: none are wanted")
    chosen = options.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="inlet-") as directory:
        keys = FuzzedKeys(Path(directory))
        with Rig("stored", env={} if chosen.keys == "none" else keys.env) as rig:
            http = HttpFuzz(rig, chosen.seed)
            if chosen.keys != "none":
                http.requests = keys.requests([keys.right] if chosen.keys == "valid" else keys.wrong)
                http.tokens = [*TOKENS, *KEY_TOKENS]
            http.run(chosen.cases)
    print(f"HTTP: {http.cases} cases, {http.cut} cut; answers {dict(sorted(http.statuses.items()))}", flush=True)
    outcomes = fuzz_payload(10 * chosen.cases, chosen.seed)
    print(f"payload: {outcomes.total()} cases: {dict(outcomes.most_common())}")


if __name__ == "__main__":
    main()
