"""What a request head costs, warm and without a socket: microseconds a head, best of several runs.

python -m bench.heads --rounds 20

Each case is one connection's heads, of five and of ten fields: ``same`` repeats one byte for byte (less the comparison
of its bytes, which the turn does); in ``four differ``, traceparent, X-Request-Id, Content-Length and the user agent do,
as in real traffic; ``agents`` alternates among 50 user agents and nothing else; ``first`` is a connection's first head;
``exact`` are heads that are not ordinary (HTTP/1.2), and so go the exact way.
"""

from __future__ import annotations

import gc
import random
import time
import uuid
from collections.abc import Callable

from gunicorn.config import Config

from bench import micro
from wsgi.server.head import Head, NoHead, Site

HEADS = 300
"""Different heads of a case: as many as stay in the processor's caches."""
AGENTS = [
    f"Mozilla/5.0 (X11; Linux x86_64; rv:{number}.0) Gecko/20100101 Firefox/{number}.0" for number in range(100, 150)
]


def head_bytes(fields: int, agent: str, ids: random.Random, length: int) -> bytes:
    """Return a head of five or ten fields. ``ids``: where its identifiers come from."""
    lines = [
        "POST /ingest HTTP/1.1",
        "Host: logs.example.com:8000",
        f"User-Agent: {agent}",
        f"traceparent: 00-{ids.getrandbits(128):032x}-{ids.getrandbits(64):016x}-01",
        f"X-Request-Id: {uuid.UUID(int=ids.getrandbits(128))}",
        f"Content-Length: {length}",
    ]
    if fields == 10:
        lines += [
            "Accept: */*",
            "Accept-Encoding: gzip, deflate, br",
            "Content-Type: application/json",
            "Connection: keep-alive",
            "Authorization: Bearer 0123456789abcdef0123456789abcdef",
        ]
    return "\r\n".join([*lines, "", ""]).encode()


def listener() -> Site:
    """Return what the worker makes of a listener on loopback: its peers are trusted, as gunicorn's default is."""
    environ = dict.fromkeys(
        [
            "wsgi.errors", "wsgi.version", "wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once",
            "wsgi.file_wrapper", "wsgi.input_terminated", "wsgi.input", "SERVER_SOFTWARE", "SERVER_NAME", "SERVER_PORT",
            "REMOTE_ADDR", "REMOTE_PORT",
        ],
        "",
    )  # fmt: skip
    environ.update({"wsgi.url_scheme": "http", "SCRIPT_NAME": ""})
    return Site(environ, Config(), trusted=True, unix=False, fast_bytes_max=65_536, head_bytes_max=65_536)


def cases() -> dict[str, Callable[[], None]]:
    """Return one run over HEADS heads of each case, by name."""
    table: dict[str, Callable[[], None]] = {}
    for fields in (5, 10):
        pick = random.Random(fields)
        same = [head_bytes(fields, AGENTS[0], random.Random(1), 467)] * HEADS
        agents = [head_bytes(fields, pick.choice(AGENTS), random.Random(1), 467) for _ in range(HEADS)]
        four = [head_bytes(fields, pick.choice(AGENTS), pick, pick.randrange(200, 1_400)) for _ in range(HEADS)]
        table[f"{fields} fields, same"] = _run(same, follow=True)
        table[f"{fields} fields, agents"] = _run(agents, follow=True)
        table[f"{fields} fields, four differ"] = _run(four, follow=True)
        table[f"{fields} fields, first"] = _run(four, follow=False)
        table[f"{fields} fields, exact"] = _run([raw.replace(b"HTTP/1.1", b"HTTP/1.2") for raw in four], follow=True)
    return table


def _run(heads: list[bytes], *, follow: bool) -> Callable[[], None]:
    """Return a function that parses ``heads``; ``follow``: as one connection's."""
    site = listener()

    def run() -> None:
        last: Head | type[NoHead] = NoHead
        for raw in heads:
            head = site.head(raw, last)
            head.take()
            if follow:
                last = head

    return run


def run(rounds: int) -> dict[str, float]:
    """Return the best of ``rounds`` runs of each case in microseconds a head, interleaved."""
    gc.disable()
    table = cases()
    best = dict.fromkeys(table, float("inf"))
    for _ in range(rounds):
        for name, one in table.items():
            began = time.perf_counter()
            one()
            best[name] = min(best[name], (time.perf_counter() - began) / HEADS * 1_000_000)
    gc.enable()
    return best


if __name__ == "__main__":
    micro.main(__doc__, run, rounds=20)
