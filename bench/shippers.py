"""What the loads of ``bench.receivers`` send: requests of shippers, made once from a fixed seed.

What lives here: content of three protocols, one hundred varied records a request, not compressed. What must not:
sending (``bench.load``), who answers (``bench.receivers``).

OTLP: as a collector's batch processor sends it, several services to a request. Elasticsearch: documents as Filebeat
ships them. Loki: a few streams with the labels that agents set, and structured metadata in every second entry.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import cramjam
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from bench.traffic import BULK_RECORDS, SEED, SERVICES, Request, Traffic, headers, message, raw
from wsgi.receivers.protowire import field, varint

OTLP, ELASTIC, LOKI = "otlp", "elasticsearch", "loki"
REQUESTS = 200
"""Distinct requests of a protocol: as many records as ``bench.traffic.VARIED_RECORDS``."""
GROUPS = 4
"""Services of an OTLP request, and streams of a push."""
FIRST_SECOND = 1_794_000_000
"""The first record's time: November 2026, in seconds since 1970."""
_LEVELS = (("INFO", 9), ("INFO", 9), ("WARN", 13), ("ERROR", 17), ("DEBUG", 5))
_NODES = tuple(f"ip-10-0-{n}-{n * 37 % 250}" for n in range(12))


def _nanos(rng: random.Random, number: int) -> int:
    """A time that grows with the number of the request and, about, within it."""
    return (FIRST_SECOND + number * 5 + rng.randrange(5)) * 1_000_000_000 + rng.randrange(1_000_000_000)


def _pod(rng: random.Random, service: str) -> str:
    return f"{service}-{rng.getrandbits(36):09x}-{rng.getrandbits(20):05x}"


def _attribute(key: str, value: str | bool | float) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _log_record(rng: random.Random, number: int) -> LogRecord:
    """A record of nine attributes; every second one belongs to a trace."""
    level, severity = rng.choice(_LEVELS)
    nanos = _nanos(rng, number)
    attributes: dict[str, str | bool | float] = {
        "http.request.method": rng.choice(("GET", "POST", "PUT")),
        "http.response.status_code": rng.choice((200, 201, 204, 404, 500)),
        "http.route": f"/v2/items/{rng.randrange(100)}",
        "url.full": f"https://shop.example.com/v2/items/{rng.randrange(10**6)}?page={rng.randrange(40)}",
        "user.id": f"u-{rng.randrange(10**7)}",
        "session.id": f"{rng.getrandbits(64):016x}",
        "duration_ms": rng.randrange(1, 200_000) / 100,
        "cache.hit": rng.random() < 0.5,
        "thread.name": f"worker-{rng.randrange(64)}",
    }
    traced = rng.random() < 0.5
    return LogRecord(
        time_unix_nano=nanos,
        observed_time_unix_nano=nanos + rng.randrange(5_000_000),
        severity_number=severity,  # type: ignore[arg-type]  # the enum is an int
        severity_text=level,
        body=AnyValue(string_value=message(rng)),
        attributes=[_attribute(key, value) for key, value in attributes.items()],
        trace_id=rng.randbytes(16) if traced else b"",
        span_id=rng.randbytes(8) if traced else b"",
        flags=1 if traced else 0,
    )


def otlp_body(rng: random.Random, number: int) -> bytes:
    """Return an ExportLogsServiceRequest (opentelemetry-proto, collector/logs/v1) in protobuf."""
    request = ExportLogsServiceRequest()
    for service in rng.sample(SERVICES, GROUPS):
        resource = {
            "service.name": service,
            "service.version": f"2026.11.{rng.randrange(30)}",
            "deployment.environment.name": "production",
            "k8s.pod.name": _pod(rng, service),
            "host.name": rng.choice(_NODES),
            "telemetry.sdk.language": "java",
        }
        records = [_log_record(rng, number) for _ in range(BULK_RECORDS // GROUPS)]
        scope = InstrumentationScope(name=f"com.example.{service}.Handler", version="1.4.2")
        request.resource_logs.append(
            ResourceLogs(
                resource=Resource(attributes=[_attribute(*pair) for pair in resource.items()]),
                scope_logs=[ScopeLogs(scope=scope, log_records=records)],
            )
        )
    return bytes(request.SerializeToString())


def _document(rng: random.Random, number: int) -> dict[str, Any]:
    """A document as Filebeat ships one from a container's log (Elastic Common Schema)."""
    milliseconds = _nanos(rng, number) // 1_000_000
    service, node = rng.choice(SERVICES), rng.choice(_NODES)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    return {
        "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "message": message(rng),
        "log": {
            "level": rng.choice(_LEVELS)[0].lower(),
            "offset": rng.randrange(10**8),
            "file": {"path": f"/var/log/containers/{_pod(rng, service)}.log"},
        },
        "stream": rng.choice(("stdout", "stderr")),
        "service": {"name": service},
        "host": {"name": node},
        "agent": {"type": "filebeat", "version": "9.2.0", "id": f"{rng.getrandbits(128):032x}"},
        "tags": ["prod", "json"],
        "trace": {"id": f"{rng.getrandbits(128):032x}"},
    }


def elastic_body(rng: random.Random, number: int) -> bytes:
    """Return a body of ``POST /_bulk``: an action line and a document line a record."""
    action = json.dumps({"create": {"_index": "filebeat-9.2.0"}}, separators=(",", ":"))
    lines = []
    for _ in range(BULK_RECORDS):
        document = json.dumps(_document(rng, number), separators=(",", ":"), ensure_ascii=False)
        lines.append(f"{action}\n{document}\n")
    return "".join(lines).encode()


def _field(number: int, value: bytes | int) -> bytes:
    """A field of protobuf's wire format: of a length, or a varint."""
    return varint(number << 3) + varint(value) if isinstance(value, int) else field(number << 3 | 2, value)


def _entry(rng: random.Random, number: int, position: int) -> bytes:
    """An EntryAdapter: timestamp 1, line 2, structuredMetadata 3 (loki/pkg/push/push.proto)."""
    seconds, nanos = divmod(_nanos(rng, number), 1_000_000_000)
    line = (
        f"level={rng.choice(_LEVELS)[0].lower()} caller=handler.go:{rng.randrange(900)} msg={json.dumps(message(rng))}"
    )
    pairs = {"trace_id": f"{rng.getrandbits(128):032x}", "pod": _pod(rng, "api")} if position % 2 else {}
    metadata = b"".join(
        _field(3, _field(1, name.encode()) + _field(2, value.encode())) for name, value in pairs.items()
    )
    return _field(1, _field(1, seconds) + _field(2, nanos)) + _field(2, line.encode()) + metadata


def loki_body(rng: random.Random, number: int) -> bytes:
    """Return a PushRequest of GROUPS streams in protobuf, in raw snappy."""
    streams = []
    for service in rng.sample(SERVICES, GROUPS):
        labels = (
            f'{{service_name="{service}", namespace="shop", cluster="eu-1", node="{rng.choice(_NODES)}", '
            f'container="{service}", filename="/var/log/pods/{_pod(rng, service)}/0.log"}}'
        )
        entries = [_field(2, _entry(rng, number, at)) for at in range(BULK_RECORDS // GROUPS)]
        streams.append(_field(1, _field(1, labels.encode()) + b"".join(entries)))
    return bytes(cramjam.snappy.compress_raw(b"".join(streams)))


_WHAT: dict[str, tuple[str, str, Callable[[random.Random, int], bytes]]] = {
    OTLP: ("/v1/logs", "application/x-protobuf", otlp_body),
    ELASTIC: ("/_bulk", "application/x-ndjson", elastic_body),
    LOKI: ("/loki/api/v1/push", "application/x-protobuf", loki_body),
}
"""Protocol -> path, media type, and what makes a body."""
PATHS = {protocol: path for protocol, (path, _, _) in _WHAT.items()}
STATUS = {OTLP: 200, ELASTIC: 200, LOKI: 204}
"""Status of each protocol's success."""


def requests(protocol: str, count: int = REQUESTS) -> Iterable[Request]:
    """Yield the protocol's first requests, always the same ones."""
    path, media_type, body = _WHAT[protocol]
    rng = random.Random(f"{SEED} {protocol}")
    for number in range(count):
        yield "POST", path, headers(rng, media_type), body(rng, number)


@cache
def traffic(protocol: str) -> Traffic:
    """Return what a load sends."""
    return Traffic(tuple(map(raw, requests(protocol))), BULK_RECORDS)
