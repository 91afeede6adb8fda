"""The environment -> one frozen, validated ``Settings``; every bound on a setting, and every contradiction.

What lives here: the settings, their bounds and texts (docs/operations.md is written from the docstrings), and the
address of the store. What must not: reading ``os.environ`` (callers pass it), files, sockets, what a setting is for.

Inlet's own variables are ``INLET_`` and the field's name in capitals; ``_SHARED`` names those that others read too.
An empty value counts as unset. A contradiction is a pair that cannot both be honoured; a bound that another bound
keeps from ever being reached is none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote, urlsplit

from pydantic import AliasGenerator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from wsgi.errors import SettingsError

STRING_BYTES_MAX = 536_870_912
"""Bytes: the longest value Redis takes (``proto-max-bulk-len``, 512 MB unless changed there)."""
SOCKET_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107
"""Bytes: what ``sun_path`` of a unix socket's address holds, less the closing NUL (unix(7))."""
STREAM_CHARS_MAX = 256
"""A name, not a text."""
SHOWN_CHARS_MAX = 120
"""Characters of a value that an error shows: enough to know it again."""
SOCKET_NAME = "valkey.sock"
"""File name of the embedded store's socket within ``data_dir``."""

_PREFIX = "INLET_"
_SHARED = frozenset({"redis_url", "port", "web_concurrency"})
_SCHEMES = ("redis", "rediss", "unix")
# redis-py takes any option from the query, and lets it win over what the sink sets: deadlines and retries among them.
_URL_OPTION = re.compile(r"db|client_name|ssl_\w+")
_STREAM = re.compile(r"[!-z|~]+")
_HOST_AND_PORT = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:/\d*)?", re.ASCII)
_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|AUTH|KEYS?$")
# int() takes "8_0" and " 80" too; gunicorn, which reads PORT as well, does not.
_WHOLE_NUMBER = re.compile(r"-?\d{1,15}", re.ASCII)
# What Kubernetes puts into every pod for a Service that is named inlet, or inlet-something.
_SERVICE_LINK = re.compile(r"INLET_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


def env_name(field: str) -> str:
    """The variable that sets ``field``."""
    return field.upper() if field in _SHARED else _PREFIX + field.upper()


class Settings(BaseSettings):
    """Every setting of Inlet. Build it with ``load``; it reads no environment by itself."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=env_name),
    )

    redis_url: Annotated[str | None, Field(repr=False)] = None
    """Where the store is: ``redis://``, ``rediss://`` (TLS) or ``unix://``, of Redis >= 6.2 or Valkey. Default:
    unset, the embedded store, started and stopped with Inlet. Consequence: with a URL, nothing is kept in
    ``INLET_DATA_DIR``, and what survives a crash is that store's configuration. Options in the query: ``db``,
    ``client_name``, ``ssl_*``. If unsure: leave it unset on one machine."""

    port: int = Field(8000, ge=0, le=65_535)
    """TCP port to listen on; 0 lets the kernel choose. Default: 8000. Consequence: gunicorn reads it too, and once it
    is set listens on all interfaces; ``--bind`` wins over it. If unsure: leave it unset."""

    web_concurrency: int = Field(2, ge=1, le=256)
    """Worker processes. Default: 2. Consequence: each holds its own memory and one or more connections to the store;
    ``--workers`` wins over it. If unsure: the number of cores."""

    data_dir: Path = Path("data")
    """Directory of the embedded store: append-only file, log, socket, lock. Default: ``./data``, created as needed.
    Consequence: the accepted records live here, so put it on a disk that stays; one Inlet a directory; the path of the
    socket in it may take 107 bytes (macOS: 103). Unused with ``REDIS_URL``. If unsure: an absolute path on a local
    disk."""

    stream: str = "logs"
    """Redis key of the stream. Default: ``logs``. Consequence: consumers must read the same key. Printable ASCII, no
    spaces or braces, 256 characters at most. If unsure: leave it."""

    entry_bytes_max: int = Field(1_048_576, ge=256, le=STRING_BYTES_MAX)
    """Bytes of records in one stream entry; a commit over it is split in several entries. Default: 1048576 (1 MiB).
    Consequence: a consumer gets entries of up to this size; below ``INLET_RECORD_BYTES_MAX`` is refused. If unsure:
    leave it."""

    connect_timeout_ms: int = Field(1_000, ge=1, le=10_000)
    """Milliseconds to wait for a connection to the store. Default: 1000. Consequence: how long requests wait before
    their 503 when the store is away; too low refuses a busy store. If unsure: leave it."""

    commit_timeout_ms: int = Field(2_000, ge=1, le=15_000)
    """Milliseconds to wait for the store's reply to a commit. Default: 2000. Consequence: past it the answer is 503,
    outcome unknown, and producers send the records again; three quarters of it are for the fsync or the replicas of
    higher levels; its bound, with that of the connect, stays under gunicorn's 30 s for a silent worker. If unsure:
    leave it."""

    durability: Literal["received", "stored", "synced", "replicated"] = "stored"
    """What a 202 promises: ``received`` (written to the store's socket), ``stored`` (the store has replied), ``synced``
    (its append-only file is fsynced) or ``replicated`` (``INLET_REPLICAS`` replicas have it). Default: ``stored``.
    Consequence: a request may ask for more with the header ``Inlet-Durability``, never for less; ``received`` can lose
    what was answered 202, ``synced`` needs Redis >= 7.2 or Valkey with ``appendonly yes`` and ``appendfsync
    always``, as the embedded store then has. If unsure: leave it; ``synced`` where a power cut must not lose."""

    replicas: int = Field(1, ge=1, le=16)
    """Replicas that must have a record at the level ``replicated``. Default: 1. Consequence: with fewer connected,
    requests at that level get 503. If unsure: leave it."""

    backlog_max: int = Field(0, ge=0, le=1_000_000_000)
    """Entries that may wait for the slowest consumer group (lag and pending; without groups, the length of the stream);
    0 for no bound. Default: 0. Consequence: over it new records are refused with 429 until consumers catch up; sampled
    once a second. If unsure: leave it, and watch the store's memory."""

    retention: str | None = None
    """What of the stream to keep: ``age=7d``, ``entries=1000000``, ``memory=2gb``, any of them, separated by commas.
    Default: unset, nothing is trimmed. Consequence: what all consumer groups have acked is trimmed beyond the bounds;
    where unread entries fill them, new records are refused with 429. If unsure: ``memory=`` half of what the store's
    machine has."""

    retention_unread: Literal["keep", "drop"] = "keep"
    """What becomes of entries beyond ``INLET_RETENTION`` that some group has not acked: ``keep`` or ``drop``. Default:
    ``keep``. Consequence: ``drop`` loses records that were answered 202; it is logged, counted and shown in
    ``/readyz``. If unsure: leave it."""

    memory_percent_max: int = Field(95, ge=1, le=100)
    """Percent of the store's ``maxmemory`` over which new records are refused with 503; no effect where the store has
    no ``maxmemory``. Default: 95. Consequence: what is left is for consumers' bookkeeping and the delay of a
    sample. If unsure: leave it."""

    inflight_bytes_max: int = Field(67_108_864, ge=128, le=STRING_BYTES_MAX)
    """Bytes of records that a worker may hold for its next commit. Default: 67108864 (64 MiB). Consequence: beyond,
    requests get 503; a single request is never too large for it. If unsure: leave it."""

    inflight_requests_max: int = Field(16_384, ge=1, le=1_000_000)
    """Requests that a worker may hold for its next commit. Default: 16384. Consequence: beyond, requests get 503. If
    unsure: leave it."""

    record_bytes_max: int = Field(262_144, ge=128, le=STRING_BYTES_MAX)
    """Bytes of one record as stored. Default: 262144 (256 KiB). Consequence: a longer record is rejected; over
    ``INLET_ENTRY_BYTES_MAX`` is refused. If unsure: leave it."""

    event_id_chars_max: int = Field(256, ge=1, le=65_536)
    """Characters of ``event_id``. Default: 256. Consequence: a record with a longer one is rejected. If unsure: leave
    it; a UUID takes 36."""

    service_chars_max: int = Field(256, ge=1, le=65_536)
    """Characters of ``service``. Default: 256. Consequence: a record with a longer one is rejected. If unsure: leave
    it."""

    message_chars_max: int = Field(131_072, ge=1, le=STRING_BYTES_MAX)
    """Characters of ``message``. Default: 131072. Consequence: a record with a longer one is rejected;
    ``INLET_RECORD_BYTES_MAX`` bounds it too. If unsure: leave it; a long stack trace fits."""

    metadata_pairs_max: int = Field(128, ge=0, le=65_536)
    """Pairs in ``metadata``. Default: 128. Consequence: a record with more is rejected; 0 allows only empty metadata.
    If unsure: leave it."""

    metadata_key_chars_max: int = Field(256, ge=1, le=65_536)
    """Characters of a key of ``metadata``. Default: 256. Consequence: a record with a longer one is rejected. If
    unsure: leave it."""

    metadata_value_chars_max: int = Field(16_384, ge=1, le=STRING_BYTES_MAX)
    """Characters of a value of ``metadata``. Default: 16384. Consequence: a record with a longer one is rejected;
    ``INLET_RECORD_BYTES_MAX`` bounds it too. If unsure: leave it."""

    timestamp_chars_max: int = Field(64, ge=25, le=1_024)
    """Characters of ``timestamp``. Default: 64. Consequence: a record with a longer one is rejected; nanoseconds and
    an offset take 35. If unsure: leave it."""

    payload_bytes_max: int = Field(8_388_608, ge=128, le=STRING_BYTES_MAX)
    """Bytes of a body, before and after decoding. Default: 8388608 (8 MiB). Consequence: a longer body is answered
    413; each worker may hold several times this for each request in hand. If unsure: leave it, and let producers send
    smaller bulks."""

    bulk_records_max: int = Field(50_000, ge=1, le=1_000_000)
    """Records in a bulk, rejected ones included. Default: 50000. Consequence: a larger bulk is answered 413; other
    requests of the worker wait while a bulk is read. If unsure: leave it."""

    nesting_depth_max: int = Field(32, ge=3, le=256)
    """Arrays and objects within each other in a body. Default: 32. Consequence: a deeper body is answered 400; a bulk
    itself takes 3. If unsure: leave it."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load`` passes: never the process's environment behind its back."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _digits(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        if field.annotation is int and isinstance(value, str) and not _WHOLE_NUMBER.fullmatch(value):
            raise ValueError("not a whole number")
        return value

    @field_validator("redis_url")
    @classmethod
    def _usable_url(cls, url: str | None) -> str | None:
        fault = None if url is None else _url_fault(url)
        if url is not None and fault is not None:
            raise _error("redis_url", url, fault)
        return url

    @field_validator("stream")
    @classmethod
    def _usable_stream(cls, stream: str) -> str:
        if len(stream) > STREAM_CHARS_MAX or not _STREAM.fullmatch(stream):
            mend = f"must be 1 to {STREAM_CHARS_MAX} printable ASCII characters without spaces or braces; try 'logs'"
            raise _error("stream", stream, mend)
        return stream

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise _error("data_dir", str(path), "is not UTF-8; name a directory that is") from None
        return Path(os.path.abspath(path))

    @model_validator(mode="after")
    def _no_contradiction(self) -> Settings:
        if self.record_bytes_max > self.entry_bytes_max:
            fault = f"is over {env_name('entry_bytes_max')} ({self.entry_bytes_max}), so that no entry could hold such"
            raise _error("record_bytes_max", str(self.record_bytes_max), f"{fault} a record; lower it, or raise that")
        if self.durability == "replicated" and self.redis_url is None:
            raise _error("durability", self.durability, "needs replicas; the embedded store has none, so set REDIS_URL")
        length = len(os.fsencode(self.data_dir / SOCKET_NAME))
        if self.redis_url is None and length > SOCKET_PATH_BYTES_MAX:
            fault = f"makes the path of the store's socket {length} bytes long; name a directory that keeps"
            raise _error("data_dir", str(self.data_dir), f"{fault} /{SOCKET_NAME} within {SOCKET_PATH_BYTES_MAX} bytes")
        return self


def load(environ: Mapping[str, str]) -> Settings:
    """Settings from ``environ``; raise SettingsError, one line on the first fault, with the mend.

    Variables of others are ignored, those of Kubernetes for a Service named inlet included; an unknown ``INLET_*``
    is refused, since it is a typing error or from another version, and would silently not hold.
    """
    names = {env_name(field): field for field in Settings.model_fields}
    given = {name: value for name, value in environ.items() if value != ""}
    for name, value in given.items():
        if name.upper().startswith(_PREFIX) and name not in names and not _is_service_link(name, value):
            raise _unknown(name, value, names)
    try:
        return Settings.model_validate({name: given[name] for name in names if name in given})
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"][0])
        raise _error(names[name], given[name], _range(names[name])) from None


def store_url(settings: Settings) -> str:
    """Where the store is: ``redis_url``, else the embedded store's ``unix://`` URL, its path percent-encoded."""
    return settings.redis_url or "unix://" + quote(str(settings.data_dir / SOCKET_NAME))


def redacted(url: str) -> str:
    """``url`` without user, password and query, also where it is no valid URL: for logs and errors."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    if scheme == "unix" and rest.startswith("/"):
        return scheme + separator + rest.partition("?")[0]
    userinfo, at, address = rest.rpartition("@")
    address, question, _ = address.partition("?")
    # Without an "@" this may be a password whose host was forgotten; without a scheme, anything.
    shown = _HOST_AND_PORT.fullmatch(address) and (separator or at or ":" in address)
    hidden = "***@" if userinfo or at else ""
    return scheme + separator + hidden + (address if shown else "***") + ("?***" if question else "")


def _url_fault(url: str) -> str | None:
    """What is wrong with a REDIS_URL, and the mend; None if nothing is."""
    # urlsplit would drop some of these silently.
    if not url.isprintable() or " " in url:
        return "holds a space or a control character; write %20 and the like"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL; write redis://HOST:6379/0, and percent-encode the password"
    if parts.scheme not in _SCHEMES or not url.partition(":")[2].startswith("//"):
        return "must begin with redis://, rediss:// or unix://; write redis://HOST:6379/0"
    if parts.fragment:
        return "holds a '#'; write %23"
    if parts.scheme == "unix":
        if parts.hostname or len(parts.path) < 2:
            return "must name an absolute path; write unix:///PATH/TO/SOCKET"
    elif not parts.hostname or port == 0:
        return "names no host, or port 0; write redis://HOST:6379/0"
    elif not re.fullmatch(r"(/\d{0,9})?", parts.path, re.ASCII):
        return "names a database that is no number; write redis://HOST:6379/0, and percent-encode the password"
    options = parse_qsl(parts.query, keep_blank_values=True)
    if not all(_URL_OPTION.fullmatch(name) for name, _ in options):
        return "has an option other than db, client_name and ssl_*; take it out (deadlines are INLET_*_TIMEOUT_MS)"
    if any(name == "db" and not re.fullmatch(r"\d{1,9}", value, re.ASCII) for name, value in options):
        return "names a database that is no number; write ?db=0"
    return None


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _range(field: str) -> str:
    """What a whole number of ``field`` must be. Every field that pydantic itself can refuse is one."""
    info = Settings.model_fields[field]
    low = next((bound.ge for bound in info.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in info.metadata if hasattr(bound, "le")), None)
    if low is None or high is None:
        return "is not text that can be read (UTF-8); write it anew"
    return f"must be a whole number from {low} to {high}; unset it for {info.default}"


def _unknown(name: str, value: str, names: Mapping[str, str]) -> SettingsError:
    """No such variable; most likely that one."""
    bare = name.upper().removeprefix(_PREFIX)
    near = [bare] if bare in names else get_close_matches(name.upper(), names, n=1)
    mend = f"did you mean {near[0]}?" if near else "unset it; docs/operations.md lists them all"
    if _SECRET_NAME.search(name.upper()):
        value = "***"
    elif "://" in value or "@" in value:
        value = redacted(value)
    return SettingsError(f"{_quoted(name)[1:-1]}={_quoted(value)} is no setting of Inlet; {mend}")


def _error(field: str, value: str, fault: str) -> SettingsError:
    shown = redacted(value) if field == "redis_url" else value
    return SettingsError(f"{env_name(field)}={_quoted(shown)} {fault}")


def _quoted(value: str) -> str:
    """One line, whatever the value holds."""
    return repr(value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "...")


def main() -> None:
    """``python -m wsgi.settings``: check the environment and say where records would go; exit 1 on a fault."""
    try:
        settings = load(os.environ)
    except SettingsError as error:
        sys.exit(f"inlet: {error.detail}")
    print(f"inlet: the settings are fine: stream {settings.stream!r} of {redacted(store_url(settings))}")


if __name__ == "__main__":
    main()
