"""What one request costs inside the application, warm and without a socket: microseconds a call, best of several runs.

python -m bench.micro --rounds 5

``app`` is the whole WSGI call and its answer over a sink that stores nothing; ``app through Falcon`` the same by
Falcon's own way to the responder; the others are its parts. The payload is the benchmark's, 467 bytes.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any, cast

import falcon
import ujson

from bench.load import payload
from wsgi import routes
from wsgi.commit import DeferredCommit
from wsgi.payload import PayloadLimits, parser
from wsgi.record import RecordLimits, encoder
from wsgi.resources import Ticket

CALLS = 20_000
"""Calls of a run: a tenth of a second or so."""


class _Ticket:
    level = 1

    def commit(self) -> None:
        """Store nothing."""

    def addresses(self) -> list[tuple[str, int]]:
        """None."""
        return []


class _Sink:
    def __init__(self) -> None:
        self._ticket = _Ticket()

    def append(self, lines: list[bytes], level: int) -> Ticket:
        """Keep nothing."""
        return self._ticket

    def check(self) -> None:
        """Be ready."""


def cases() -> dict[str, Callable[[], object]]:
    """Name -> one call."""
    body = payload()
    application: Any = routes.create_app(_Sink(), parser(PayloadLimits(), RecordLimits()), payload_bytes_max=8_388_608)
    slow = falcon.App(media_type="application/json")
    slow.add_route(routes.INGEST, cast("DeferredCommit", application)._app.ingest)  # type: ignore[attr-defined]
    through = DeferredCommit(slow, routes.refusal)
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/ingest", "QUERY_STRING": "", "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)), "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.errors": None, "HTTP_HOST": "localhost",
    }  # fmt: skip
    read, encode, value = parser(PayloadLimits(), RecordLimits()).parse, encoder(RecordLimits()), ujson.loads(body)
    members = list(value.values())

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        """Hear it."""

    def call(app: Any) -> Callable[[], object]:
        def one() -> object:
            env = environ.copy()
            env["wsgi.input"] = BytesIO(body)  # type: ignore[assignment]  # an environ holds anything
            return list(app(env, start_response))

        return one

    return {
        "app": call(application),
        "app through Falcon": call(through),
        "payload.parse": lambda: read(body, "application/json", None),
        "record.encode": lambda: encode(value),
        "ujson.loads": lambda: ujson.loads(body),
        "ujson.dumps": lambda: ujson.dumps(members, False, False, False).encode(),
    }


def microseconds(one: Callable[[], object], calls: int) -> float:
    """Of one call, over one run."""
    began = time.perf_counter()
    for _ in range(calls):
        one()
    return (time.perf_counter() - began) / calls * 1_000_000


def run(rounds: int, calls: int = CALLS) -> dict[str, float]:
    """The best of ``rounds`` runs of each case, interleaved."""
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
