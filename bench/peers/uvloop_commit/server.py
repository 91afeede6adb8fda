"""The bound of Inlet's approach in Python: the least that stores a record, with nothing checked and nothing bounded.

Two processes, each a uvloop protocol: find the end of the head and Content-Length, parse the body with ujson, write the
five members anew, and send what arrived in one turn of the loop as one XADD; answer 202 at its reply. It has no limits,
no deadlines, no errors, no metrics and no WSGI, checks neither the head nor the record, and fails on anything
but the benchmark's own requests. What Inlet takes beyond this is what those things cost.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import hiredis
import ujson
import uvloop

BODY = b'{"status":"queued"}'
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LENGTH = b"\r\nContent-Length: "


class Store(asyncio.Protocol):
    """One connection to the store, with the requests of one XADD after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.lines: list[bytes] = []
        self.waiting: list[Any] = []
        self.sent: list[list[Any]] = []
        self.replies = hiredis.Reader()

    def connection_made(self, transport: Any) -> None:
        """Keep the transport's write."""
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        """Answer the requests of each XADD whose reply is here."""
        self.replies.feed(data)
        while (reply := self.replies.gets()) is not False:
            if isinstance(reply, Exception):
                raise reply
            for client in self.sent.pop(0):
                if not client.is_closing():  # write() would raise, and end this connection
                    client.write(ANSWER)

    def append(self, line: bytes, client: Any) -> None:
        """Add a line to this turn's XADD."""
        if not self.lines:
            self.loop.call_soon(self.commit)
        self.lines.append(line)
        self.waiting.append(client)

    def commit(self) -> None:
        """Send the lines of this turn."""
        block, count = b"\n".join(self.lines), b"%d" % len(self.lines)
        self.write(
            b"*7\r\n$4\r\nXADD\r\n$4\r\nlogs\r\n$1\r\n*\r\n$1\r\nr\r\n$%d\r\n%b\r\n$1\r\nn\r\n$%d\r\n%b\r\n"
            % (len(block), block, len(count), count)
        )
        self.sent.append(self.waiting)
        self.lines, self.waiting = [], []


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, store: Store) -> None:
        self.append = store.append
        self.rest = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take every whole request."""
        if self.rest:
            data = self.rest + data
        at = 0
        while (end := data.find(b"\r\n\r\n", at)) >= 0:
            start = data.find(LENGTH, at, end + 2)
            length = int(data[start + len(LENGTH) : data.find(b"\r\n", start + 2)]) if start >= 0 else 0
            after = end + 4 + length
            if len(data) < after:
                break
            value = ujson.loads(data[end + 4 : after])
            members = value["event_id"], value["timestamp"], value["service"], value["message"], value["metadata"]
            line = ujson.dumps(members, ensure_ascii=False, escape_forward_slashes=False).encode()
            self.append(line, self.transport)
            at = after
        self.rest = data[at:]


async def main(listening: socket.socket) -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()
    _, store = await loop.create_unix_connection(Store, os.environ["BENCH_REDIS_SOCKET"])
    server = await loop.create_server(lambda: Connection(store), sock=listening, backlog=1024)
    await server.serve_forever()


listening = socket.create_server(("127.0.0.1", int(os.environ["BENCH_PORT"])), backlog=1024)
os.fork()
uvloop.run(main(listening))
