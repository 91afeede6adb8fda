"""Balance: connections are even over the workers within one, and nobody waits for a worker that does not take them.

Where a test must be certain of who took what, the workers are as patient as the test (``PATIENT``): then "within one"
holds whichever worker the system runs when. With the default patience it also takes a core for each worker.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import localhost
from tests.server.worker_server import Client, Server, request, until
from wsgi.server.balance import MANY, SLOTS, STALE_MS, Balance, Board, Patience, board_of, share

PATIENT: dict[str, float] = {"balance_seconds": 50}
"""Longer than any test here may take to be served, and shorter than a client of the tests waits."""
SOON_SECONDS = 20
"""For an answer that must not take PATIENT's time, on a busy machine."""
ARGS = ("-w", "2", "--log-level", "debug", "--keep-alive", "600", "--graceful-timeout", "20")


def opened(server: Server, count: int, *, burst: bool) -> list[Client]:
    """Open connections, all at once or each after the last one was served."""
    clients = []
    for _ in range(count):
        clients.append(server.client())
        if not burst:
            served_by(clients[-1:])
    return clients


def served_by(clients: list[Client]) -> Counter[int]:
    """Ask each connection for its worker's pid; how many each worker has."""
    for client in clients:
        client.send(request("/x"))
    return Counter(client.read().json()["pid"] for client in clients)


def close(clients: list[Client]) -> None:
    """Close connections, and wait until their workers have: those have counted it then."""
    for client in clients:
        client.sock.shutdown(socket.SHUT_WR)
    for client in clients:
        assert client.closed()
        client.sock.close()


def balanced(server: Server, count: int) -> list[int]:
    """Wait until ``count`` workers count one another; their pids."""
    pids = server.ready(count)
    for pid in pids:
        server.wait_for(rf"\[{pid}\] \[DEBUG\] Accepting, balanced in slot \d+")
    return pids


def spread(server: Server, clients: list[Client], workers: int) -> list[int]:
    """How many connections each worker has, the most first; a worker without any counts too."""
    counts = served_by(clients)
    assert set(counts) <= set(server.workers())
    return sorted([*counts.values(), *[0] * (workers - len(counts))], reverse=True)


def even(count: int, workers: int) -> list[int]:
    return [count // workers + (number < count % workers) for number in range(workers)]


# Within one.


@pytest.fixture(scope="module")
def two() -> Iterator[Server]:
    with Server(*ARGS, limits=PATIENT) as server:
        balanced(server, 2)
        yield server


@pytest.fixture(scope="module")
def three() -> Iterator[Server]:
    with Server(*ARGS, "-w", "3", limits=PATIENT) as server:
        balanced(server, 3)
        yield server


@pytest.mark.parametrize("burst", [True, False], ids=["burst", "one by one"])
@pytest.mark.parametrize("count", [2, 4, 8, 16, 64])
def test_connections_are_even_over_two_workers(two: Server, count: int, burst: bool) -> None:
    """Regression: 4 keep-alive connections were 4 : 0, 8 were 8 : 0, 64 were 41 : 23."""
    clients = opened(two, count, burst=burst)
    assert spread(two, clients, 2) == even(count, 2)
    close(clients)


@pytest.mark.parametrize("burst", [True, False], ids=["burst", "one by one"])
@pytest.mark.parametrize("count", [2, 4, 8, 16, 64])
def test_connections_are_even_over_three_workers(three: Server, count: int, burst: bool) -> None:
    clients = opened(three, count, burst=burst)
    assert spread(three, clients, 3) == even(count, 3)
    close(clients)


def test_a_burst_that_waited_for_all_workers_is_shared_evenly(two: Server) -> None:
    pids = two.workers()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    clients = opened(two, 64, burst=True)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert spread(two, clients, 2) == [32, 32]
    close(clients)


def test_connections_that_left_are_made_up_for(two: Server) -> None:
    clients = opened(two, 16, burst=False)
    by_pid: dict[int, list[Client]] = {}
    for client in clients:
        by_pid.setdefault(client.get("/x").json()["pid"], []).append(client)
    (first, leavers), (_, others) = by_pid.items()
    close(leavers[:7])
    fresh = opened(two, 7, burst=True)
    assert served_by(fresh) == {first: 7}
    close([leavers[7], *others, *fresh])


def test_connections_at_a_unix_socket_are_even(tmp_path: Path) -> None:
    """The system does not say how many wait there: so they are taken one at a time."""
    path = str(tmp_path / "socket")
    with Server(*ARGS, binds=(f"unix:{path}",), limits=PATIENT) as server:
        balanced(server, 2)
        clients = []
        for _ in range(16):
            clients.append(Client(path))
            served_by(clients[-1:])
        assert spread(server, clients, 2) == [8, 8]
        clients += [Client(path) for _ in range(64)]
        assert spread(server, clients, 2) == [40, 40]
        for client in clients:
            client.sock.close()


def test_connections_at_several_listeners_are_even_in_all() -> None:
    with Server(*ARGS, binds=("127.0.0.1:0",) * 7, limits=PATIENT) as server:
        balanced(server, 2)
        assert len(server.addresses) == 7
        clients = [Client(server.addresses[number % 7]) for number in range(63)]
        assert spread(server, clients, 2) == [32, 31]
        close(clients)


# Workers that come and go.


@pytest.mark.parametrize("ends", ["TERM", "KILL", "max_requests"])
def test_new_connections_fill_a_new_worker(ends: str) -> None:
    args = ("--max-requests", "300") if ends == "max_requests" else ()
    with Server(*ARGS, *args, limits=PATIENT) as server:
        balanced(server, 2)
        clients = opened(server, 16, burst=False)
        pids = served_by(clients)
        assert sorted(pids.values()) == [8, 8]
        (old, new) = (client.get("/x").json()["pid"] for client in clients[:2])
        assert old != new
        if ends == "max_requests":
            while clients[0].get("/x").headers.get("connection") != "close":
                pass
        else:
            os.kill(old, getattr(signal, f"SIG{ends}"))
        until(lambda: old not in server.workers(), "the worker ends", server)
        balanced(server, 2)
        left = [client for client in clients if client not in gone(clients)]
        assert served_by(left) == {new: 8}
        fresh = opened(server, 8, burst=True)
        assert spread(server, [*left, *fresh], 2) == [8, 8]
        assert served_by(fresh).keys() == set(server.workers()) - {new}
        for client in [*clients, *fresh]:
            client.sock.close()


def gone(clients: list[Client]) -> list[Client]:
    """Those of the connections that their worker has closed, which has ended."""
    closed = []
    for client in clients:
        client.sock.setblocking(False)
        try:
            if client.sock.recv(1) == b"":
                closed.append(client)
        except BlockingIOError:
            pass
        except ConnectionError:
            closed.append(client)
        client.sock.settimeout(60)
    return closed


def test_workers_of_a_reload_do_not_wait_for_those_that_end() -> None:
    with Server(*ARGS, "--graceful-timeout", "60", limits=PATIENT) as server:
        before = balanced(server, 2)
        unfinished = opened(server, 2, burst=False)
        for client in unfinished:  # Keeps its worker, with one connection, for longer than this test may take.
            client.send(request("/x", "Content-Length: 10", method="POST") + b"01234")
        server.process.send_signal(signal.SIGHUP)
        for pid in before:
            server.wait_for(rf"\[{pid}\] \[DEBUG\] Accepting no more")
        until(lambda: len(server.workers()) == 4, "new workers", server)
        balanced(server, 4)
        began = time.monotonic()
        fresh = opened(server, 8, burst=True)
        assert sorted(served_by(fresh).values()) == [4, 4]
        assert time.monotonic() - began < SOON_SECONDS
        assert not set(served_by(fresh)) & set(before)
        for client in unfinished:
            assert client.send(b"56789").read().json()["body"] == "0123456789"
            client.sock.close()
        close(fresh)


# Nobody waits for a worker that takes no connections.


def stopped(server: Server) -> int:
    """Stop one of two workers; its pid."""
    pid = balanced(server, 2)[0]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: " T " in Path(f"/proc/{pid}/stat").read_text(), "the worker stops", server)
    return pid


def test_a_stopped_worker_is_left_alone_after_a_moment() -> None:
    """With the default patience, a few milliseconds each. Here no worker is ever stale, which would also help."""
    with Server(*ARGS, conf="from wsgi.server import balance\nbalance.STALE_MS = 10**9") as server:
        pid = stopped(server)
        began = time.monotonic()
        clients = opened(server, 20, burst=False)
        one_by_one = time.monotonic() - began
        more = opened(server, 64, burst=True)
        assert pid not in served_by(clients + more)
        assert one_by_one / 20 < 1, "each took a second"
        os.kill(pid, signal.SIGCONT)
        fresh = opened(server, 60, burst=False)
        assert served_by(fresh)[pid] > 30, "who has least gets the next ones, once it goes on"
        close(clients + more + fresh)


def test_a_worker_looks_again_as_soon_as_a_connection_of_its_own_ends() -> None:
    """Regression: with one request a connection, both workers slept, each because it had more at its last look."""
    conf = "from wsgi.server import acceptor, balance\nbalance.STALE_MS = 10**9\nacceptor.LOOK_SECONDS = 10**6"
    with Server(*ARGS, conf=conf, limits=PATIENT) as server:
        balanced(server, 2)
        by_pid: dict[int, list[Client]] = {pid: [] for pid in server.workers()}
        for client in opened(server, 4, burst=False):
            by_pid[client.get("/x").json()["pid"]].append(client)
        pid = balanced(server, 2)[0]
        close(by_pid[pid][:1])
        assert stopped(server) == pid
        (running,) = by_pid.keys() - {pid}
        late = server.client().send(request("/x"))
        time.sleep(0.5)  # The running worker leaves it to the other one.
        close(by_pid[running][:1])
        assert late.read().json()["pid"] == running
        os.kill(pid, signal.SIGCONT)
        close([by_pid[pid][1], by_pid[running][1], late])


def test_nobody_waits_for_a_worker_that_gave_no_sign_of_life_for_seconds() -> None:
    with Server(*ARGS, limits=PATIENT) as server:
        pid = stopped(server)
        began = time.monotonic()
        clients = opened(server, 8, burst=True)
        assert served_by(clients)[pid] == 0
        assert STALE_MS / 1000 - 2 < time.monotonic() - began < SOON_SECONDS
        os.kill(pid, signal.SIGCONT)
        close(clients)


def test_nobody_waits_for_a_worker_that_is_full() -> None:
    with Server(*ARGS, limits={**PATIENT, "connections_max": 4}) as server:
        balanced(server, 2)
        began = time.monotonic()
        clients = opened(server, 9, burst=True)
        assert spread(server, clients[:8], 2) == [4, 4]
        close(clients[:1])
        assert clients[8].get("/x").status == 200
        assert time.monotonic() - began < SOON_SECONDS
        close(clients[1:])


def test_nobody_waits_for_a_worker_that_is_out_of_descriptors() -> None:
    conf = (
        "def post_worker_init(worker):\n"
        "    import os, resource\n"
        "    if worker.age == 1:\n"
        "        highest = max(map(int, os.listdir('/proc/self/fd')))\n"
        "        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 6, highest + 6))\n"
        "    worker.log.info('Ready: %s', worker.pid)\n"
    )
    with Server(*ARGS, conf=conf, limits=PATIENT) as server:
        balanced(server, 2)
        began = time.monotonic()
        clients = opened(server, 32, burst=True)
        counts = served_by(clients)
        assert min(counts.values(), default=0) < 8, "it did not run out"
        assert time.monotonic() - began < SOON_SECONDS
        close(clients)


def test_workers_with_sockets_of_their_own_do_not_wait_for_one_another() -> None:
    """The kernel chooses the worker then, and no other one can take the connection."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        address = reserved.getsockname()
        own_sockets(address)


def own_sockets(address: tuple[str, int]) -> None:
    """Have two workers listen at an address, each for itself."""
    with Server(*ARGS, "--reuse-port", binds=(f"{address[0]}:{address[1]}",), limits=PATIENT) as server:
        for pid in server.ready(2):
            server.wait_for(rf"\[{pid}\] \[DEBUG\] Accepting, balanced in slot None")
        began = time.monotonic()
        clients = [Client(address) for _ in range(32)]
        assert sum(served_by(clients).values()) == 32
        assert time.monotonic() - began < SOON_SECONDS
        close(clients)


def test_more_workers_than_slots_take_connections_unasked() -> None:
    with Server(*ARGS, conf="from wsgi.server import balance\nbalance.SLOTS = 1", limits=PATIENT) as server:
        pids = server.ready(2)
        slots = {server.wait_for(rf"\[{pid}\] \[DEBUG\] Accepting, balanced in slot (\w+)") for pid in pids}
        assert slots == {"0", "None"}
        began = time.monotonic()
        clients = opened(server, 16, burst=True)
        assert sum(served_by(clients).values()) == 16
        assert time.monotonic() - began < SOON_SECONDS
        close(clients)


# What is counted, and what it costs.


def test_a_handshake_that_failed_is_no_connection(tmp_path: Path) -> None:
    authority, (cert, key) = localhost(tmp_path)
    tls = ssl.create_default_context(cafile=authority)
    limits: dict[str, float] = {"connections_max": 2}
    with Server("--certfile", cert, "--keyfile", key, limits=limits) as server:
        for _ in range(5):
            with server.client() as client:
                client.send(b"GET / HTTP/1.1\r\n\r\n")
                client.closed()
        with server.client(tls=tls) as one, server.client(tls=tls) as other:
            assert (one.get("/x").status, other.get("/x").status) == (200, 200)


def switches(pid: int) -> int:
    """How often a process has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_nothing_wakes_a_worker_while_nobody_connects(two: Server) -> None:
    clients = opened(two, 16, burst=True)
    served_by(clients)
    before = {pid: switches(pid) for pid in two.workers()}
    time.sleep(3)
    after = {pid: switches(pid) for pid in two.workers()}
    close(clients)
    assert max(after[pid] - before[pid] for pid in before) < 100, "it looks around every millisecond"


# The parts.


class Seats(Board):
    """Gives each one who asks the next slot: a process could claim one slot only."""

    taken = 0

    def claim(self) -> int | None:
        self.taken += 1
        return self.taken * 8


class Queue:
    """A listen backlog, and workers that follow the rule step by step, in any order."""

    def __init__(self, workers: int) -> None:
        board = Seats()
        self.waiting = 0
        self.balances = [Balance(board) for _ in range(workers)]
        self.steps = [self.work(balance) for balance in self.balances]

    def work(self, balance: Balance) -> Iterator[None]:
        """Accept for ever; a sibling may do anything at each yield."""
        while True:
            if balance.has_least():
                allowed = 1
            else:
                others = balance.others()
                yield
                allowed = share(balance.open, others, self.waiting)
            yield
            for _ in range(allowed):
                if not self.waiting:
                    break
                self.waiting -= 1
                yield
                balance.accepted(0)
                yield
            yield


@given(st.integers(2, 5), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=300))
def test_connections_are_even_in_whatever_order_the_workers_run(workers: int, order: list[tuple[int, int]]) -> None:
    queue = Queue(workers)
    for who, count in order:
        if who < workers:
            next(queue.steps[who])
        else:
            queue.waiting += count
    for _ in range(20 * (queue.waiting + 10)):
        for steps in queue.steps:
            next(steps)
    assert queue.waiting == 0
    counts = [balance.open for balance in queue.balances]
    assert max(counts) - min(counts) <= 1


@given(st.integers(0, 50), st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 200))
def test_a_share_is_what_pouring_one_by_one_gives(mine: int, others: list[int], waiting: int) -> None:
    counts = [mine, *others]
    for _ in range(waiting):
        counts[counts.index(min(counts))] += 1
    assert share(mine, others, waiting) == max(min(counts) - mine, 0)


def test_a_connection_is_overdue_once_it_has_waited_and_no_younger_one_is() -> None:
    patience = Patience(2)
    assert patience.overdue(100, 3, 10.0) == 0
    assert patience.overdue(101, 5, 11.0) == 0
    assert patience.overdue(101, 5, 11.9) == 0
    assert patience.overdue(101, 6, 12.0) == 2, "of the first three, one was taken"
    assert patience.overdue(102, 5, 12.1) == 1
    assert patience.overdue(103, 4, 12.2) == 0
    assert patience.overdue(103, 4, 13.0) == 3, "those that came before 11.0"
    assert patience.overdue(106, 1, 13.1) == 0
    assert patience.overdue(106, 1, 13.9) == 0
    assert patience.overdue(106, 1, 14.0) == 1
    assert patience.overdue(107, 1, 14.1) == 0, "this one has just come"


def test_the_notes_of_who_waits_are_bounded_by_who_waits() -> None:
    patience = Patience(1_000)
    for count in range(500):
        for _ in range(3):
            patience.overdue(count, 10 + count % 2, count / 10)
    assert len(patience._seen) <= 11


def test_whoever_came_after_a_pause_has_not_waited_through_it() -> None:
    patience = Patience(2)
    assert patience.overdue(0, MANY, 10.0) == 0
    patience.reset()
    assert patience.overdue(1, MANY, 100.0) == 0
    assert patience.overdue(1, MANY, 102.0) == MANY
    patience.reset()
    assert patience.overdue(9, 1, 200.0) == 0


def test_a_worker_that_takes_none_or_is_stale_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic_ns()]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    board = Seats()
    one, other = Balance(board), Balance(board)
    one.accepted(0)
    assert (one.has_least(), one.others(), other.others()) == (False, [0], [1])
    now[0] += 1
    other.takes(False)
    assert (one.has_least(), one.others(), other.others()) == (True, [], [1])
    now[0] += 1
    other.takes(True)
    assert one.others() == [0]
    now[0] += (STALE_MS - 1) * 1_000_000
    one.tick()
    assert one.others() == [0]
    now[0] += 1_000_000
    one.tick()
    assert one.others() == []
    other.tick()
    one.tick()
    assert one.others() == [0]


def test_accepts_are_counted_by_listener_and_outlast_the_worker() -> None:
    board = Seats()
    one, other = Balance(board), Balance(board)
    one.accepted(0)
    one.accepted(1)
    other.accepted(1)
    other.left()
    other.takes(False)
    one.tick()
    assert [one.accepted_by_all(listener) for listener in range(3)] == [1, 2, 0]
    assert (one.open, other.open) == (2, 0)


def claimed(board: Board) -> tuple[int, int]:
    """A process that claims a slot and lives on: its pid, and the slot; -1 for none."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        slot = Balance(board).slot
        os.write(write, b"%d\n" % (-1 if slot is None else slot))
        while True:
            signal.pause()
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        return pid, int(answer.readline())


def test_the_slot_of_a_process_is_free_however_that_ended() -> None:
    board = Board()
    pids = []
    try:
        for slot in range(3):
            pid, found = claimed(board)
            pids.append(pid)
            assert found == slot
        os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids.pop(1), 0)
        for slot in (1, 3):
            pid, found = claimed(board)
            pids.append(pid)
            assert found == slot
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_each_master_has_a_board_of_its_own() -> None:
    assert board_of(-1) is board_of(-1)
    assert board_of(-1) is not board_of(-2)
    assert len(board_of(-1).words) == (1 + SLOTS) * 8
