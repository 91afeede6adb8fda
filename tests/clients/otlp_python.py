"""Sends the records of a file with OpenTelemetry's own exporter, configured by OTEL_* variables alone.

python tests/clients/otlp_python.py FILE: half of them, then, after a line on stdin, the rest.

What lives here: a program that uses the SDK as any program would. What must not: Inlet.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource


def revive(value: Any) -> Any:
    """A value of the file: ``{"bytes": [...]}`` stands for bytes."""
    if isinstance(value, list):
        return [revive(member) for member in value]
    if isinstance(value, dict):
        return bytes(value["bytes"]) if "bytes" in value else {name: revive(each) for name, each in value.items()}
    return value


def main(file: str) -> None:
    """Send them."""
    records = json.loads(Path(file).read_text())
    provider = LoggerProvider(resource=Resource.create())
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    logger = provider.get_logger("app", "1.2", schema_url="https://example.com/scope")

    def emit(record: dict[str, Any]) -> None:
        span = trace.SpanContext(
            int(record["traceId"], 16), int(record["spanId"], 16), is_remote=False, trace_flags=trace.TraceFlags(1)
        )
        nanos = record["seconds"] * 10**9 + record["nanos"]
        logger.emit(
            LogRecord(
                timestamp=nanos, observed_timestamp=nanos + 1, body=revive(record["body"]),
                context=trace.set_span_in_context(trace.NonRecordingSpan(span)),
                severity_number=SeverityNumber(record["severityNumber"]), severity_text=record["severityText"],
                attributes=revive(record["attributes"]), event_name=record["eventName"],
            )
        )  # fmt: skip

    half = len(records) // 2
    for record in records[:half]:
        emit(record)
    provider.force_flush(60_000)
    print("half", flush=True)
    sys.stdin.readline()
    for record in records[half:]:
        emit(record)
    provider.force_flush(60_000)
    provider.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
