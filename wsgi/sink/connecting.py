"""Connecting in a thread, for whoever must not wait: names, TCP, TLS and AUTH may take seconds.

What lives here: the thread, its deadline, a future. What must not: how to connect (``link``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from wsgi.problems import SinkError


class Connecting:
    """One attempt, from its construction on; a future that is done with it, or after ``seconds_max``.

    ``connect`` returns why it failed, or None. It may go on after the deadline: ``running`` tells.
    """

    def __init__(self, connect: Callable[[], SinkError | None], seconds_max: float) -> None:
        self.done = False
        self.running = True
        self.error: SinkError | None = None
        """Why there is no connection, once it is done."""
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Connecting], object]] = []
        late = SinkError("sink-unavailable", f"the store cannot be reached: no connection within {seconds_max:g} s")
        timer = threading.Timer(seconds_max, self._end, [late])
        timer.daemon = True
        timer.start()
        threading.Thread(target=self._run, args=[connect, timer], name="inlet-connect", daemon=True).start()

    def add_done_callback(self, callback: Callable[[Connecting], object]) -> None:
        """Call ``callback`` with this object, in any thread, once it is done; at once if it is."""
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback(self)

    def _run(self, connect: Callable[[], SinkError | None], timer: threading.Timer) -> None:
        error: SinkError | None = SinkError("sink-unavailable", "a bug in connecting to the store")
        try:
            error = connect()
        finally:
            self.running = False
            timer.cancel()
            self._end(error)

    def _end(self, error: SinkError | None) -> None:
        with self._lock:
            if self.done:
                return
            self.done, self.error = True, error
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
