"""Accepting: from gunicorn's listening sockets to connections in the loop, TLS included.

What lives here: what all requests of one listener have in common (the fixed part of the environ, whom to trust). What
must not: anything about one request.

The sockets are shared with the sibling workers, and all of them poll. uvloop's own server would take a whole burst at
once; so a few are accepted, then the loop reads on. Whether the next one is a sibling's to take is decided in
``wsgi.server.balance``. If so, this worker looks again when another one comes, when one of its own connections ends,
and after a millisecond; until then it sleeps, which takes an edge-triggered poll.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import select
import socket
import sys
import time
from functools import partial
from typing import Any
from wsgiref.util import FileWrapper

from gunicorn import SERVER_SOFTWARE
from gunicorn import sock as gunicorn_sock
from gunicorn.http.wsgi import WSGIErrorsWrapper

from wsgi.server.balance import MANY, Balance, Board, Patience, share
from wsgi.server.connection import Connection
from wsgi.server.head import Site
from wsgi.server.shared import ServerState
from wsgi.server.states import IDLE
from wsgi.server.tls import TlsLayer, secure

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""accept() errors that leave the connection in the backlog: try again when something is freed."""
LOOK_SECONDS = 0.001
"""Between two looks at connections that are left to a sibling: uvloop's timers count milliseconds."""
TCP_INFO_UNACKED = slice(24, 28)
"""Where ``tcpi_unacked`` is in Linux's ``struct tcp_info``: of a listening socket, the length of its accept queue."""


class Listener:
    """A listening socket. ``edges``: its edge-triggered poll, where connections are balanced.

    ``timer``: runs while connections that wait are left to the siblings. ``soon``: whether a look is scheduled.
    ``tcp``: whether the system may say how many connections wait; ``counts``: whether it has, as some sandboxes do not.
    """

    __slots__ = ("counts", "edges", "number", "patience", "sites", "sock", "soon", "tcp", "timer")

    def __init__(self, number: int, sock: socket.socket, sites: dict[bool, Site], patience: Patience) -> None:
        self.number, self.sock, self.sites, self.patience = number, sock, sites, patience
        self.edges: select.epoll | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.soon = self.counts = False
        self.tcp = sys.platform == "linux" and sock.family != socket.AF_UNIX

    def watch_edges(self) -> None:
        """Have ``fileno`` become readable once for each connection that comes, and not for as long as one waits."""
        self.edges = select.epoll()
        self.edges.register(self.sock, select.EPOLLIN | select.EPOLLET)

    def fileno(self) -> int:
        """Return what the loop polls."""
        return (self.edges or self.sock).fileno()

    def close(self) -> None:
        """Close this worker's copy."""
        if self.edges is not None:
            self.edges.close()
        self.sock.close()

    def waiting(self) -> tuple[int, int]:
        """Return how many connections wait to be accepted: at least, and at most, where the system does not say."""
        if self.tcp:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_UNACKED.stop)
            count = int.from_bytes(info[TCP_INFO_UNACKED], sys.byteorder)
            self.counts = self.counts or count > 0
            if self.counts:
                return count, count
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return (1, MANY) if poll.poll(0) else (0, 0)


class Acceptor:
    """A worker's listeners. ``accepting``: connections accepted, but not yet with the loop. ``cfg``: gunicorn's.

    ``board``: shared with the workers that poll the same sockets. With ``reuse_port`` each worker has its own sockets,
    and the kernel spreads the connections.
    """

    def __init__(self, server: ServerState, loop: asyncio.AbstractEventLoop, cfg: Any, board: Board) -> None:
        self.server, self.loop, self.cfg = server, loop, cfg
        self.ssl_context = secure(gunicorn_sock.ssl_context(cfg)) if cfg.is_ssl else None
        self.accepting = 0
        server.on_leave = self._left
        self._paused = False
        self._listeners: list[Listener] = []
        self.balanced = server.limits.balance_seconds > 0 and not cfg.reuse_port and sys.platform == "linux"
        self.balance = Balance(board if self.balanced else Board())
        server.log.debug("Accepting, balanced in slot %s", self.balance.slot if self.balanced else None)

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
            **self.server.environ,
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
        added = Listener(len(self._listeners), copy, sites, Patience(limits.balance_seconds))
        if self.balanced:
            added.watch_edges()
        self._listeners.append(added)
        self._watch(added)

    def _polled(self, listener: Listener) -> None:
        """Accept when a connection has come."""
        if listener.edges is not None:
            listener.edges.poll(0, 1)  # Sleep until the next one comes.
        if not listener.soon:
            self._accept(listener)

    def _accept(self, listener: Listener) -> None:
        """Accept a few connections, and leave the rest to the siblings if it is their turn."""
        balance = self.balance
        listener.soon = False
        allowed = 0
        for _ in range(self.server.limits.accepts_per_poll):
            if not allowed:
                allowed = 1 if balance.has_least() else self._allowed(listener)
            if not allowed or not self._accept_one(listener):
                return
            allowed -= 1
        self._accept_soon(listener)

    def _accept_soon(self, listener: Listener) -> None:
        """Accept after what is readable has been read."""
        if not listener.soon and listener.edges is not None:  # Else the loop polls again, and finds what waits.
            listener.soon = True
            self.loop.call_soon(self._accept_now, listener)

    def _accept_now(self, listener: Listener) -> None:
        """Accept without an event: what came before may still wait."""
        if self._paused or listener not in self._listeners:
            listener.soon = False
        else:
            self._accept(listener)

    def _allowed(self, listener: Listener) -> int:
        """Return how many connections may be accepted though a sibling has fewer; look again later if none."""
        least, most = listener.waiting()
        if most:
            others = self.balance.others()  # Before what waits, so that is asked again: see wsgi.server.balance.
            accepted = self.balance.accepted_by_all(listener.number)
            least, most = listener.waiting()
        if not most:
            listener.patience.reset()
            return 0
        overdue = listener.patience.overdue(accepted, most, time.monotonic())
        allowed = max(share(self.balance.open, others, least), overdue)
        if not allowed and listener.timer is None:
            listener.timer = self.loop.call_later(LOOK_SECONDS, self._look, listener)
        return allowed

    def _look(self, listener: Listener) -> None:
        """Look at connections that were left to the siblings for a moment."""
        listener.timer = None
        self._accept(listener)

    def _accept_one(self, listener: Listener) -> bool:
        """Accept a connection; return whether there was one, and room for it."""
        if self.balance.open >= self.server.limits.connections_max:
            self._pause()
            return False
        try:
            sock, address = listener.sock.accept()
        except BlockingIOError:  # None is waiting, or a sibling was faster.
            listener.patience.reset()
            return False
        except OSError as error:
            if error.errno in EXHAUSTED:  # It still waits, and the loop would spin on it.
                self._pause()
            else:  # The client is gone; others may wait behind it.
                self._accept_soon(listener)
            return False
        self.balance.accepted(listener.number)
        sock.setblocking(False)
        trusted = not isinstance(address, tuple) or self._trusts(address[0])
        connection = self._connection(listener.sites[trusted], address)
        self.accepting += 1
        self.loop.create_task(self._adopt(connection, sock))
        return True

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
        """Give an accepted socket to the loop. With TLS, the connection is not with it until the handshake is done."""
        settled = partial(self._settled, connection)
        layer: TlsLayer | None = None
        if self.ssl_context is not None:
            layer = TlsLayer(self.ssl_context, self.loop, connection, settled, self.server.limits.head_seconds)
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.loop.connect_accepted_socket(lambda: layer or connection, sock)
        except (OSError, TimeoutError, EOFError) as error:
            self.server.log.debug("a connection ended before its first request: %s", error)
            sock.close()
            if layer is not None:
                layer.settle()
        if layer is None:
            settled()

    def _settled(self, connection: Connection) -> None:
        """Note that an accepted connection is with the loop, or will never be."""
        self.accepting -= 1
        if connection.state == IDLE and connection.transport is None:
            self._left()

    def _left(self) -> None:
        """Note that a connection is gone, and that there is room for another."""
        self.balance.left()
        if self._paused:
            self.resume()
        for listener in self._listeners:
            if listener.timer is not None and self.balance.has_least():
                self._accept_soon(listener)

    def tick(self) -> None:
        """Show the siblings that this worker lives, and accept again if there is room: call it once a second."""
        self.balance.tick()
        self.resume()

    def _pause(self) -> None:
        """Leave connections in the backlog, where a sibling may take them."""
        if not self._paused:
            self._paused = True
            self.balance.takes(False)
            for listener in self._listeners:
                self._ignore(listener)

    def resume(self) -> None:
        """Accept again if there is room."""
        if self._paused and self.balance.open < self.server.limits.connections_max:
            self._paused = False
            self.balance.takes(True)
            for listener in self._listeners:
                self._watch(listener)

    def _watch(self, listener: Listener) -> None:
        self.loop.add_reader(listener.fileno(), self._polled, listener)
        self._accept_soon(listener)

    def _ignore(self, listener: Listener) -> None:
        self.loop.remove_reader(listener.fileno())
        if listener.timer is not None:
            listener.timer.cancel()
            listener.timer = None

    def accept_all(self) -> None:
        """Accept what waits in the backlogs, whoever else might: before a drain, since nobody may do it later."""
        self.balance.takes(False)
        for listener in self._listeners:
            while self._accept_one(listener):
                pass

    def close(self) -> None:
        """Accept no more. The siblings' copies of the sockets go on."""
        self.balance.takes(False)
        for listener in self._listeners:
            self._ignore(listener)
            listener.close()
        self._listeners = []
        self._paused = False  # Whoever leaves later makes no room.
        self.server.log.debug("Accepting no more")
