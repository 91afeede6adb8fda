"""Nothing on a request's path makes a reference cycle: with the collector off, there is nothing to collect."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sink.support import Store
from tests.support import DEADLINE_SECONDS, ROOT

PROGRAM = """
import gc, socket, sys, threading
from tests.sink.support import Sink
from wsgi.problems import SinkError
from wsgi.sink.durability import STORED, SYNCED
import redis

def loading():
    # The port of a store that replies LOADING, after which redis-py hangs up.
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        while True:
            connection = listener.accept()[0]
            while data := connection.recv(65_536):
                setup = data.count(b"SETINFO")
                connection.sendall(b"+OK\\r\\n" * setup or b"-LOADING Redis is loading\\r\\n")

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()[1]

url, level = sys.argv[1], int(sys.argv[2])
Sink.driven = sys.argv[3]
client = redis.Redis.from_url(url)
subject = Sink(url, "s", inflight_requests_max=3, entry_bytes_max=4, commit_timeout_ms=300, level=level)
busy = Sink(f"redis://127.0.0.1:{loading()}", "s", level=level)
nobody = Sink("unix:///nonexistent/valkey.sock", "s", level=level)
for sink in (subject, nobody, busy):
    sink.watcher.start = lambda: None  # the threads of this process make no noise
    sink.batches._watch = lambda: None
reasons = []

def use(sink, *levels, lines=(b"1",)):
    tickets = []
    for asked in levels:
        try:
            tickets.append(sink.append(list(lines), asked))
        except SinkError as error:
            reasons.append(error.reason)
    for ticket in tickets:
        try:
            ticket.commit()
            ticket.addresses()
        except SinkError as error:
            reasons.append(error.reason)

def everything():
    use(subject, level)                                   # success
    use(subject, level, level, SYNCED)                    # a level that cannot be reached, on connecting
    subject.watcher.look()
    use(subject, SYNCED)                                  # and on appending
    subject.circuit._forget()
    use(subject, level, level, level, level)              # one too many: overloaded
    use(subject, level, lines=(b"1111", b"2222"))         # several entries
    subject.watcher.look()
    client.config_set("maxmemory", 1)                     # the commit fails, then each append is refused
    use(subject, STORED, STORED)
    use(subject, level)
    subject.watcher.look()
    client.config_set("maxmemory", 0)
    subject.watcher.look()
    client.execute_command("ACL", "SETUSER", "default", "-xadd")
    use(subject, STORED, STORED)
    subject.watcher.look()
    subject.watcher.readiness()
    client.execute_command("ACL", "SETUSER", "default", "+xadd")
    subject.watcher.look()
    client.execute_command("CLIENT", "PAUSE", 700, "WRITE")   # no answer: the outcome is unknown
    use(subject, STORED, STORED)
    use(subject, level)
    client.execute_command("CLIENT", "UNPAUSE")
    subject.watcher.look()
    use(nobody, STORED, STORED)                           # it cannot connect
    use(nobody, level)
    use(busy, STORED, STORED)                             # a reply after which redis-py hangs up
    for sink in (nobody, busy):
        sink.watcher.look()
        sink.watcher.readiness()
        sink.circuit._forget()
    client.client_kill_filter(_type="normal", skipme=True)    # the connections are closed in between
    subject.watcher.look()
    use(subject, STORED)

everything()
gc.disable()
gc.collect()
reasons.clear()
everything()
gc.set_debug(gc.DEBUG_SAVEALL)
found = gc.collect()
print(found, ",".join(sorted(set(reasons))))
for value in gc.garbage[:20]:
    print(type(value), str(value)[:150])
sys.stdout.flush()
"""


@pytest.mark.parametrize("driven", ["blocking", "loop"])
@pytest.mark.parametrize("level", [0, 1])
def test_errors_that_were_stored_and_raised_again_kept_their_frames_alive(level: int, driven: str) -> None:
    store = Store()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, store.url, str(level), driven],
            cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS,
        )  # fmt: skip
    finally:
        store.close()
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    count, reasons = first.split()
    assert int(count) == 0, rest
    assert {
        "durability-unavailable", "overloaded", "sink-unavailable", "sink-misconfigured", "sink-outcome-unknown",
    } <= set(reasons.split(","))  # fmt: skip
