"""What the loads send: the article's record, varied records, the requests around them, and those that are refused."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from bench import compare, load, peers, refused, traffic
from bench.store import BenchStore
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder

HEADS_MIN = 10_000
"""Requests in a row that must all differ."""


def parts(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """The request line, the fields and the body; every request must be whole."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert len(fields) == len(lines)
    assert int(fields["Content-Length"]) == len(body)
    return first, fields, body


def values(requests: Sequence[bytes], name: str) -> list[str]:
    return [parts(request)[1][name] for request in requests]


# Fixed


def test_the_payload_is_the_articles_467_bytes_with_ten_pairs_of_metadata() -> None:
    body = traffic.payload()
    assert len(body) == traffic.PAYLOAD_BYTES == 467
    assert len(json.loads(body)["metadata"]) == 10


def test_fixed_traffic_is_the_same_request_over_and_over() -> None:
    one, many = traffic.singles(traffic.FIXED), traffic.bulks(traffic.FIXED)
    assert [parts(request)[2] for request in one.requests] == [traffic.payload()]
    assert [parts(request)[2].split(b"\n") for request in many.requests] == [[traffic.payload()] * many.records]


# Varied


def test_varied_requests_are_ten_fields_of_which_three_differ_each_time() -> None:
    requests = traffic.singles(traffic.VARIED).requests
    assert len(set(requests)) == len(requests) == traffic.VARIED_RECORDS >= HEADS_MIN
    firsts, fields, _ = zip(*map(parts, requests), strict=True)
    assert set(firsts) == {"POST /ingest HTTP/1.1"}
    assert {len(one) for one in fields} == {10}
    for name in ("traceparent", "x-request-id"):
        assert len({one[name] for one in fields}) == len(requests)
    lengths = values(requests, "Content-Length")
    assert sum(one != other for one, other in pairwise(lengths)) > 0.99 * len(lengths)
    assert len(set(values(requests, "User-Agent"))) == traffic.USER_AGENTS == 50
    assert {one["Host"] for one in fields} == {"logs.example.com"}
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", one["traceparent"]) for one in fields)


def test_varied_records_are_unique_and_cover_what_real_ones_hold() -> None:
    lines = traffic.varied_records()
    records = [json.loads(line) for line in lines]
    assert len({record["event_id"] for record in records}) == len(lines)
    lengths = [len(record["message"]) for record in records]
    assert (min(lengths), max(lengths)) == traffic.MESSAGE_CHARACTERS == (20, 1_200)
    assert {len(record["metadata"]) for record in records} == set(range(traffic.PAIRS_MAX + 1))
    assert {record["service"] for record in records} == set(traffic.SERVICES)
    for share in (
        sum(not line.isascii() for line in lines),
        sum(b"\\u" in line for line in lines),
        sum(b'\\"' in line for line in lines),
        sum(b"\\n" in line for line in lines),
    ):
        assert 0.005 * len(lines) < share < 0.2 * len(lines)


def test_every_varied_record_is_one_that_inlet_accepts() -> None:
    encode = encoder(RecordLimits())
    for line in traffic.varied_records():
        assert b"\n" not in line
        assert encode(json.loads(line)).count(b"\n") == 0


def test_another_process_makes_the_same_bytes() -> None:
    code = """
import hashlib
from bench import traffic
requests = traffic.singles("varied").requests + traffic.bulks("zstd").requests
print(hashlib.sha256(b"".join(requests)).hexdigest())
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=peers.ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def decoded(body: bytes, content: str) -> bytes:
    if content == traffic.GZIP:
        return gzip.decompress(body)
    return zstandard.decompress(body) if content == traffic.ZSTD else body


@pytest.mark.parametrize("content", [traffic.VARIED, traffic.GZIP, traffic.ZSTD])
def test_varied_bulks_hold_each_record_once_whatever_their_coding(content: str) -> None:
    found = traffic.bulks(content)
    lines = []
    for request in found.requests:
        _, fields, body = parts(request)
        assert fields["Content-Type"] == "application/x-ndjson"
        assert fields.get("Content-Encoding") == (None if content == traffic.VARIED else content)
        lines.append(decoded(body, content).split(b"\n"))
    assert {len(one) for one in lines} == {found.records} == {100}
    assert [line for one in lines for line in one] == list(traffic.varied_records())


def test_big_bulks_are_about_five_megabytes_each_with_as_many_records() -> None:
    found = traffic.big_bulks()
    assert len(set(found.requests)) == len(found.requests) > 1
    for request in found.requests:
        body = parts(request)[2]
        assert 0.97 * traffic.BIG_BULK_BYTES < len(body) < 1.03 * traffic.BIG_BULK_BYTES
        assert body.count(b"\n") + 1 == found.records


def test_a_request_is_whole_http_and_is_traffic_by_itself() -> None:
    request = load.single(peers.PEERS["inlet"])
    first, fields, body = parts(traffic.raw(request))
    assert first == "POST /ingest HTTP/1.1"
    assert fields["Host"]
    assert body == request[3]
    assert traffic.traffic_of(request) == traffic.Traffic((traffic.raw(request),), 1)


def test_the_file_of_requests_can_be_read_back(tmp_path: Path) -> None:
    requests = [b"one\n2\nthree", b"", b"\r\n\xff"]
    traffic.write(requests, tmp_path / "r")
    found = []
    with (tmp_path / "r").open("rb") as file:
        while line := file.readline():
            found.append(file.read(int(line)))
    assert found == requests


def test_the_bound_that_can_send_only_one_record_sends_that_of_median_length() -> None:
    lengths = sorted(map(len, traffic.varied_records()))
    assert len(compare.median_record()) == lengths[len(lengths) // 2]


# Refused


def test_one_request_in_ten_of_the_memory_run_is_refused_and_one_in_fifty_is_a_bulk_partly_accepted() -> None:
    requests = refused.mixed().requests
    good = traffic.singles(traffic.VARIED).requests
    other = [number for number, (one, two) in enumerate(zip(requests, good, strict=True)) if one != two]
    assert [number for number in other if number % 10 == 9] == list(range(9, len(requests), 10))
    assert [number for number in other if number % 10 != 9] == list(range(0, len(requests), 50))
    assert len({requests[number] for number in other}) == len(other)


def test_inlet_refuses_each_of_them_with_the_status_that_it_must_have_and_stores_nothing() -> None:
    peer = peers.PEERS["inlet"]
    with BenchStore() as store, peers.Running(peer, store.socket, load.single(peer)) as running:
        store.empty()
        statuses = {}
        for name, _, request in refused.examples():
            client = load.Client(running.port)
            statuses[name] = client.ask(request)
            client.close()
        assert statuses == {name: status for name, status, _ in refused.examples()}
        assert store.records() == 0
        client = load.Client(running.port)
        sent = refused.mixed().requests
        answers = [client.ask(request) for request in sent[:2000]]
        client.close()
        assert [number for number, answer in enumerate(answers) if answer != 202] == list(range(9, 2000, 10))
        assert {400, 404, 405, 413, 415, 422} <= set(answers)
        assert store.records() == 1800 + 40  # a bulk partly accepted holds two good records
