"""A handler for Python's logging that sends formatted records to Inlet, in batches, from a thread of its own.

What lives here: the handler of the recipes for python-json-logger and structlog (docs/clients.md). Copy this file into
your program. What must not: formatting; a formatter that writes one JSON object does that.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import urllib.error
import urllib.request

WAITING_MAX = 10_000
"""Records that may wait to be sent. When there are more, the program waits: nothing is lost while Inlet is away."""
BATCH_RECORDS_MAX = 500
"""Records of one request."""
RETRY_SECONDS = 1.0
"""Pause before a request is sent again."""
TIMEOUT_SECONDS = 30.0
"""How long a request may take."""
CLOSE_SECONDS_MAX = 60.0
"""How long a program may take to send what is left when it ends."""


class InletHandler(logging.Handler):
    """Send each formatted record as one line of NDJSON. ``url``: of ``/ingest/json``; ``key``: a key, if any."""

    def __init__(self, url: str, key: str = "") -> None:
        super().__init__()
        self._url = url
        self._headers = {"Content-Type": "application/x-ndjson", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="inlet", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        self._lines.put(self.format(record))

    def close(self) -> None:
        """Send what is left. ``logging.shutdown`` calls this when the program ends."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join(CLOSE_SECONDS_MAX)
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self._lines.get()]
            while len(batch) < BATCH_RECORDS_MAX and not self._lines.empty():
                batch.append(self._lines.get())
            ended = None in batch
            if lines := [line for line in batch if line is not None]:
                self._send("\n".join(lines).encode(errors="replace"))

    def _send(self, body: bytes) -> None:
        """Send until Inlet has answered that the records are stored, or that they never will be."""
        while True:
            try:
                request = urllib.request.Request(self._url, body, self._headers)
                urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
                return
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    print(f"Inlet refused records: {error}", file=sys.stderr)
                    return
            except OSError:
                pass
            time.sleep(RETRY_SECONDS)
