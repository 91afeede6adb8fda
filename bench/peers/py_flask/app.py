"""Flask under gunicorn gthread + redis-py (hiredis): ujson reads the record, its bytes are stored with one XADD."""

from __future__ import annotations

import os
from datetime import datetime

import redis
import ujson
from flask import Flask, Response, request
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECTIONS_MAX = 64
"""Connections to the store of one process; at least its threads."""
QUEUED = b'{"status":"queued"}'

app = Flask(__name__)
store = redis.Redis(
    unix_socket_path=os.environ["BENCH_REDIS_SOCKET"],
    max_connections=CONNECTIONS_MAX,
    protocol=2,
    retry=Retry(NoBackoff(), 0),
)


def valid(record: object) -> bool:
    """Whether it has the members of a record, of the right types."""
    if not isinstance(record, dict):
        return False
    texts = [record.get(name) for name in ("event_id", "timestamp", "service", "message")]
    metadata = record.get("metadata", {})
    if not all(isinstance(text, str) for text in texts) or not texts[0] or not texts[2]:
        return False
    datetime.fromisoformat(texts[1])
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


@app.post("/ingest")
def ingest() -> Response:
    """Check, store, answer."""
    body = request.get_data(cache=False)
    try:
        if not valid(ujson.loads(body)):
            return Response(status=422)
    except ValueError:
        return Response(status=400)
    store.execute_command("XADD", "logs", "*", "r", body)
    return Response(QUEUED, 202, mimetype="application/json")
