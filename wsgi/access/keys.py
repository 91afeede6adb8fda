"""Keys: who sends a request, and what it may do. Read again when the file changes.

What lives here: authentication, the right to a receiver, and the swap from one set of keys to the next. What must not:
where a key stands in a request (``wsgi.access.credentials``), the file's format (``inlet.keyfile``), quotas.

Whatever is wrong with a credential, or if there is none, the answer is the same 401, after the same work: one SHA-256
and one comparison in constant time, with a hash that nothing has where the id is unknown. Only a credential that was
found valid is remembered, as it was sent, until the file changes.

Threads: ``look`` builds a whole new ``_Keyring`` and swaps one reference; ``admit`` takes that reference once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

from inlet import keyfile
from inlet.keyfile import Key, KeyFileError
from inlet.stream.record import token_of_service
from wsgi import metrics
from wsgi.access.credentials import PLACES_MAX, Found, found_in, parse
from wsgi.access.lastgood import LastGood
from wsgi.access.quotas import Meter
from wsgi.problems import Denied

log = logging.getLogger("inlet")

REMEMBERED_MAX = 4_096
"""Credentials remembered as valid: each key in a few forms. All are forgotten when there are more."""
REMEMBERED_CHARS_MAX = 256
"""Characters of one: longer ones, Basic with a long user, are checked each time. Bounds the memory to about 2 MiB."""

SETTLED_SECONDS = 0.05
"""How long a changed file must stay as it is before it is read: an editor may empty it first, and an empty file has
no key. For a file that is replaced by a rename, as by `inlet keys`, any time would do."""
SETTLING_MAX = 20
"""Times to wait for that: about as long as the pause between two looks."""

UNAUTHORIZED: Final = "send one valid key, for instance as `Authorization: Bearer inlet_...`"
CHALLENGE: Final = ("www-authenticate", 'Bearer realm="inlet"')
"""RFC 9110 section 11.6.1. Not Basic: browsers would ask their user for a password."""

_NOBODY: Final = "0" * 64
"""A SHA-256 that no secret is known to have, and the secret to hash where there is none."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the sender of a request may do. ``receivers``, ``services``: None for all."""

    key: str
    """The key's id, for logs."""
    receivers: frozenset[str] | None
    services: frozenset[bytes] | None
    """Each as ``inlet.stream.record.service_token`` gives it."""
    stream: bytes | None
    """Store key of the stream to append to; None for ``INLET_STREAM``."""
    metrics: bool
    """May read ``/metrics``."""
    meter: Meter | None


class _Keyring:
    """One state of the file: the hash and the grant of each id, and the credentials found valid so far."""

    __slots__ = ("by_id", "remembered", "streams")

    def __init__(self, keys: tuple[Key, ...], meter: Callable[[Key], Meter | None]) -> None:
        self.by_id = {key.id: (key.sha256, _grant(key, meter(key))) for key in keys}
        self.streams = tuple(sorted({key.stream for key in keys if key.stream is not None}))
        self.remembered: dict[Found, Grant] = {}


class Keys:
    """The keys of a file. Build it before the fork; it raises KeyFileError where the file cannot be used.

    ``meter`` makes, or finds, the meter of a key; it is called for each key at each change of the file.
    """

    def __init__(self, path: Path, meter: Callable[[Key], Meter | None] = lambda key: None) -> None:
        self._path, self._meter = path, meter
        self._last_good = LastGood(keyfile.FILE_BYTES_MAX)
        self._seen, self._pid = _identity(path), os.getpid()
        self._data = b""
        self._ring = _Keyring((), meter)
        data = keyfile.read(path)
        self._take(data)
        self._last_good.write(data)
        self.broken: str | None = None
        """Why the present file cannot be used, while the keys of the one before are in force; None if it can."""

    def admit(self, environ: Mapping[str, Any], receiver: str) -> Grant:
        """Return the grant of a request to ``receiver``. Raises Denied: unauthorized, or forbidden."""
        # PERF: the usual request, one credential that was seen before, without a call (bench/micro.py: keys.admit).
        header = environ.get("HTTP_AUTHORIZATION")
        grant = None
        if (
            header is not None
            and "HTTP_X_API_KEY" not in environ
            and "HTTP_DD_API_KEY" not in environ
            and "key=" not in environ.get("QUERY_STRING", "")
        ):
            grant = self._ring.remembered.get(("HTTP_AUTHORIZATION", header))
        if grant is None:
            grant = self.grant(environ)
        if grant.receivers is not None and receiver not in grant.receivers:
            raise Denied("forbidden", f"this key has no right to the receiver '{receiver}' (right: receivers)")
        return grant

    def grant(self, environ: Mapping[str, Any]) -> Grant:
        """Return the grant of a request, whatever it asks for. Raises Denied (unauthorized), always the same."""
        ring = self._ring
        found = found_in(environ)
        if len(found) == 1 and (grant := ring.remembered.get(found[0])) is not None:
            return grant
        credentials = {parse(one) for one in found}
        credential = credentials.pop() if len(credentials) == 1 and len(found) <= PLACES_MAX else None
        key_id, secret = credential or ("", _NOBODY)
        sha256, grant = ring.by_id.get(key_id, (_NOBODY, None))
        same = compare_digest(hashlib.sha256(secret.encode()).hexdigest(), sha256)
        if not same or grant is None or credential is None:
            raise Denied("unauthorized", UNAUTHORIZED, [CHALLENGE])
        if len(found) == 1 and len(found[0][1]) <= REMEMBERED_CHARS_MAX:
            if len(ring.remembered) >= REMEMBERED_MAX:
                ring.remembered.clear()
            ring.remembered[found[0]] = grant
        return grant

    def streams(self) -> tuple[str, ...]:
        """Return the streams that keys name, sorted, each once."""
        return self._ring.streams

    def look(self) -> None:
        """Read the file again if it changed. Call it first thing in a worker, after HUP, and about once a second.

        Where the new file cannot be used, the keys before it stay in force: those of the last file that any process
        since the fork could use, so that a new worker does not bring a revoked key back. Logs each change once. Never
        raises.
        """
        seen = _identity(self._path)
        if seen == self._seen and os.getpid() == self._pid:
            return
        if seen != self._seen:
            seen = self._settled(seen)
        # The first look of a process reads the file even if it is the master's: another user may not be allowed to.
        self._seen, self._pid = seen, os.getpid()
        try:
            data = keyfile.read(self._path)
            changed = self._take(data)
            self._last_good.write(data)
        except KeyFileError as error:
            self._keep(error.detail)
        except Exception as error:
            log.error("keys: a bug in reading the file again", exc_info=error)
            self._keep("a bug in Inlet; the log has it")
        else:
            if changed or self.broken is not None:
                log.info("keys: the file was read again; %d keys are in force", len(self._ring.by_id))
            self.broken = None
            metrics.KEYS_FILE_BROKEN.set(0)

    def _settled(self, seen: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Wait until nobody writes the file; return what identifies it then."""
        for _ in range(SETTLING_MAX):
            time.sleep(SETTLED_SECONDS)
            before, seen = seen, _identity(self._path)
            if seen == before:
                break
        return seen

    def _take(self, data: bytes) -> bool:
        """Put the keys of the file's content in force; return whether it is another. Raises KeyFileError."""
        if data == self._data:
            return False
        self._ring, self._data = _Keyring(keyfile.parse(data, self._path), self._meter), data
        return True

    def _keep(self, why: str) -> None:
        """Go on with the last keys that could be used."""
        data = self._last_good.read()
        if data is not None:
            with contextlib.suppress(Exception):
                self._take(data)
        self.broken = why
        metrics.KEYS_FILE_BROKEN.set(1)
        log.error("keys: the file changed and cannot be used; the keys before stay in force: %s", why)


def _grant(key: Key, meter: Meter | None) -> Grant:
    return Grant(
        key=key.id,
        receivers=None if key.receivers is None else frozenset(key.receivers),
        services=None if key.services is None else frozenset(map(token_of_service, key.services)),
        stream=None if key.stream is None else key.stream.encode(),
        metrics=key.metrics,
        meter=meter,
    )


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what changes with the file's content, or with who may read it; None if there is no file.

    Follows symbolic links: Kubernetes switches one when a mounted secret changes. The time of status changes (ctime)
    tells that a chmod has fixed what was wrong.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
