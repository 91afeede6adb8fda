"""What one request costs inside the application, warm and without a socket: microseconds a call, best of several runs.

python -m bench.micro --rounds 5

``app`` is the whole WSGI call and its answer over a sink that stores nothing; ``app through Falcon`` is the same, but
routed by Falcon, as every other path is; the others are its parts. The payload is the benchmark's, 467 bytes.

Cases named ``..., a record`` read a bulk, at once where it is short enough, else in slices; their figure is for one of
its 100 records. Bad lines come 5,000 at a time, most of which nobody will see in words.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import gzip
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import ujson

from bench.traffic import payload
from inlet import keyfile
from inlet.stream.limits import RecordLimits
from inlet.stream.record import bulk_encoder, encoder
from wsgi.access.keys import Keys
from wsgi.problems import Denied
from wsgi.receivers import routes
from wsgi.receivers.admission import OPEN
from wsgi.receivers.application import Application
from wsgi.receivers.decompress import decompress
from wsgi.receivers.interfaces import Ticket
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.pipeline import Endpoint
from wsgi.receivers.resources import Operator
from wsgi.receivers.slices import finish

CALLS = 20_000
"""Calls of a run, or records: a tenth of a second or so."""
BULK_RECORDS = 100
BAD_LINES = 5_000
WRONG = b'{"event_id":1,"timestamp":1,"service":1,"message":1}'


class _Ticket:
    level = 1

    def future(self, watch: object) -> None:
        """Store nothing."""

    def begin(self, watch: object) -> None:
        """Store nothing."""

    def commit(self) -> None:
        """Store nothing."""

    def addresses(self) -> list[Any]:
        """Return none."""
        return []


_TICKET = _Ticket()


def store_nothing(lines: list[bytes], level: int, destination: bytes | None = None) -> Ticket:
    """Append nothing; return a ticket whose commit is done."""
    return _TICKET


def bulks(native: Native) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the cases that read a bulk: one call, and how many records it reads."""
    value = ujson.loads(payload())
    texts = [
        ujson.dumps({**value, "event_id": f"e-{n}", "message": "word " * (1 + n * 37 % 200)}).encode()
        for n in range(BULK_RECORDS)
    ]
    lines, array = b"\n".join(texts), b"[" + b",".join(texts) + b"]"
    one_bad = lines.replace(texts[50], b'{"event_id":"e-50"}')
    ndjson, json = {"CONTENT_TYPE": "application/x-ndjson"}, {"CONTENT_TYPE": "application/json"}
    packed = gzip.compress(lines)

    def reading(environ: dict[str, Any], body: bytes) -> Callable[[], object]:
        return lambda: native.read(environ, body) or finish(native.slices(environ, body))

    def decoding() -> object:
        return finish(native.slices(ndjson, finish(decompress(packed, "gzip", len(lines)))))

    found: dict[str, tuple[Callable[[], object], int]] = {
        "ndjson bulk, a record": (reading(ndjson, lines), BULK_RECORDS),
        "array bulk, a record": (reading(json, array), BULK_RECORDS),
        "gzip ndjson bulk, a record": (decoding, BULK_RECORDS),
        "ndjson bulk with a bad record, a record": (reading(ndjson, one_bad), BULK_RECORDS),
    }
    for name, bad in (("0", b"0"), ("{", b"{"), ("{}", b"{}"), ("wrong types", WRONG)):
        body = b"\n".join([texts[0], *[bad] * BAD_LINES])
        found[f"bad lines, {name}, a line"] = reading(ndjson, body), BAD_LINES
    encode, encode_bulk = encoder(RecordLimits()), bulk_encoder(RecordLimits())
    values = ujson.loads(array)
    found["record.encode, a record of a bulk"] = lambda: [encode(each) for each in values], BULK_RECORDS
    found["record.encode_bulk, a record of a bulk"] = lambda: encode_bulk(values), BULK_RECORDS
    return found


def keys() -> dict[str, Callable[[], object]]:
    """Return the cases of a key: one that was seen before, and one whose secret is wrong."""
    secret, sha256 = keyfile.new_secret()
    key = keyfile.Key(keyfile.new_id(), "bench", sha256, datetime.now(UTC), receivers=("native",))
    with tempfile.TemporaryDirectory(prefix="inlet-") as directory:
        keyfile.save(Path(directory) / "keys.toml", [key])
        admit = Keys(Path(directory) / "keys.toml").admit
    right = {"HTTP_AUTHORIZATION": f"Bearer inlet_{key.id}_{secret}", "QUERY_STRING": ""}
    wrong = {"HTTP_AUTHORIZATION": f"Bearer inlet_{key.id}_{'0' * 64}", "QUERY_STRING": ""}

    def refused() -> None:
        with contextlib.suppress(Denied):
            admit(wrong, "native")

    return {"keys.admit": lambda: admit(right, "native"), "keys.admit, refused": refused}


def cases() -> dict[str, Callable[[], object]]:
    """Return one call of each case for one record, by name."""
    body = payload()
    limits, record_limits = PayloadLimits(), RecordLimits()
    native = Native(limits, record_limits)
    application = routes.create_app(
        receivers={routes.INGEST: native},
        append=store_nothing,
        admission=OPEN,
        operator=Operator(lambda: None),
    )
    endpoint = Endpoint(native, store_nothing, OPEN)
    through = Application(routes.create_routes({routes.INGEST: endpoint}, Operator(lambda: None)), {})
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/ingest", "QUERY_STRING": "", "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)), "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.errors": None, "HTTP_HOST": "localhost",
    }  # fmt: skip
    encode, value = encoder(record_limits), ujson.loads(body)
    members = list(value.values())

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        """Do nothing."""

    def call(app: Any) -> Callable[[], object]:
        def one() -> object:
            env = environ.copy()
            env["wsgi.input"] = BytesIO(body)
            return list(app(env, start_response))

        return one

    return {
        "app": call(application),
        "app through Falcon": call(through),
        "native.read": lambda: native.read(environ, body),
        "record.encode": lambda: encode(value),
        "ujson.loads": lambda: ujson.loads(body),
        "ujson.dumps": lambda: ujson.dumps(members, False, False, False).encode(),
        **keys(),
    }


def microseconds(one: Callable[[], object], calls: int) -> float:
    """Return what one call takes, over one run of ``calls``."""
    began = time.perf_counter()
    for _ in range(calls):
        one()
    return (time.perf_counter() - began) / calls * 1_000_000


def run(rounds: int, calls: int = CALLS) -> dict[str, float]:
    """Return the best of ``rounds`` runs of each case, interleaved."""
    gc.disable()
    table = {name: (one, 1) for name, one in cases().items()} | bulks(Native(PayloadLimits(), RecordLimits()))
    best = dict.fromkeys(table, float("inf"))
    for _ in range(rounds):
        for name, (one, records) in table.items():
            cost = microseconds(one, max(1, calls // records)) / records
            best[name] = min(best[name], cost)
    gc.enable()
    return best


def main(description: str | None, run: Callable[[int], dict[str, float]], rounds: int) -> None:
    """Print a line a case, of this benchmark or another that has the same command line."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=rounds)
    for name, cost in run(arguments.parse_args().rounds).items():
        print(f"{cost:8.2f} us  {name}")


if __name__ == "__main__":
    main(__doc__, run, rounds=5)
