"""A real browser, pages for it, and what Inlet made of them: Debian's Chromium, driven through its ChromeDriver.

What lives here: starting, steering and ending them. What must not: what a page may do (the tests).

ChromeDriver speaks WebDriver (W3C), which is JSON over HTTP. The tests need five of its commands, so they use httpx.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.support import DEADLINE_SECONDS, Server, kill_all, stored_lines, wait_until

PROGRAMS = ("chromium", "chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # cannot be had as root; all pages are the tests' own
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-gpu",
    "--no-first-run",
    "--no-proxy-server",
    # Nothing but what the tests ask for.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    # Names that lead here. Unlike for loopback, browsers send no Sec-Fetch-Site to plain HTTP servers of other names.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)

FETCH = """
const [url, options, done] = arguments;
fetch(url, options).then(
  async answer => done({status: answer.status, type: answer.type, body: await answer.text(),
                        headers: Object.fromEntries(answer.headers)}),
  error => done({error: String(error)}));
"""
BEACON = """
const [url, body, type, done] = arguments;
done(navigator.sendBeacon(url, type === null ? body : new Blob([body], {type})));
"""


class Browser:
    """Headless Chromium. ``close`` ends it and every process that it started."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inlet-browser-"))
        # Chromium keeps its profile, its caches and its crash reports in these, and leaves none of them elsewhere.
        places = {name: str(self.directory) for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
        log = self.directory / "chromedriver.log"
        self._http = httpx.Client(timeout=DEADLINE_SECONDS, trust_env=False)
        with open(log, "wb") as output:
            self._driver = subprocess.Popen(
                ["chromedriver", "--port=0"],
                env={**os.environ, **places},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            started = wait_until(
                lambda: re.search(r"started successfully on port (\d+)", log.read_text(errors="replace")),
                "chromedriver listens",
            )
            self._session = f"http://127.0.0.1:{started[1]}/session"
            options = {"args": [*ARGUMENTS, f"--user-data-dir={self.directory / 'profile'}"]}
            capabilities = {"goog:chromeOptions": options, "timeouts": {"script": int(DEADLINE_SECONDS * 1000)}}
            self._session += "/" + self._command("", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        except BaseException:
            self.close()
            raise

    def _command(self, path: str, parameters: dict[str, Any]) -> Any:
        answer = self._http.post(self._session + path, json=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        """Load a page."""
        self._command("/url", {"url": url})

    def enter_frame(self) -> None:
        """Run what follows in the first frame of the page."""
        self._command("/frame", {"id": 0})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, whose last argument is a function that takes its result; return the result."""
        return self._command("/execute/async", {"script": script, "args": list(arguments)})

    def fetch(self, url: str, body: str, **options: Any) -> dict[str, Any]:
        """POST by ``fetch``: what the page is told, ``status``, ``type``, ``body`` and ``headers``, or ``error``."""
        told: dict[str, Any] = self.run(FETCH, url, {"method": "POST", "body": body, **options})
        return told

    def beacon(self, url: str, body: str, type: str | None = None) -> bool:  # noqa: A002  # as in Blob
        """Send a beacon, of a Blob if it has a ``type``; return whether the browser took it. A page is told no more."""
        return bool(self.run(BEACON, url, body, type))

    def close(self) -> None:
        """End the browser, its driver, and all that they started, and remove their files."""
        if hasattr(self, "_session"):
            with contextlib.suppress(httpx.HTTPError):
                self._http.delete(self._session)
        self._http.close()
        self._driver.terminate()
        try:
            self._driver.wait(DEADLINE_SECONDS)
        finally:
            kill_all(self.directory)
            shutil.rmtree(self.directory, ignore_errors=True)


class _Pages(http.server.BaseHTTPRequestHandler):
    """``/``: an empty page. ``/framed``: the same page in a frame whose origin is opaque."""

    def do_GET(self) -> None:
        frame = '<iframe sandbox="allow-scripts" src="/"></iframe>' if self.path == "/framed" else ""
        page = f"<!doctype html><title>page</title>{frame}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # as in the base class
        """Stay silent."""


@contextlib.contextmanager
def site(host: str = "127.0.0.1") -> Iterator[str]:
    """Serve pages from a port of their own: another origin. Yields it, ``http://host:port``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class Inlet:
    """A server with a stream of its own, and what reached both."""

    def __init__(self, store_url: str, **env: str) -> None:
        self._store_url, self._stream = store_url, env.setdefault("INLET_STREAM", f"browser-{uuid.uuid4().hex}")
        # One worker, so that its access log is in the order of the answers.
        args = ["--workers", "1", "--access-logfile", "-"]
        self.server = Server("app:application", args, {"REDIS_URL": store_url, **env})

    def origin(self, host: str = "127.0.0.1") -> str:
        """``http://host:port``."""
        return f"http://{host}:{self.server.port}"

    def stored(self, event_id: str) -> int:
        """How often a record is in the stream."""
        with redis.Redis.from_url(self._store_url) as client:
            return [line[0] for line in stored_lines(client, self._stream)].count(event_id)

    def answered(self, test: str) -> list[str]:
        """The requests with this ``test`` in their query, as ``POST 202``, in the order of the answers.

        From the access log, which may have a request a moment after its client has the answer.
        """
        found = re.findall(rf'"(\w+) /ingest\?test={test}[& ][^"]*" (\d{{3}})', self.server.log())
        return [f"{method} {status}" for method, status in found]

    def has_answered(self, test: str, *expected: str) -> bool:
        """Wait for as many answers; return whether they are these."""
        wait_until(lambda: len(self.answered(test)) >= len(expected), f"{len(expected)} requests are answered")
        return self.answered(test) == list(expected)

    def close(self) -> None:
        """Stop it."""
        self.server.close()
