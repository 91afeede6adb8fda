"""CORS: which web pages may send records, and which header fields let them read the answer.

What lives here: the allowlist of origins, when a request comes from a page of another origin, and the fields of answers
and preflights (the Fetch standard, section 3.2). What must not: when this is asked (the pipeline), statuses, keys.

A browser sends a page's POST with a "simple" content type without asking first, and hides the answer afterwards. If
Inlet stored such a request, the page would see a failure, send it again, and store its records twice. So a request of
a page whose origin is not allowed is refused before anything is stored.

This protects users of browsers, not Inlet: any other client can send whichever Origin it likes, or none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

from wsgi.problems import Denied, Headers

ANY: Final = "*"
NULL: Final = "null"
"""The origin of sandboxed frames, of ``data:`` and of ``file:`` pages: anybody's."""
PREFLIGHT_SECONDS: Final = 7_200
"""Seconds for which a browser may remember a preflight: the most that Chromium honors (Firefox: 86,400)."""
PORT_MAX: Final = 65_535
"""TCP's last port (RFC 9293 section 3.1)."""
METHODS: Final = "POST"
REQUEST_FIELDS: Final = (
    "authorization, ce-dataschema, ce-id, ce-source, ce-specversion, ce-subject, ce-time, ce-type, content-encoding, "
    "content-type, dd-api-key, inlet-durability, prefer, x-api-key, x-request-id, x-scope-orgid, "
    "x-splunk-request-channel"
)
"""What a page may send besides the fields that need no permission: all that Inlet reads by name. Never what a request
asks for, so nothing of a request reaches the answer, and one remembered preflight covers every later request."""
ANSWER_FIELDS: Final = "inlet-durability, ratelimit, ratelimit-policy, retry-after, x-request-id"
"""What a page may read besides the fields that need no permission."""

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_HOST = re.compile(r"(.+?)(?::([0-9]*))?")
_PORTS = {"http": "80", "https": "443"}
_ANSWER: Headers = [("access-control-expose-headers", ANSWER_FIELDS)]
_PREFLIGHT: Headers = [
    ("access-control-allow-methods", METHODS),
    ("access-control-allow-headers", REQUEST_FIELDS),
    ("access-control-max-age", str(PREFLIGHT_SECONDS)),
]


class Cors:
    """The allowlist, with every answer's fields rendered at construction. Holds no state: safe between threads."""

    def __init__(self, origins: str | None) -> None:
        """Take the value of ``INLET_CORS_ORIGINS``; None or "" allows no other origin. Raises ValueError."""
        allowed = parse_origins(origins) if origins else frozenset()
        self._any = ANY in allowed
        self._answers = {origin: _fields(origin, _ANSWER) for origin in allowed}
        self._preflights = {origin: _fields(origin, _PREFLIGHT) for origin in allowed}

    def headers(self, environ: Mapping[str, Any]) -> Headers:
        """Return the fields of every answer to this request, refusals included: a list that must not be changed.

        It is empty if no page sent the request, or one of this origin. Raises Denied (``origin-not-allowed``).
        """
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return []
        found = self._answers.get(ANY if self._any else origin)
        if found is None:
            if not _is_same_origin(origin, environ):
                raise _denied()
            return []
        return found

    def preflight(self, environ: Mapping[str, Any]) -> Headers | None:
        """Return the fields of the 204 to a preflight: a list that must not be changed.

        None for any other OPTIONS request, and where a page of this origin asks. What the request asks for is not
        read: the browser compares. Raises Denied (``origin-not-allowed``).
        """
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ:
            return None
        found = self._preflights.get(ANY if self._any else origin)
        if found is None and not _is_same_origin(origin, environ):
            raise _denied()
        return found


def parse_origins(text: str) -> frozenset[str]:
    """Return the origins of a comma-separated list. Raises ValueError, in words, for the first that is malformed."""
    origins = [origin.strip() for origin in text.split(",")]
    for origin in origins:
        if fault := _fault(origin):
            raise ValueError(fault)
    if ANY in origins and len(origins) > 1:
        raise ValueError("* allows every origin: list it alone")
    return frozenset(origins)


def _is_same_origin(origin: str, environ: Mapping[str, Any]) -> bool:
    """Return whether the page that sent this request came from this very server.

    Every current browser says so in ``Sec-Fetch-Site`` (W3C Fetch Metadata, section 2.3), which no page can set; it
    says ``none`` where the user or an extension sends, not a page. But browsers send that field only over HTTPS and to
    loopback. Without it, Origin is compared with Host. A proxy may have ended TLS, so a page over HTTPS is of the same
    origin as a server over plain HTTP; the opposite never holds.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site in ("same-origin", "none")
    found = _ORIGIN.fullmatch(origin)
    if found is None or found["scheme"] not in _PORTS:
        return False
    if found["scheme"] == "http" and environ.get("wsgi.url_scheme") == "https":
        return False
    default = _PORTS[found["scheme"]]
    # Browsers leave out a default port, some proxies add it.
    here = _HOST.fullmatch(environ.get("HTTP_HOST", "").lower())
    return here is not None and (here[1], here[2] or default) == (found["host"], found["port"] or default)


def _fault(origin: str) -> str:
    """Return what is wrong with one origin of the list, and how to write it; "" for nothing."""
    if origin in (ANY, NULL):
        return ""
    if not origin:
        return "an origin is empty: write https://app.example.com, or several separated by commas"
    if not origin.isascii():
        return f"{origin}: write the host as browsers send it, in Punycode (xn--...)"
    if ANY in origin:
        return f"{origin}: list each origin, or * alone for every one; there are no patterns"
    if origin != origin.lower():
        return f"{origin}: browsers send origins in lower case: write {origin.lower()}"
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        start = _ORIGIN.match(origin)
        if start is not None and origin[start.end()] in "/?#":
            return f"{origin}: an origin has no path: write {start[0]}"
        return f"{origin}: not an origin: write https://app.example.com, with a port only if it is not the default"
    scheme, host, port = found.groups()
    if port is not None and port == _PORTS.get(scheme):
        return f"{origin}: browsers leave out the default port: write {scheme}://{host}"
    if port is not None and (port.startswith("0") or int(port) > PORT_MAX):
        return f"{origin}: a port is 1 to {PORT_MAX}, without leading zeros"
    return _address_fault(origin, host[1:-1]) if host.startswith("[") else ""


def _address_fault(origin: str, address: str) -> str:
    """Return what is wrong with the IPv6 address of an origin; "" for nothing."""
    try:
        sent = ipaddress.IPv6Address(address).compressed
    except ValueError:
        return f"{origin}: {address} is not an IPv6 address"
    return "" if address == sent else f"{origin}: browsers send this address as [{sent}]"


def _fields(origin: str, others: Headers) -> Headers:
    """Return the fields that allow ``origin``, with ``others``."""
    fields = [("access-control-allow-origin", origin), *others, ("vary", "Origin")]
    if origin != ANY:
        # sendBeacon always sends with credentials. The Fetch standard (section 3.2.5) forbids this field beside "*".
        fields.insert(1, ("access-control-allow-credentials", "true"))
    return fields


def _denied() -> Denied:
    # RFC 9110 section 12.5.5: another Origin could have been answered otherwise.
    detail = "INLET_CORS_ORIGINS does not list the origin of this page; nothing was stored"
    return Denied("origin-not-allowed", detail, [("vary", "Origin")])
