"""The phased worker's life: drain, reload, recycling, heartbeat. No request that was written is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.worker_server import Client, Server, request, until

if TYPE_CHECKING:
    from collections.abc import Callable


def stop(server: Server) -> int:
    """Stop the only worker as it is, so that what is sent waits in the kernel; its pid."""
    pid: int
    (pid,) = server.workers()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: " T " in Path(f"/proc/{pid}/stat").read_text(), "the worker stops", server)
    return pid


def term(server: Server, pid: int) -> None:
    """TERM to the master while the worker ``pid`` is stopped; then let the worker go on, TERM pending."""
    server.process.send_signal(signal.SIGTERM)

    def pending() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd"))
        return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)

    until(pending, "TERM reaches the worker", server)
    os.kill(pid, signal.SIGCONT)


def test_term_answers_every_request_written_before_it_and_then_ends() -> None:
    with Server("--graceful-timeout", "20") as server:
        kept = [server.client() for _ in range(20)]
        for client in kept:
            assert client.get("/x").status == 200
        idle = [server.client() for _ in range(5)]
        for client in idle:
            assert client.get("/x").status == 200
        pid = stop(server)
        for number, client in enumerate(kept):
            client.send(request(f"/{number}", method="POST", body=b"b" * number))
        fresh = [server.client().send(request("/fresh")) for _ in range(5)]
        term(server, pid)
        for number, client in enumerate(kept):
            assert client.read().json()["bytes"] == number
            assert client.closed()
        assert [client.read().status for client in fresh] == [200] * 5
        assert all(client.closed() for client in idle)
        assert server.exited() == 0
        assert "cut off" not in server.log()
        for client in [*kept, *fresh, *idle]:
            client.sock.close()


def test_a_client_that_paused_for_a_moment_found_its_connection_closed_by_a_worker_that_ended() -> None:
    """Regression: each recycled worker, and each HUP, cost such clients a request."""
    limits: dict[str, float] = {"drain_idle_seconds": 25}
    with Server("--keep-alive", "60", limits=limits) as server, server.client() as client, server.client() as other:
        assert client.get("/x").status == 200
        server.process.terminate()
        until(lambda: other.get("/x").headers.get("connection") == "close", "the worker has begun to end", server)
        time.sleep(1)  # Fifty looks at what is idle.
        answer = client.get("/x")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.closed()
        assert server.exited() == 0


def test_term_waits_for_a_body_that_is_still_arriving() -> None:
    with Server("--graceful-timeout", "20") as server, server.client() as client, server.client() as other:
        client.send(request("/x", "Content-Length: 10", method="POST") + b"01234")
        assert other.get("/x").status == 200
        server.process.send_signal(signal.SIGTERM)
        assert other.closed()
        client.send(b"56789")
        answer = client.read()
        assert (answer.json()["body"], answer.headers["connection"]) == ("0123456789", "close")
        assert server.exited() == 0


def test_term_answers_pipelined_requests_that_were_read() -> None:
    with Server("--graceful-timeout", "20") as server, server.client() as client, server.client() as other:
        assert other.get("/x").status == 200
        assert client.get("/x").status == 200
        pid = stop(server)
        client.send(request("/slow?0.1") + request("/two") + request("/three"))
        term(server, pid)
        paths = [client.read().json()["environ"]["PATH_INFO"] for _ in range(3)]
        assert paths == ["/slow", "/two", "/three"]
        assert server.exited() == 0


def test_a_client_that_never_finishes_does_not_outlast_graceful_timeout() -> None:
    with Server("--graceful-timeout", "3") as server, server.client() as client, server.client() as other:
        client.send(request("/x", "Content-Length: 10", method="POST") + b"01234")
        assert other.get("/x").status == 200
        server.process.send_signal(signal.SIGTERM)
        assert client.closed()
        assert server.exited() == 0
        assert "1 requests were cut off" in server.log()
        assert "SIGKILL" not in server.log()


def test_a_large_answer_is_sent_to_its_end_during_the_drain() -> None:
    with Server("--graceful-timeout", "20") as server, server.client() as client:
        client.send(request("/stream?200"))
        client._fill()
        server.process.send_signal(signal.SIGTERM)
        assert len(client.read().body) == 200 * 50_000
        assert server.exited() == 0


def test_int_ends_at_once() -> None:
    with Server() as server, server.client() as client:
        client.send(request("/x", "Content-Length: 10", method="POST") + b"01234")
        server.process.send_signal(signal.SIGINT)
        assert client.closed()
        assert server.exited() == 0


class Load:
    """Clients that follow the rules of HTTP, in threads, until told to stop; counts what was answered.

    A request is lost where it was written on a connection and got no answer, unless the server had closed an idle
    keep-alive connection: a client cannot tell before it writes, so it may send such a request again (RFC 9112 section
    9.3.1), once, on a new connection.
    """

    def __init__(self, server: Server, clients: int = 8) -> None:
        self.server, self.over = server, threading.Event()
        self.answered = 0
        self.pids: set[int] = set()
        self.lost: list[str] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        until(lambda: self.answered > 50, "the load runs", self.server)
        return self

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number: int) -> None:
        client, used = self.server.client(), 0
        while not self.over.is_set():
            try:
                answer = client.get(f"/{number}", method="POST", body=b"b" * 400)
            except (ConnectionError, TimeoutError) as error:
                if not used or client.buffer:
                    self.lost.append(f"{type(error).__name__} {error} after {used} answers")
                client.sock.close()
                client, used = self.server.client(), 0
                continue
            used += 1
            with self.lock:
                self.answered += 1
                self.pids.add(answer.json()["pid"])
            if answer.headers.get("connection") == "close":
                client.sock.close()
                client, used = self.server.client(), 0
        client.sock.close()


def pids_change(server: Server, before: list[int]) -> Callable[[], bool]:
    return lambda: bool(server.workers()) and not set(server.workers()) & set(before)


def test_hup_under_load_loses_no_request() -> None:
    with Server("-w", "2", "--graceful-timeout", "20") as server, Load(server) as load:
        for _ in range(3):
            before = server.ready(2)
            server.process.send_signal(signal.SIGHUP)
            until(pids_change(server, before), "new workers", server)
            goal = load.answered + 100
            until(lambda goal=goal: load.answered > goal, "the load goes on", server)
    assert not load.lost


def test_max_requests_with_jitter_recycles_workers_and_loses_no_request() -> None:
    args = ("-w", "2", "--max-requests", "200", "--max-requests-jitter", "100", "--graceful-timeout", "20")
    with Server(*args) as server, Load(server) as load:
        until(lambda: len(load.pids) >= 5, "workers are recycled", server)
    assert not load.lost
    assert "Autorestarting worker" in server.log()


def test_ttin_and_ttou_under_load_lose_no_request() -> None:
    with Server("--graceful-timeout", "20") as server, Load(server) as load:
        for number, count in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
            server.process.send_signal(number)
            server.ready(count)
    assert not load.lost


def test_a_sibling_goes_on_accepting_after_a_worker_ended() -> None:
    with Server("-w", "2") as server:
        pids: set[int] = set()

        def both_serve() -> bool:
            with server.client() as one, server.client() as two:
                pids.update(client.get("/slow?0.01").json()["pid"] for client in (one, two))
            return len(pids) == 2

        until(both_serve, "both workers serve", server)
        os.kill(server.workers()[0], signal.SIGTERM)
        server.wait_for(r"Worker exiting \(pid: (\d+)\)")
        for _ in range(20):
            with server.client() as client:
                assert client.get("/x").status == 200


# Heartbeat.


def test_an_idle_worker_keeps_its_heartbeat() -> None:
    with Server("--timeout", "3") as server, server.client() as client:
        before = server.workers()
        client.sock.settimeout(5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        assert server.workers() == before
        assert client.get("/x").status == 200
        assert "WORKER TIMEOUT" not in server.log()


def test_a_busy_worker_keeps_its_heartbeat() -> None:
    with Server("--timeout", "3") as server:
        before = server.workers()
        clients = [server.client() for _ in range(10)]
        for client in clients:
            client.send(request("/slow?0.5"))
        assert [client.read().status for client in clients] == [200] * 10
        assert server.workers() == before
        assert "WORKER TIMEOUT" not in server.log()


def test_a_stuck_application_is_killed_by_gunicorns_timeout() -> None:
    with Server("--timeout", "2") as server, server.client() as client:
        before = server.workers()
        client.send(request("/slow?1000"))
        assert client.closed()
        server.wait_for("WORKER TIMEOUT")
        until(pids_change(server, before), "a new worker", server)
        with server.client() as other:
            assert other.get("/x").status == 200


def test_workers_end_when_the_master_is_gone() -> None:
    with Server() as server, server.client() as client:
        assert client.get("/x").status == 200
        (pid,) = server.workers()
        server.process.kill()
        server.process.wait()
        assert client.closed()
        until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text(), "it ends")


# What a client's leaving costs.


def test_a_client_that_goes_away_costs_a_debug_line_and_no_traceback() -> None:
    with Server("--log-level", "debug") as server:
        for data in (b"GET / HT", request("/x", "Content-Length: 9", method="POST"), request("/stream?500")):
            client = server.client().send(data)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if b"stream" in data:
                client._fill()
            else:
                with server.client() as other:
                    assert other.get("/x").status == 200
            client.sock.close()
        server.wait_for("a client went away in mid-request")
        with Client(server.address) as other:
            assert other.get("/x").status == 200
        assert "Traceback" not in server.log()
        assert "socket.send() raised" not in server.log()


def test_a_request_whose_client_left_at_once_is_processed_all_the_same() -> None:
    with Server() as server, server.client() as asking:
        leaver = server.client().send(request("/lazy?left", method="POST", body=b"b"))
        leaver.sock.close()
        until(lambda: asking.get("/told").json() == ["call left", "iterate left", "close left"], "it is done", server)


# The collector.


def test_no_collection_happens_inside_a_turn_and_cyclic_garbage_goes() -> None:
    conf = (
        "import gc, sys\n"
        "def note(phase, info):\n"
        "    frame = sys._getframe()\n"
        "    while frame and frame.f_code.co_name not in ('turn', 'sweep'): frame = frame.f_back\n"
        "    print('collect in', frame.f_code.co_name if frame else 'none', flush=True)\n"
        "def pre_request(worker, req):\n"
        "    if note not in gc.callbacks: gc.callbacks.append(note)\n"
    )
    with Server(conf=conf, limits={"collect_every_seconds": 1}) as server, server.client() as client:
        for _ in range(3_000):
            assert client.get("/x").status == 200
        server.wait_for("collect in sweep")
        assert "collect in turn" not in server.log()


def test_a_request_that_waited_while_the_worker_was_busy_is_not_taken_for_an_idle_connection() -> None:
    with Server("--keep-alive", "5") as server, server.client() as client:
        for _ in range(2):
            assert client.get("/x").status == 200
            # Stopped, so that the request is certain to wait for longer than an idle connection may.
            pid = stop(server)
            client.send(request("/x"))
            time.sleep(6)
            os.kill(pid, signal.SIGCONT)
            assert client.read().status == 200
