"""The keys file: named keys with their rights and quotas, in TOML. Read, written, and a new secret.

What lives here: the file's format, every check on it, and writing it so that a reader never sees half a file. What must
not: requests and how they carry a key (``wsgi.access``), output (``inlet.command.keys``), when the file is read again.

    [[key]]
    id = "3f9a0c12be47"                          # 12 hex digits, public
    name = "checkout"                            # for people; no two keys share one
    sha256 = "9b74..."                           # of the secret as text: printf %s SECRET | sha256sum
    created = 2026-11-27T20:00:00Z
    receivers = ["native"]                       # left out: every receiver
    services = ["checkout", "cart"]              # left out: every service
    stream = "tenant-a"                          # left out: INLET_STREAM
    metrics = true                               # left out: false
    quotas.requests = { per_second = 100, burst = 200 }    # also quotas.records, quotas.bytes; left out: no bound

A key as a producer sends it is ``inlet_<id>_<secret>``. The secret is never stored.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import hashlib
import math
import os
import re
import secrets
import shlex
import stat
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inlet.stream.errors import InletError
from inlet.stream.keys import is_reserved
from inlet.stream.place import stream_fault

RECEIVERS = (
    "native", "json", "gelf", "datadog", "cloudevents", "webhook", "otlp", "elasticsearch", "splunk", "loki",
)  # fmt: skip
"""The receivers of this version. A key may name others, for a later one."""
KEYS_MAX = 1_000
"""Keys of one file: tenants of one host, and a bound on what reading the file again costs."""
FILE_BYTES_MAX = 1_048_576
"""Bytes of the file: a thousand keys take about 300 KB."""
VALUES_MAX = 1_000
"""Receivers, or services, of one key."""
SERVICE_CHARS_MAX = 4_096
"""Characters of a service: far more than ``INLET_SERVICE_CHARS_MAX`` by default, 256."""
PER_SECOND_MIN, PER_SECOND_MAX = 0.001, 1e12
"""The range of a quota's rate: one request in a quarter of an hour, and more bytes than a host can receive."""
BURST_MIN, BURST_MAX = 1.0, 1e12
"""The range of a quota's burst: less than 1 would never admit anything."""
SECRET_BYTES = 32
"""256 bits: cannot be guessed, and needs no slow hash."""
ID_BYTES = 6
"""48 bits: two of a thousand ids are the same once in half a billion files; ``add`` notices that."""

HEADER = """\
# Keys of Inlet. `inlet keys new` and `inlet keys revoke` edit this file in place and keep your comments:
# `new` appends a key; `revoke` removes a key with the comment lines directly above it.
# Only the SHA-256 of each secret is here. Keep the file readable by Inlet's user alone (chmod 600).

"""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORD = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ID = re.compile(r"[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN = {'"': '\\"', "\\": "\\\\"}
_FIXES: dict[type[OSError], str] = {
    FileNotFoundError: "; create it with `inlet keys new NAME`",
    PermissionError: "; make the user that Inlet runs as its owner (chown)",
}


class KeyFileError(InletError):
    """The keys file cannot be used: one line that names the file, the key if it is one, and how to fix it."""

    reason = "settings"


@dataclass(frozen=True, slots=True)
class Quota:
    """A bound on a rate: ``per_second`` in the long run, and ``burst`` at once. Both in requests, records, or bytes."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class KeyQuotas:
    """The quotas of one key; None is no bound."""

    requests: Quota | None = None
    records: Quota | None = None
    bytes: Quota | None = None

    def given(self) -> Iterator[tuple[str, Quota]]:
        """Return the kinds that have a bound, each with it."""
        for what in fields(self):
            quota = getattr(self, what.name)
            if quota is not None:
                yield what.name, quota


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the file. ``created``: aware, UTC. ``receivers``, ``services``, ``stream``: None is unrestricted."""

    id: str
    name: str
    sha256: str
    created: datetime
    receivers: tuple[str, ...] | None = None
    services: tuple[str, ...] | None = None
    stream: str | None = None
    metrics: bool = False
    quotas: KeyQuotas = field(default_factory=KeyQuotas)


def new_secret() -> tuple[str, str]:
    """Return a new secret, 64 hex digits, and its SHA-256 as the file has it."""
    secret = secrets.token_hex(SECRET_BYTES)
    return secret, hashlib.sha256(secret.encode()).hexdigest()


def new_id() -> str:
    """Return a new id."""
    return secrets.token_hex(ID_BYTES)


def load(path: Path) -> tuple[Key, ...]:
    """Return the keys of the file. Raises KeyFileError with one line: the file, the key, and the fix."""
    return parse(read(path), path)


def save(path: Path, keys: Collection[Key]) -> None:
    """Write the file anew with these keys, without the comments of the old one. Raises KeyFileError."""
    with locked(path) as real:
        replace(real, text_of(keys), path)


def text_of(keys: Collection[Key]) -> str:
    """Return a whole file."""
    return HEADER + "\n".join(map(block, keys))


def block(key: Key) -> str:
    """Return a key as the file has it: a TOML table that ends with a newline."""
    lines = ["[[key]]", f"id = {_quoted(key.id)}", f"name = {_quoted(key.name)}", f"sha256 = {_quoted(key.sha256)}"]
    lines.append(f"created = {key.created.astimezone(UTC).isoformat().replace('+00:00', 'Z')}")
    for name, values in (("receivers", key.receivers), ("services", key.services)):
        if values is not None:
            lines.append(f"{name} = [{', '.join(map(_quoted, values))}]")
    if key.stream is not None:
        lines.append(f"stream = {_quoted(key.stream)}")
    if key.metrics:
        lines.append("metrics = true")
    for kind, quota in key.quotas.given():
        rate, burst = repr(float(quota.per_second)), repr(float(quota.burst))
        lines.append(f"quotas.{kind} = {{ per_second = {rate}, burst = {burst} }}")
    return "\n".join(lines) + "\n"


# Reading --------------------------------------------------------------------------------------------------------------


def read(path: Path) -> bytes:
    """Return the content of a keys file that only those who should can read, without a BOM. Raises KeyFileError."""
    try:
        # Not blocking: a FIFO has no writer to wait for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        fix = _FIXES.get(type(problem), "")
        raise error(path, f"cannot be read: {problem.strerror}{fix}") from None
    try:
        _check_status(os.fstat(descriptor), path)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise error(path, f"cannot be read: {problem.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > FILE_BYTES_MAX:
        raise error(path, f"is over {FILE_BYTES_MAX} bytes; revoke keys that are not used")
    return data.removeprefix(codecs.BOM_UTF8)  # Editors on Windows write one; TOML has none.


def _check_status(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise error(path, "is not a regular file; name the file that `inlet keys new` writes")
    # A group that root chose may read it: a mounted secret of Kubernetes with fsGroup is 0440 root:fsGroup.
    group_may_read = status.st_uid == 0 and status.st_gid != 0
    if stat.S_IMODE(status.st_mode) & (0o037 if group_may_read else 0o077):
        mode = stat.S_IMODE(status.st_mode)
        who = "others" if mode & 0o007 else "its group"
        raise error(
            path, f"has the mode {mode:04o}, so {who} may read or change it; run: chmod 600 {shlex.quote(str(path))}"
        )


def parse(data: bytes, path: Path) -> tuple[Key, ...]:
    """Return the keys in the file's content; ``path`` is for errors only. Raises KeyFileError."""
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError as problem:
        raise error(path, f"is not UTF-8 at byte {problem.start}; save it as UTF-8") from None
    except (ValueError, RecursionError) as problem:
        raise error(path, f"is not TOML: {ascii(str(problem))[1:-1][:200]}; fix that line") from None
    if unknown := sorted(document.keys() - {"key"}):
        raise error(path, f"has the unknown member {unknown[0]!a}; every key is a table [[key]]")
    tables = document.get("key", [])
    if type(tables) is not list or not all(type(table) is dict for table in tables):
        raise error(path, "has a member 'key' that is not a list of tables; write [[key]] above each key")
    if len(tables) > KEYS_MAX:
        raise error(path, f"has {len(tables)} keys; at most {KEYS_MAX} are allowed; revoke keys that are not used")
    keys = tuple(_key(table, number, path) for number, table in enumerate(tables, 1))
    for member, fix in (("id", "create keys with `inlet keys new`"), ("name", "rename one of them"),
                        ("sha256", "two keys cannot share a secret; revoke one of them")):  # fmt: skip
        seen: set[str] = set()
        for key in keys:
            value = getattr(key, member)
            if value in seen:
                raise error(path, f"key {key.name!r} ({key.id}): another key has the same {member}; {fix}")
            seen.add(value)
    return keys


def _key(table: dict[str, Any], number: int, path: Path) -> Key:
    """Return one key; errors name it by its name where that is valid, else by its number in the file."""
    name = table.get("name")
    label = f"key {name!r}" if type(name) is str and _NAME.fullmatch(name) else f"key number {number}"

    def check(valid: bool, member: str, wanted: str) -> None:
        if not valid:
            raise error(path, f"{label}: {member} {wanted}")

    def text(member: str, pattern: re.Pattern[str], wanted: str) -> str:
        check(member in table, member, f"is missing; it {wanted}")
        value = table[member]
        check(type(value) is str and pattern.fullmatch(value) is not None, member, wanted)
        return str(value)

    def texts(member: str, valid: Callable[[str], object], wanted: str) -> tuple[str, ...] | None:
        if member not in table:
            return None
        values = table[member]
        check(type(values) is list and len(values) > 0, member, "must be a list with at least one name; leave it out"
              " to allow all")  # fmt: skip
        check(len(values) <= VALUES_MAX, member, f"has {len(values)} names; at most {VALUES_MAX} are allowed")
        check(all(type(value) is str and valid(value) for value in values), member, wanted)
        check(len(set(values)) == len(values), member, "names one twice; remove one of them")
        return tuple(values)

    unknown = sorted(table.keys() - {member.name for member in fields(Key)})
    check(not unknown, ascii(unknown[0] if unknown else ""), "is not a member of a key; remove it")
    text("name", _NAME, "must be 1 to 64 letters, digits, '.', '-' or '_', and begin with a letter or digit")
    created = table.get("created")
    check(isinstance(created, datetime) and created.tzinfo is not None, "created",
          "must be a time with its offset, such as 2026-01-31T23:59:59Z, without quotes")  # fmt: skip
    stream = table.get("stream")
    if stream is not None:
        check(type(stream) is str, "stream", "must be a string")
        fault = stream_fault(stream)
        if fault is None and is_reserved(stream):
            fault = "is named like a store key of Inlet's own; name another stream"
        check(fault is None, f"stream {ascii(stream)[:80]}", fault or "")
    check(type(table.get("metrics", False)) is bool, "metrics", "must be true or false, without quotes")
    assert isinstance(created, datetime)
    return Key(
        id=text("id", _ID, "must be 12 hex digits in lower case"),
        name=str(name),
        sha256=text("sha256", _SHA256, "must be 64 hex digits in lower case: the SHA-256 of the secret"),
        created=created.astimezone(UTC),
        receivers=texts("receivers", _WORD.fullmatch, "must be words such as 'native': lower case, digits, hyphens"),
        services=texts("services", lambda value: 0 < len(value) <= SERVICE_CHARS_MAX,
                       f"must be strings of 1 to {SERVICE_CHARS_MAX} characters"),
        stream=stream,
        metrics=bool(table.get("metrics", False)),
        quotas=_quotas(table.get("quotas", {}), check),
    )  # fmt: skip


def _quotas(table: object, check: Callable[[bool, str, str], None]) -> KeyQuotas:
    names = [what.name for what in fields(KeyQuotas)]
    wanted = "must be quotas.requests, quotas.records or quotas.bytes = { per_second = 100, burst = 200 }"
    check(type(table) is dict and table.keys() <= set(names), "quotas", wanted)
    assert isinstance(table, dict)
    found: dict[str, Quota] = {}
    for name, value in table.items():
        member = f"quotas.{name}"
        check(type(value) is dict and {"per_second"} <= value.keys() <= {"per_second", "burst"}, member, wanted)
        check(all(type(number) in (int, float) for number in value.values()), member, "must hold numbers")
        quota = quota_of(value["per_second"], value.get("burst"))
        fault = quota_fault(quota)
        check(fault is None, member, fault or "")
        found[name] = quota
    return KeyQuotas(**found)


def quota_of(per_second: float, burst: float | None = None) -> Quota:
    """Return a quota; its burst is what one second allows, and at least 1, unless given."""
    return Quota(per_second, max(per_second, BURST_MIN) if burst is None else burst)


def quota_fault(quota: Quota) -> str | None:
    """Return what is wrong with a quota and how to fix it, or None."""
    for name, value, least, most in (
        ("per_second", quota.per_second, PER_SECOND_MIN, PER_SECOND_MAX),
        ("burst", quota.burst, BURST_MIN, BURST_MAX),
    ):
        # NaN compares false.
        if not least <= value <= most or not math.isfinite(value):
            return f"has a {name} out of range; it must be from {least:g} to {most:g}"
    return None


def unknown_receivers(key: Key) -> list[str]:
    """Return the receivers that a key names and this version does not have."""
    return sorted(set(key.receivers or ()) - set(RECEIVERS))


# Writing --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Path]:
    """Hold the lock for changes of the file, and yield its path without symbolic links, which stay.

    Raises KeyFileError, also for an OSError in the body. The lock is on the directory (flock(2)): the file itself is
    replaced, and a file for the lock would be left behind.
    """
    real = Path(os.path.realpath(path))
    try:
        descriptor = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        fix = f"; create it: mkdir -p {shlex.quote(str(real.parent))}" if isinstance(problem, FileNotFoundError) else ""
        raise error(path, f"cannot be written: its directory {real.parent}: {problem.strerror}{fix}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield real
        # A crash of the machine must not bring a revoked key back.
        os.fsync(descriptor)
    except OSError as problem:
        raise error(path, f"cannot be written: {problem.strerror}") from None
    finally:
        os.close(descriptor)


def replace(real: Path, text: str, path: Path) -> None:
    """Replace the file in one step, with the owner and mode of the old one. Raises OSError, KeyFileError."""
    data = text.encode()
    if len(data) > FILE_BYTES_MAX:
        raise error(path, f"would be over {FILE_BYTES_MAX} bytes; revoke keys that are not used")
    temporary = real.with_name(f".{real.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                old = os.stat(real)
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o640 | 0o200)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, real)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _quoted(text: str) -> str:
    """Return a basic string of TOML 1.0: control characters, quotes and backslashes are escaped."""
    return '"' + "".join(_PLAIN.get(char) or (char if char.isprintable() else _escaped(char)) for char in text) + '"'


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def error(path: Path, words: str) -> KeyFileError:
    """Return the error for this file."""
    return KeyFileError(f"keys file {ascii(str(path))[1:-1]} {words}")
