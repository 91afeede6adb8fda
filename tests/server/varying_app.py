"""A WSGI application that gives its query string, decoded, as the value of its last header."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote


def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "2"), ("x-request-id", unquote(environ["QUERY_STRING"]))])
    return [b"ok"]
