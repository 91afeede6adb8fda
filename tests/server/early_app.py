"""A WSGI application that looks at a request before its body: 401 without a token, and worse on demand.

What lives here: the application, and what it was asked and called for, in order. What must not: the server's modules.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

PLAIN = ("Content-Type", "text/plain")


class Guarded:
    """Answers with the number of bytes of the body; at /told with what happened so far."""

    def __init__(self) -> None:
        self.events: list[list[str]] = []

    def before_body(self, environ: dict[str, Any]) -> Any:
        """Return the answer to a request without the token, or None."""
        self.events.append(["asked", environ["REMOTE_ADDR"], environ["RAW_URI"], environ["wsgi.input"].read().decode()])
        if environ["PATH_INFO"] == "/raises":
            raise RuntimeError("a fault in before_body")
        if environ["PATH_INFO"] == "/nonsense":
            return "nonsense"
        if environ["PATH_INFO"] == "/splits":
            return "401 Unauthorized", [("X-Name", "a\r\nSet-Cookie: stolen=1")], b"no"
        if environ["PATH_INFO"] == "/unhashable":
            environ["phased.owner"] = []
            return None
        if environ.get("HTTP_X_TOKEN") == "unowned":
            return None
        if environ.get("HTTP_X_TOKEN") == "right":
            environ["test.left"] = environ["RAW_URI"]
            environ["phased.owner"] = environ.get("HTTP_X_OWNER")
            environ["phased.unfinished"] = partial(self.unfinished, environ["RAW_URI"])
            return None
        environ["phased.unfinished"] = partial(self.unfinished, environ["RAW_URI"])
        return "401 Unauthorized", [PLAIN, ("WWW-Authenticate", "Token"), ("x-request-id", "r-1")], b"who are you?\n"

    def unfinished(self, uri: str, received: int) -> None:
        """Note a request that is not called."""
        self.events.append(["unfinished", uri, str(received)])
        if uri == "/faulty":
            raise RuntimeError("a fault in unfinished")

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        if environ["PATH_INFO"] == "/told":
            answer = json.dumps(self.events).encode()
        else:
            self.events.append(["called", environ["RAW_URI"]])
            if "test.left" in environ:
                assert environ["test.left"] == environ["RAW_URI"]
                self.events[-1].append("left")
            answer = b"%d" % len(body)
        start("200 OK", [PLAIN, ("Content-Length", str(len(answer)))])
        return [answer]


application = Guarded()


def echo(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    """Answer with the body."""
    body = environ["wsgi.input"].read()
    start("200 OK", [PLAIN, ("Content-Length", str(len(body)))])
    return [body]
