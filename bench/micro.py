"""What one request costs inside the application, warm and without a socket: microseconds a call, best of several runs.

python -m bench.micro --rounds 5

``app`` is the whole WSGI call and its answer over a sink that stores nothing; ``app through Falcon`` is the same, but
routed by Falcon, as every other path is; the others are its parts. The payload is the benchmark's, 467 bytes.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import ujson

from bench.load import payload
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder
from wsgi.receivers import routes
from wsgi.receivers.limits import PayloadLimits
from wsgi.receivers.native import Native
from wsgi.receivers.pipeline import Application, Endpoint, Ticket

CALLS = 20_000
"""Calls of a run: a tenth of a second or so."""


class _Ticket:
    level = 1

    def commit(self) -> None:
        """Store nothing."""

    def addresses(self) -> list[tuple[str, int]]:
        """Return none."""
        return []


_TICKET = _Ticket()


def _append(lines: list[bytes], level: int) -> Ticket:
    return _TICKET


def cases() -> dict[str, Callable[[], object]]:
    """Return one call of each case, by name."""
    body = payload()
    limits, record_limits = PayloadLimits(), RecordLimits()
    native = Native(limits, record_limits)
    application = routes.create_app(
        receivers={routes.INGEST: native},
        append=_append,
        readiness=lambda: None,
        payload_bytes_max=limits.payload_bytes_max,
    )
    endpoint = Endpoint(native, _append, payload_bytes_max=limits.payload_bytes_max)
    through = Application(routes.create_routes({routes.INGEST: endpoint}, lambda: None), {})
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
    table = cases()
    best = dict.fromkeys(table, float("inf"))
    for _ in range(rounds):
        for name, one in table.items():
            best[name] = min(best[name], microseconds(one, calls))
    gc.enable()
    return best


def main() -> None:
    """Print a line a case."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    for name, cost in run(arguments.parse_args().rounds).items():
        print(f"{cost:7.2f} us  {name}")


if __name__ == "__main__":
    main()
