"""The table of states: each of its moves happens in a real run, no other does, and docs/design.md shows it.

``python -m tests.server.test_states`` writes the diagram into docs/design.md, between its two markers.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from tests.server.worker_server import Server, request, until
from wsgi.server.states import MEANINGS, NAMES, TRANSITIONS, moves

PAGE = Path(__file__).parent.parent.parent / "docs" / "design.md"
BEGIN = "<!-- states: drawn by tests/server/test_states.py -->"
END = "<!-- end of states -->"

NOTE_MOVES = """
from wsgi.server import connection, states
class Noted(dict):
    def __init__(self, event):
        super().__init__(states.moves(event))
        self.event = event
    def __getitem__(self, before):
        after = super().__getitem__(before)
        print('move', before, self.event, after, sep='|', flush=True)
        return after
for event in {row.event for row in states.TRANSITIONS}:
    for name, value in list(vars(states).items()):
        if type(value) is dict and name.isupper() and value == states.moves(event):
            for module in (connection, states):
                if hasattr(module, name):
                    setattr(module, name, Noted(event))
"""
"""gunicorn configuration that prints each move. No two events have the same moves."""


def drawn() -> str:
    """The states and their moves, for docs/design.md."""
    lines = ["| state | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in zip(NAMES, MEANINGS, strict=True)]
    lines += ["", "```mermaid", "stateDiagram-v2", "    [*] --> IDLE: accepted"]
    lines += [f"    {NAMES[row.before]} --> {NAMES[row.after]}: {row.event}" for row in TRANSITIONS]
    return "\n".join([*lines, "    GONE --> [*]", "```"])


def test_the_diagram_in_the_documentation_is_the_table_in_the_code() -> None:
    text = PAGE.read_text()
    if BEGIN in text:
        assert text.partition(BEGIN)[2].partition(END)[0].strip() == drawn()


def test_every_state_is_reached_and_left() -> None:
    states = range(len(NAMES))
    assert {row.after for row in TRANSITIONS} == set(states)
    assert {row.before for row in TRANSITIONS} == set(states) - {NAMES.index("GONE")}
    assert len({(row.before, row.event) for row in TRANSITIONS}) == len(TRANSITIONS)


def test_an_unknown_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such event"):
        moves("never")


def test_each_move_of_the_table_happens_and_no_other() -> None:
    limits: dict[str, float] = {"payload_bytes_max": 1_000}
    with Server("--keep-alive", "60", conf=NOTE_MOVES, limits=limits) as server:
        for data in (b"", b"GET /", request("/x", "Content-Length: 9", method="POST"), b"\n", request("/stream?2000")):
            with server.client() as client:
                client.send(data)
                if b"stream" in data:
                    client._fill()
        with server.client() as client:
            assert client.get("/x").status == 200
            client.send(request("/x") * 2 + request("/stream?40") + request("/x") + request("/stream?40"))
            assert [len(client.read().body) for _ in range(5)][2::2] == [2_000_000, 2_000_000]
            client.send(request("/x", "Content-Length: 3", method="POST"))
            assert client.send(b"abc").read().json()["body"] == "abc"
            assert client.send(b"GET / HT").sock.send(b"TP/1.1\r\nHost: x\r\n\r\n")
            assert client.read().status == 200
            assert client.get("/x", "Connection: close").status == 200
        chunked = request("/x", "Transfer-Encoding: chunked", method="POST")
        for data in (b"GET / HTTP/1.1\n", chunked, request("/never-starts")):
            with server.client() as client:
                client.send(data)
                if b"chunked" in data:
                    client.send(b"x\r\n")
                assert client.read().status >= 400
        with server.client() as client:
            client.send(request("/stream?40", "Connection: close"))
            assert len(client.read().body) == 2_000_000
        expected = {(row.before, row.event, row.after) for row in TRANSITIONS}

        def leave() -> bool:
            """Leave in the middle of a head, a body and a row of requests; the kernel decides what is seen first."""
            half = request("/x", "Content-Length: 9", method="POST")
            for data in (half[:20], half, request("/slow?0.1") * 3):
                client = server.client().send(data)
                with server.client() as other:
                    if b"slow" not in data:
                        assert other.get("/x").status == 200
                    time.sleep(0.05)
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    client.sock.close()
                    assert other.get("/x").status == 200
            return observed(server) == expected

        until(leave, "each move of the table happens, and no other", server)


def observed(server: Server) -> set[tuple[int, str, int]]:
    found = re.findall(r"^move\|(\d)\|(.*)\|(\d)$", server.log(), re.MULTILINE)
    return {(int(before), event, int(after)) for before, event, after in found}


def write() -> None:
    """Write the diagram into the documentation."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    if rest:
        PAGE.write_text(f"{before}{BEGIN}\n{drawn()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    write()
