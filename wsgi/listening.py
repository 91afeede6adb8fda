"""Where the server listens unless it is told, and what the start says about who may send records.

What lives here: the address, whether an address is this machine's own, and the texts. What must not: sockets, keys,
logging.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # nosec B104  # used only where keys or INLET_OPEN=1 ask for it
"""Interfaces. IPv4 for both: on a dual-stack socket (``[::]``) IPv4 peers look like ``::ffff:10.0.0.1``, which
gunicorn's ``forwarded_allow_ips`` does not know, and a container without IPv6 cannot open one."""


class Announcement(NamedTuple):
    """A line for the log of the start. ``warns``: the operator should look at it."""

    text: str
    warns: bool = False


def bind(port: int, *, everywhere: bool) -> str:
    """Return gunicorn's setting ``bind`` where nobody names an address: loopback, or all IPv4 interfaces."""
    return f"{EVERYWHERE if everywhere else LOOPBACK}:{port}"


def is_local(address: object) -> bool:
    """Return whether only this machine reaches ``address``, as ``getsockname`` gives it: loopback or a Unix socket."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        # A name, where the address is a setting and not a socket's.
        return host == "localhost"
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def shown(address: object) -> str:
    """Return an address of gunicorn's settings, which nobody listens on yet, as gunicorn prints one."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"http://{host}:{address[1]}"
    return f"unix:{address}"


def who_may_send(
    listeners: Sequence[tuple[str, bool]], *, keys: int | None, opened: bool, certified: bool = False
) -> Announcement:
    """Return who may send records. ``listeners``: each as gunicorn prints it, and whether it is local.

    ``keys``: how many keys there are, or None if none is required. ``opened``: INLET_OPEN=1. ``certified``: TLS with
    client certificates.
    """
    if keys == 0:
        return Announcement("nobody may send records: the keys file holds no key; run `inlet keys new`", warns=True)
    if keys is not None:
        return Announcement(f"holders of {keys} {'key' if keys == 1 else 'keys'} may send records")
    reachable = [shown for shown, local in listeners if not local]
    if reachable and certified:
        return Announcement("holders of a client certificate may send records")
    if reachable:
        anyone = f"anyone who reaches {' or '.join(reachable)} may send records"
        if opened:
            return Announcement(anyone)
        advice = "set INLET_KEYS_FILE to require keys, or INLET_OPEN=1 if that is what you want"
        return Announcement(f"{anyone}; {advice}", warns=True)
    if opened:
        return Announcement("only this machine may send records, because of --bind")
    advice = "set INLET_KEYS_FILE or INLET_OPEN=1 to listen on other interfaces"
    return Announcement(f"only this machine may send records ({advice})")


def curl_line(shown: str, *, keyed: bool, tls: bool = False, certified: bool = False) -> str:
    """Return the command that posts one record to an address as gunicorn prints it. ``keyed``: keys are required.

    ``certified``: TLS with client certificates. Who signs those usually has signed the server's too.
    """
    if shown.startswith("unix:"):
        where = f"--unix-socket {shown.removeprefix('unix:')} http://localhost"
    else:
        where = shown.replace(EVERYWHERE, LOOPBACK).replace("[::]", "[::1]")
        if tls:  # gunicorn prints http:// of every IPv6 address.
            where = where.replace("http://", "https://")
    record = (
        '{"event_id":"e-1","timestamp":"2026-01-31T23:59:59Z","service":"checkout","message":"paid",'
        '"metadata":{"region":"eu-1"}}'
    )
    key = " -H 'Authorization: Bearer YOUR_KEY'" if keyed else ""
    files = " --cacert CA.pem --cert CLIENT.pem --key CLIENT.key" if certified else ""
    return f"curl -i{files} {where}/ingest{key} -H 'Content-Type: application/json' -d '{record}'"
