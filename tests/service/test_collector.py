"""The collector under load: it runs, and never inside a turn."""

from __future__ import annotations

import threading

import httpx
import ujson

from tests.conftest import Serve
from tests.support import DEADLINE_SECONDS, record, wait_until


def test_no_collection_runs_inside_a_turn(serve: Serve, valkey: str, stream: str) -> None:
    server = serve("-c", "tests/service/collector.conf.py", "--workers", "1", REDIS_URL=valkey, INLET_STREAM=stream)
    over = threading.Event()
    bodies = [ujson.dumps(record()), "{", ujson.dumps(record(service="")), ujson.dumps([record(), {}])]

    def load() -> None:
        with httpx.Client(base_url=server.url, timeout=DEADLINE_SECONDS) as http:
            while not over.is_set():
                for body in bodies:
                    http.post("/ingest", content=body, headers={"Content-Type": "application/json"})

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: server.log().count("a collection between turns") >= 3, "three collections under load")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert "INSIDE" not in server.log()
