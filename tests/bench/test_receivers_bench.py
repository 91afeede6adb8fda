"""The receivers against a Go service: what is sent, the arithmetic, and a tiny run of what is here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cramjam
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from bench import compare, machine, peers, receivers, shippers
from bench.figures import RECORDS
from bench.pairs import CPU
from bench.receivers import GO, OURS, STAGES
from bench.traffic import BULK_RECORDS
from wsgi.receivers.catalog import MOUNTS

HERE = tuple(protocol for protocol in receivers.PROTOCOLS if protocol in MOUNTS)
needs_go = pytest.mark.skipif(not peers.GO_RECEIVERS.is_built(), reason="`make peers` builds the Go service")


def bodies(protocol: str, count: int) -> list[bytes]:
    """Return the bodies of the first requests."""
    return [body for *_, body in shippers.requests(protocol, count)]


def fields(data: bytes, number: int) -> list[bytes]:
    """Return the values of one length-delimited field of a protobuf message with short tags."""
    found, at = [], 0
    while at < len(data):
        tag, at = data[at], at + 1
        size = shift = 0
        while data[at] > 0x7F:
            size, shift, at = size | (data[at] & 0x7F) << shift, shift + 7, at + 1
        size, at = size | data[at] << shift, at + 1
        if tag & 7 == 2:
            if tag >> 3 == number:
                found.append(data[at : at + size])
            at += size
    return found


# What is sent


@pytest.mark.parametrize("protocol", receivers.PROTOCOLS)
def test_a_protocols_requests_are_all_different_and_always_the_same_ones(protocol: str) -> None:
    sent = shippers.traffic(protocol)
    assert len(set(sent.requests)) == len(sent.requests) == shippers.REQUESTS
    assert sent.records == BULK_RECORDS
    assert bodies(protocol, 3) == [request.partition(b"\r\n\r\n")[2] for request in sent.requests[:3]]


def test_an_otlp_request_has_a_hundred_records_of_nine_attributes_from_several_services() -> None:
    for body in bodies(shippers.OTLP, 5):
        request = ExportLogsServiceRequest.FromString(body)
        assert len(request.resource_logs) == shippers.GROUPS
        records = [one for logs in request.resource_logs for scope in logs.scope_logs for one in scope.log_records]
        assert len(records) == BULK_RECORDS
        assert {len(one.attributes) for one in records} == {9}
        assert len({len(one.body.string_value) for one in records}) > BULK_RECORDS // 2


def test_a_bulk_has_an_action_and_a_document_for_each_of_a_hundred_records() -> None:
    for body in bodies(shippers.ELASTIC, 5):
        assert body.endswith(b"\n")
        lines = [json.loads(line) for line in body.splitlines()]
        assert [list(line) for line in lines[::2]] == [["create"]] * BULK_RECORDS
        assert all(line["message"] and line["service"]["name"] and line["@timestamp"] for line in lines[1::2])


def test_a_push_has_a_hundred_entries_in_a_few_streams() -> None:
    for body in bodies(shippers.LOKI, 5):
        streams = fields(bytes(cramjam.snappy.decompress_raw(body)), 1)
        assert len(streams) == shippers.GROUPS
        assert all(fields(stream, 1)[0].startswith(b'{service_name="') for stream in streams)
        entries = [entry for stream in streams for entry in fields(stream, 2)]
        assert len(entries) == BULK_RECORDS
        assert sum(len(fields(entry, 3)) for entry in entries) == BULK_RECORDS // shippers.GROUPS // 2 * 8


# The arithmetic


def pair(number: int, go: float, ours: float, fault: str | None = None) -> list[dict[str, Any]]:
    """Return a round of one protocol, with these records per second."""
    base = {"round": number, "protocol": shippers.OTLP, CPU: 300.0, receivers.STORE_CPU: 100.0}
    return [{**base, "side": side, RECORDS: rate, "fault": fault} for side, rate in ((GO, go), (OURS, ours))]


def test_a_ratio_of_receivers_is_the_median_of_its_rounds_and_a_fault_misses_the_target() -> None:
    runs = [*pair(0, 100, 49), *pair(1, 100, 50), *pair(2, 200, 400)]
    (one,) = receivers.summary({"runs": runs})
    assert (one["ratio"], one["met"]) == (0.5, True)
    assert one[OURS] == {RECORDS: 50, "cpu_us_per_record": 3.0, "store_cpu_us_per_record": 1.0}
    (one,) = receivers.summary({"runs": [*runs, *pair(3, 100, 49), *pair(4, 100, 49)]})
    assert (one["ratio"], one["met"]) == (0.49, False)
    (one,) = receivers.summary({"runs": [*runs, *pair(3, 100, 100, "lost 3")]})
    assert (one["faults"], one["met"]) == (["lost 3"], False)


def test_the_report_shows_what_each_stage_adds_and_whether_both_sides_store_the_same() -> None:
    stages = [
        {**pair(0, 100, 0)[0], "side": "server", CPU: 100.0},
        {**pair(0, 100, 0)[0], "side": "decode", CPU: 250.0},
    ]
    about = machine.describe("9")
    options = {"connections": 4, "seconds": 1, "rounds": 1}
    document = {**about, "options": options, "differences": {shippers.OTLP: []}, "runs": [*pair(0, 100, 50), *stages]}
    text = receivers.markdown(document)
    assert f"| {STAGES['server']} | 1.00 | 1.00 |" in text
    assert f"| {STAGES['decode']} | 2.50 | 1.50 |" in text
    assert f"| {STAGES[OURS]} | 3.00 | 0.50 |" in text
    assert "0.5: met" in text
    assert "was the same but for the IDs" in text
    document["differences"] = {shippers.OTLP: ["flags differs"]}
    assert "store different records.** otlp: flags differs" in receivers.markdown(document)


def test_records_that_differ_are_named_once_by_what_differs() -> None:
    ours = [["t", "s", "m", {"a": "1", "b": "2"}]] * 2
    assert receivers.differences(ours, ours) == []
    theirs = [["t", "s", "n", {"a": "3", "c": "2"}]] * 2
    assert receivers.differences(ours, theirs) == [
        "a differs", "b is Inlet's only", "c is the Go service's only", "message 'm', 'n' of the Go service",
    ]  # fmt: skip
    assert receivers.differences(ours, ours[:1]) == ["2 records, 1 of the Go service"]


# Tiny runs


@pytest.mark.parametrize("protocol", HERE)
def test_every_stage_of_a_receiver_answers_all_requests(protocol: str, tmp_path: Path) -> None:
    path = tmp_path / "receivers.json"
    document = receivers.run((protocol,), tuple(STAGES), 2, 1, 1, path)
    assert {run["side"]: run["fault"] for run in document["runs"]} == dict.fromkeys(STAGES)
    assert json.loads(path.read_text()) == document
    assert [stage for stage, cost in receivers.stages(document["runs"], protocol) if cost > 0] == list(STAGES)
    (ours,) = [run for run in document["runs"] if run["side"] == OURS]
    assert ours["answered_records"] == ours["answered"] * BULK_RECORDS <= ours["stored_records"]


@needs_go
@pytest.mark.parametrize("protocol", receivers.PROTOCOLS)
def test_the_go_service_stores_what_it_answers(protocol: str) -> None:
    load = receivers.ShipperLoad(peers.BULK, 2, protocol)
    assert compare.measure(receivers.row(GO, protocol), load, 1)["fault"] is None


@needs_go
@pytest.mark.parametrize("protocol", HERE)
def test_both_sides_store_the_same_records(protocol: str) -> None:
    ours, theirs = (receivers.stored(receivers.row(side, protocol)) for side in (OURS, GO))
    assert len(ours) == BULK_RECORDS
    assert receivers.differences(ours, theirs) == []


@needs_go
@pytest.mark.parametrize("protocol", HERE[:1])
def test_the_command_measures_both_sides_and_the_report_says_on_what(protocol: str, tmp_path: Path) -> None:
    path = tmp_path / "receivers.json"
    words = [f"--protocols={protocol}", "--rounds=1", "--seconds=1", "--connections=2", "--no-stages", f"--json={path}"]
    assert receivers.main(words) in (0, 1)  # what it costs here means nothing
    document = json.loads(path.read_text())
    assert [(run["side"], run["fault"]) for run in document["runs"]] == [(GO, None), (OURS, None)]
    text = path.with_suffix(".md").read_text()
    assert machine.python_build() in text
    assert document["commit"] in text
    assert receivers.PROTOCOLS[protocol] in text


# The command line


def test_a_protocol_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        receivers.main(["--protocols=otlp,syslog"])
    assert "'syslog' is no protocol; those are otlp, elasticsearch, loki" in capsys.readouterr().err


def test_without_the_go_service_the_command_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(receivers, "GO_RECEIVERS", replace(peers.GO_RECEIVERS, needs=tmp_path / "missing"))
    with pytest.raises(SystemExit):
        receivers.main([])
    assert "go_receivers is not built; run `python -m bench peers`" in capsys.readouterr().err
