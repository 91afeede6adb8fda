"""Accepting: from gunicorn's listening sockets to connections in the loop, TLS included.

What lives here: what all requests of one listener have in common (the fixed part of the environ, whom to trust). What
must not: anything about one request.

The sockets are shared with the sibling workers, and whoever polls first accepts. uvloop's own server would take a whole
burst at once and leave the siblings idle; so a few are accepted, then the loop reads on, and is called again.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import Any
from wsgiref.util import FileWrapper

from gunicorn import SERVER_SOFTWARE
from gunicorn import sock as gunicorn_sock
from gunicorn.http.wsgi import WSGIErrorsWrapper

from wsgi.server.connection import Connection
from wsgi.server.head import Site
from wsgi.server.shared import ServerState

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""accept() errors that leave the connection in the backlog: try again when something is freed."""


class Acceptor:
    """A worker's listeners. ``accepting``: connections accepted, but not yet with the loop. ``cfg``: gunicorn's."""

    def __init__(self, server: ServerState, loop: asyncio.AbstractEventLoop, cfg: Any) -> None:
        self.server, self.loop, self.cfg = server, loop, cfg
        self.ssl_context = gunicorn_sock.ssl_context(cfg) if cfg.is_ssl else None
        self.accepting = 0
        server.on_leave = self.resume
        self._paused = False
        self._listeners: list[tuple[socket.socket, dict[bool, Site]]] = []

    def listen(self, listener: Any) -> None:
        """Accept from a copy of gunicorn's socket: closing it here leaves the siblings' alone."""
        copy = listener.sock.dup()
        copy.setblocking(False)
        unix = copy.family == socket.AF_UNIX
        name = listener.getsockname()
        host, port = ("", "") if unix else (str(name[0]), str(name[1]))
        environ = {
            "wsgi.errors": WSGIErrorsWrapper(self.cfg),
            "wsgi.version": (1, 0),
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "wsgi.url_scheme": "https" if self.ssl_context else "http",
            "wsgi.input": None,
            "SERVER_SOFTWARE": SERVER_SOFTWARE,
            "SERVER_NAME": host or "localhost",
            "SERVER_PORT": port or "80",
            "SCRIPT_NAME": os.environ.get("SCRIPT_NAME", ""),
            "REMOTE_ADDR": "",
            "REMOTE_PORT": "",
        }
        if unix:
            del environ["REMOTE_PORT"]
        limits = self.server.limits
        sites = {
            trusted: Site(
                environ, self.cfg, trusted=trusted, unix=unix,
                fast_bytes_max=limits.big_bytes, head_bytes_max=limits.head_bytes_max,
            )
            for trusted in (False, True)
        }  # fmt: skip
        self._listeners.append((copy, sites))
        self._watch(copy, sites)

    def _accept(self, listener: socket.socket, sites: dict[bool, Site], most: int) -> int:
        """Accept up to ``most`` connections; return how many there were."""
        for count in range(most):
            if len(self.server.connections) + self.accepting >= self.server.limits.connections_max:
                self._pause()
                return count
            try:
                sock, address = listener.accept()
            except OSError as error:  # None is waiting, a sibling was faster, or the client is gone ...
                if error.errno in EXHAUSTED:  # ... or it still waits, and the loop would spin on it.
                    self._pause()
                return count
            sock.setblocking(False)
            trusted = not isinstance(address, tuple) or self._trusts(address[0])
            connection = self._connection(sites[trusted], address)
            self.accepting += 1
            self.loop.create_task(self._adopt(connection, sock))
        return most

    def _trusts(self, address: str) -> bool:
        """Return whether a peer may set forwarding headers (``forwarded_allow_ips``)."""
        if "*" in self.cfg.forwarded_allow_ips:
            return True
        peer = ipaddress.ip_address(address.partition("%")[0])
        return any(peer in network for network in self.cfg.forwarded_allow_networks())

    def _connection(self, site: Site, address: Any) -> Connection:
        if isinstance(address, tuple):
            return Connection(self.server, site, str(address[0]), str(address[1]))
        return Connection(self.server, site, "", "")

    async def _adopt(self, connection: Connection, sock: socket.socket) -> None:
        """Give an accepted socket to the loop, with TLS's handshake where configured."""
        timeout = self.server.limits.head_seconds if self.ssl_context else None
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self.ssl_context, ssl_handshake_timeout=timeout
            )
        except (OSError, TimeoutError, EOFError) as error:
            self.server.log.debug("a connection ended before its first request: %s", error)
            sock.close()
        finally:
            self.accepting -= 1

    def _pause(self) -> None:
        """Leave connections in the backlog, where a sibling may take them."""
        if not self._paused:
            self._paused = True
            for listener, _ in self._listeners:
                self.loop.remove_reader(listener.fileno())

    def resume(self) -> None:
        """Accept again if there is room: call it when a connection is gone, and once a second."""
        if self._paused and len(self.server.connections) + self.accepting < self.server.limits.connections_max:
            self._paused = False
            for listener, sites in self._listeners:
                self._watch(listener, sites)

    def _watch(self, listener: socket.socket, sites: dict[bool, Site]) -> None:
        self.loop.add_reader(listener.fileno(), self._accept, listener, sites, self.server.limits.accepts_per_poll)

    def accept_all(self) -> None:
        """Accept what waits in the backlogs: before a drain, since nobody may do it later."""
        for listener, sites in self._listeners:
            self._accept(listener, sites, self.server.limits.connections_max)

    def close(self) -> None:
        """Accept no more. The siblings' copies of the sockets go on."""
        for listener, _ in self._listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners = []
