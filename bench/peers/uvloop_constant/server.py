"""The bound of a Python server: uvloop and httptools, one process, a constant 202 to every request; stores nothing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httptools
import uvloop

BODY = b'{"status":"queued"}'
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Constant(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport's write, make a parser. (uvloop's transport does not derive from asyncio's.)"""
        self.write = transport.write
        self.parser = httptools.HttpRequestParser(self)
        self.feed = self.parser.feed_data

    def data_received(self, data: bytes) -> None:
        """Parse; the parser calls ``on_message_complete``."""
        self.feed(data)

    def on_message_complete(self) -> None:
        """Answer."""
        self.write(ANSWER)


async def main() -> None:
    """Serve until ended."""
    server = await asyncio.get_running_loop().create_server(
        Constant, "127.0.0.1", int(os.environ["BENCH_PORT"]), backlog=1024
    )
    await server.serve_forever()


uvloop.run(main())
