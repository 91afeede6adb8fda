"""consumer_100rec_entries_457b_1core: records a second handed to a handler, against redis-py's own XREADGROUP loop.

    python bench/consumer_bench.py [--records 1000000] [--runs 5] [--json]

The load: a stream filled by commits of 100 records of about 457 bytes (10 metadata pairs), read by one consumer of a
new group until nothing is left, every entry acked. Reader and store share one core (``--cores 2``: a core each).
Contenders take turns within one run, so that other load hits all alike; each has a fresh process:

    inlet      inlet.Reader.run(handle)
    asyncio    inlet.AsyncReader.run(handle)
    dedup      inlet.Reader with dedup_window_ms: one SET a record
    redis-py   xreadgroup(count=256), json.loads per line, handle(list), one xack for what was read

Figures are medians of paired runs. ``rss``: the process's peak memory, while all records waited in the store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import redis  # noqa: E402  # runs from a checkout without the installed package

from inlet import AsyncReader, Options, Reader, Record  # noqa: E402
from inlet.stream.entry import FIELD_COUNT, FIELD_RECORDS  # noqa: E402
from inlet.stream.limits import RecordLimits  # noqa: E402
from inlet.stream.record import encoder  # noqa: E402
from wsgi.store.embedded import EmbeddedStore  # noqa: E402

NAME = "consumer_100rec_entries_457b_1core"
ENTRY_RECORDS = 100
"""Records of a commit, as under load."""
READ_ENTRIES = 256
"""COUNT of redis-py's loop: what the reader's ``entries_max`` is."""
CONTENDERS = ("redis-py", "inlet", "asyncio", "dedup")
DEDUP_WINDOW_MS = 60_000
"""Longer than a run, so that no key expires within it."""


def fill(url: str, stream: str, records: int) -> int:
    """Fill the stream as Inlet's sink would; return the bytes of one record."""
    encode = encoder(RecordLimits())
    lines: list[bytes] = []
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        for first in range(0, records, ENTRY_RECORDS):
            lines = [encode(event(number)) for number in range(first, first + ENTRY_RECORDS)]
            pipeline.xadd(stream, {FIELD_RECORDS: b"\n".join(lines), FIELD_COUNT: len(lines)})
            if first // ENTRY_RECORDS % 50 == 49:
                pipeline.execute()
        pipeline.execute()
    return len(lines[0])


def event(number: int) -> dict[str, object]:
    """Return one record of about 457 bytes as stored, 10 metadata pairs."""
    return {
        "event_id": f"0197f3a2-7c4d-7e21-9b55-{number:012d}",
        "timestamp": "2026-01-31T23:59:59.123456Z",
        "service": "checkout",
        "message": f"payment {number} authorized by the provider",
        "metadata": {f"label_{pair}": f"value-{pair}-of-{number:09d}" for pair in range(10)},
    }


def child(contender: str, url: str, stream: str, group: str) -> dict[str, float]:
    """Read everything once, in this process."""
    count = 0

    def handle(record: Record) -> None:
        nonlocal count
        count += 1

    async def handle_async(record: Record) -> None:
        nonlocal count
        count += 1

    options = Options(dedup_window_ms=DEDUP_WINDOW_MS if contender == "dedup" else 0)
    begin, cpu = time.perf_counter(), time.process_time()
    if contender == "asyncio":
        asyncio.run(AsyncReader(url, stream, group, options=options).run(handle_async, forever=False))
    elif contender == "redis-py":
        count = redis_py(url, stream, group)
    else:
        Reader(url, stream, group, options=options).run(handle, forever=False)
    seconds = time.perf_counter() - begin
    return {
        "records": count,
        "per_second": count / seconds,
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def redis_py(url: str, stream: str, group: str) -> int:
    """Run the loop that people write; return the number of records."""
    count = 0

    def handle(record: list[Any]) -> None:
        nonlocal count
        count += 1

    with redis.Redis.from_url(url) as client:
        client.xgroup_create(stream, group, id="0")
        while True:
            reply: Any = client.xreadgroup(group, "c", {stream: ">"}, count=READ_ENTRIES)
            entries = [entry for _, batch in reply for entry in batch]
            if not entries:
                return count
            for _, fields in entries:
                for line in fields[b"r"].split(b"\n"):
                    handle(json.loads(line))
            client.xack(stream, group, *[entry_id for entry_id, _ in entries])


def once(contender: str, url: str, stream: str, group: str, core: int | None) -> dict[str, float]:
    """Run one contender in a process of its own."""
    command = [sys.executable, __file__, "--child", contender, url, stream, group, str(-1 if core is None else core)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


def run(records: int, runs: int, cores: int) -> dict[str, Any]:
    """Run all contenders ``runs`` times; return medians and the ratios of paired runs."""
    available = sorted(os.sched_getaffinity(0))
    reader_core = available[0]
    store_cores = {reader_core} if cores == 1 or len(available) == 1 else {available[1]}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="inlet-") as directory:
        store = EmbeddedStore(Path(directory))
        os.sched_setaffinity(0, store_cores)
        try:
            url = store.start()
            os.sched_setaffinity(0, available)
            line_bytes = fill(url, "bench", records)
            for number in range(runs):
                for name in CONTENDERS:
                    result = once(name, url, "bench", f"{name}-{number}", reader_core)
                    if result["records"] != records:
                        raise SystemExit(f"{name} handled {result['records']} records of {records}")
                    results[name].append(result)
        finally:
            store.stop()
    ratios = [
        ours["per_second"] / theirs["per_second"]
        for ours, theirs in zip(results["inlet"], results["redis-py"], strict=True)
    ]
    return {
        "bench": NAME, "records": records, "runs": runs, "cores": cores, "record_bytes": line_bytes,
        "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios],
        "results": {
            name: {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
            for name, rows in results.items()
        },
    }  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        contender, url, stream, group, core = sys.argv[2:7]
        if core != "-1":
            os.sched_setaffinity(0, {int(core)})
        print(json.dumps(child(contender, url, stream, group)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="in the stream (default: 1000000)")
    parser.add_argument("--runs", type=int, default=5, help="of each contender (default: 5)")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1, help="1: reader and store share one")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    arguments = parser.parse_args()
    result = run(arguments.records // ENTRY_RECORDS * ENTRY_RECORDS, arguments.runs, arguments.cores)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['bench']}: {result['records']} records of {result['record_bytes']} B, {result['machine']}")
    for name, row in result["results"].items():
        print(
            f"  {name:9} {row['per_second']:>10,.0f} records/s  {row['cpu_us']:.2f} us CPU a record  "
            f"{row['rss_mib']:.0f} MiB"
        )
    print(f"  inlet against redis-py, median of paired runs: {result['ratio']} ({result['ratios']})")


if __name__ == "__main__":
    main()
