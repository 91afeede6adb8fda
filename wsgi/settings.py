"""The environment -> one frozen, validated ``Settings``: every bound on a setting, and every contradiction.

What lives here: the settings, their bounds, and their texts (docs/operations.md is written from the docstrings). What
must not: reading ``os.environ`` (callers pass it), files, sockets, what a setting is for. The rules for where the
stream is are ``inlet.stream.place``'s, those for retention ``inlet.stream.retention``'s, and the defaults of the bounds
on a body and a record stand with those bounds.

Inlet's own variables are ``INLET_`` and the field's name in capitals; ``_SHARED`` names those that others read too. An
empty value counts as unset. A contradiction is a pair that cannot both be honored.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AliasGenerator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from inlet import keyfile
from inlet.stream import place
from inlet.stream.errors import InletError
from inlet.stream.keys import is_reserved
from inlet.stream.limits import RecordLimits
from inlet.stream.retention import Retention, retention
from wsgi.access.cors import parse_origins
from wsgi.receivers.limits import PayloadLimits
from wsgi.variables import PREFIX, env_name, invalid, is_service_link, unknown

STRING_BYTES_MAX = 536_870_912
"""Bytes: the longest value Redis takes (``proto-max-bulk-len``, 512 MB unless changed there)."""
# int() takes "8_0" and " 80" too; gunicorn, which reads PORT as well, does not.
_WHOLE_NUMBER = re.compile(r"-?\d{1,15}", re.ASCII)


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
    """URL of the store: ``redis://``, ``rediss://`` (TLS), or ``unix://``; Redis >= 6.2 or Valkey. Default:
    unset, which starts and stops an embedded store with Inlet. Consequence: with a URL, nothing is kept in
    ``INLET_DATA_DIR``, and that store's configuration decides what survives a crash. Query options: ``db``,
    ``client_name``, ``ssl_*``. If unsure: on one machine, leave it unset."""

    port: int = Field(8000, ge=0, le=65_535)
    """TCP port to listen on; 0 lets the kernel choose. Default: 8000. Consequence: it says nothing about the
    interfaces; see ``INLET_OPEN``. ``--bind`` overrides both. If unsure: leave it unset."""

    open: Literal["0", "1"] = "0"
    """``1``: listen on all interfaces though no keys are required. Default: ``0``, which listens on 127.0.0.1 only,
    unless ``INLET_KEYS_FILE`` is set. Consequence: whoever can connect can store records. If unsure: keep the default,
    and create keys."""

    keys_file: Path | None = None
    """File of the keys that producers must send, as ``inlet keys new`` writes it. Default: unset, no key is required.
    Consequence: requests for records without a valid key get 401, and Inlet listens on all interfaces. A change of the
    file takes effect within a second or two; a file that cannot be read stops a start, but not a server that runs. If
    unsure: set it wherever others than this machine can connect."""

    receivers: str | None = None
    """Receivers that are open, by name, separated by commas: ``native,otlp``. Default: all of them. Consequence: the
    paths of the others answer 404. If unsure: keep the default; a key can be limited to receivers too."""

    cors_origins: str | None = None
    """Origins whose web pages may send records, separated by commas, exactly as browsers send them:
    ``https://app.example.com``, with a port only if it is not the default; ``null`` for sandboxed frames; or ``*``
    alone, for all. Default: unset, only pages of Inlet's own origin. Consequence: a request of any other page gets 403,
    and nothing is stored. If unsure: leave it unset; list the origins of your pages if they send records."""

    web_concurrency: int = Field(2, ge=1, le=256)
    """Number of worker processes. Default: 2. Consequence: each has its own memory and its own connections to the
    store; ``--workers`` overrides it. If unsure: use the number of cores."""

    data_dir: Path = Path(place.DATA_DIR_DEFAULT)
    """Directory of the embedded store: append-only file, log, socket, locks. Default: ``./data``, created as needed.
    Consequence: the accepted records live here, so use a persistent disk. One Inlet per directory; the path of the
    socket in it is limited to 107 bytes (macOS: 103). Unused with ``REDIS_URL``. If unsure: use an absolute path on a
    local disk."""

    stream: str = place.STREAM_DEFAULT
    """Store key of the stream. Default: ``logs``. Consequence: consumers must read the same key. Printable ASCII
    without spaces or braces, 256 characters at most. If unsure: keep the default."""

    entry_bytes_max: int = Field(1_048_576, ge=256, le=STRING_BYTES_MAX)
    """Bytes of records in one stream entry; a larger commit becomes several entries. Default: 1048576 (1 MiB).
    Consequence: consumers get entries of up to this size. It must not be below ``INLET_RECORD_BYTES_MAX``. If unsure:
    keep the default."""

    connect_timeout_ms: int = Field(1_000, ge=1, le=10_000)
    """Milliseconds to wait for a connection to the store. Default: 1000. Consequence: requests wait this long for
    their 503 when the store is away; a value that is too low refuses a busy store. If unsure: keep the default."""

    commit_timeout_ms: int = Field(2_000, ge=1, le=15_000)
    """Milliseconds to wait for the store's reply to a commit. Default: 2000. Consequence: after it the answer is 503,
    outcome unknown, and producers send the records again. Three quarters of it are for the fsync or the replicas of
    the higher levels. Together with the connect timeout it stays under gunicorn's 30 s for a silent worker. If unsure:
    keep the default."""

    durability: Literal["received", "stored", "synced", "replicated"] = "stored"
    """What a 202 promises: ``received`` (written to the store's socket), ``stored`` (the store has replied), ``synced``
    (its append-only file is fsynced), or ``replicated`` (``INLET_REPLICAS`` replicas have the records). Default:
    ``stored``. Consequence: a request can ask for more with the header ``Inlet-Durability``, never for less.
    ``received`` can lose records after the 202. ``synced`` needs Redis >= 7.2 or Valkey with ``appendonly yes`` and
    ``appendfsync always``; the embedded store is then configured so. If unsure: keep the default; use ``synced`` where
    a power failure must not lose records."""

    fsync: Literal["background", "everysec", "always"] = "background"
    """Who fsyncs the embedded store's append-only file: ``background`` (a process of Inlet's, ten times a second),
    ``everysec`` (the store, once a second), or ``always`` (the store, before it replies). Default: ``background``;
    ``always`` with ``INLET_DURABILITY=synced``. Consequence: if the store is killed, ``background`` and ``always`` lose
    nothing that was answered, and ``everysec`` can lose what arrived during an fsync. If the power fails,
    ``background`` can lose a fraction of a second, ``everysec`` one or two seconds, and ``always`` nothing, at half of
    the rate. Refused with ``REDIS_URL``. If unsure: leave it unset."""

    dedup_seconds: int = Field(0, ge=0, le=604_800)
    """Seconds for which each stream remembers the ``event_id`` of a stored record; 0 for not at all. Default: 0.
    Consequence: a record whose ``event_id`` was stored within that time is answered 202 and not stored again, so
    producers can retry blindly. Each remembered id takes about 60 bytes of the store's memory. If unsure: set it to the
    longest time for which your producers retry."""

    keep_rejected: Literal["0", "1"] = "0"
    """``1``: keep records that were refused one by one in the stream ``<stream>:rejected``, for ``inlet rejected``.
    Default: ``0``, they are only counted. Consequence: producers' invalid records take memory of the store, within
    bounds. If unsure: set it while you find out why records are refused."""

    log: Literal["text", "json"] = "text"
    """Form of the log: ``text``, or ``json`` for one JSON object a line. Default: ``text``. Consequence: none for
    requests. If unsure: use ``json`` where a program reads the log."""

    replicas: int = Field(1, ge=1, le=16)
    """Replicas that must have a record at the level ``replicated``. Default: 1. Consequence: with fewer connected,
    requests at that level get 503. If unsure: keep the default."""

    backlog_max: int = Field(0, ge=0, le=1_000_000_000)
    """Entries that the slowest consumer group may be behind (lag plus pending; without groups, the length of the
    stream); 0 for no bound. Default: 0. Consequence: above it, new records are refused with 429 until consumers catch
    up; sampled once a second. If unsure: keep the default and watch the store's memory usage."""

    retention: str | None = None
    """What to keep of the stream: ``age=7d``, ``entries=1000000``, ``memory=2gb``, or several of them separated by
    commas. Default: unset, nothing is trimmed. Consequence: entries beyond the bounds are trimmed once all consumer
    groups have acked them; while unread entries fill the bounds, new records are refused with 429. If unsure: set
    ``memory=`` to half of the memory of the store's machine."""

    retention_unread: Literal["keep", "drop"] = "keep"
    """What happens to entries beyond ``INLET_RETENTION`` that some group has not acked: ``keep`` or ``drop``. Default:
    ``keep``. Consequence: ``drop`` loses records after their 202; it is logged, counted, and shown in ``/readyz``. If
    unsure: keep the default."""

    memory_percent_max: int = Field(95, ge=1, le=100)
    """Percentage of the store's ``maxmemory`` above which new records are refused with 503; no effect if the store has
    no ``maxmemory``. Default: 95. Consequence: the rest is for consumers' bookkeeping and the delay of a sample. If
    unsure: keep the default."""

    inflight_bytes_max: int = Field(67_108_864, ge=128, le=STRING_BYTES_MAX)
    """Bytes of records that a worker holds at one durability level: for the next commit, and in commits without a reply
    yet. Default: 67108864 (64 MiB). Consequence: above it, requests get 503; a single request is never too large for
    it. If unsure: keep the default."""

    inflight_requests_max: int = Field(16_384, ge=1, le=1_000_000)
    """Requests that a worker holds at one durability level, for the next commit and in commits without a reply yet.
    Default: 16384. Consequence: above it, requests get 503. If unsure: keep the default."""

    record_bytes_max: int = Field(RecordLimits.record_bytes_max, ge=128, le=STRING_BYTES_MAX)
    """Bytes of one record as stored. Default: 262144 (256 KiB). Consequence: a longer record is rejected. It must not
    exceed ``INLET_ENTRY_BYTES_MAX``. If unsure: keep the default."""

    event_id_chars_max: int = Field(RecordLimits.event_id_chars_max, ge=1, le=65_536)
    """Characters of ``event_id``. Default: 256. Consequence: a record with a longer one is rejected. If unsure: keep
    the default; a UUID has 36."""

    service_chars_max: int = Field(RecordLimits.service_chars_max, ge=1, le=65_536)
    """Characters of ``service``. Default: 256. Consequence: a record with a longer one is rejected. If unsure: keep the
    default."""

    message_chars_max: int = Field(RecordLimits.message_chars_max, ge=1, le=STRING_BYTES_MAX)
    """Characters of ``message``. Default: 131072. Consequence: a record with a longer one is rejected;
    ``INLET_RECORD_BYTES_MAX`` applies too. If unsure: keep the default; a long stack trace fits."""

    metadata_pairs_max: int = Field(RecordLimits.metadata_pairs_max, ge=0, le=65_536)
    """Pairs in ``metadata``. Default: 128. Consequence: a record with more is rejected; 0 allows only empty metadata.
    If unsure: keep the default."""

    metadata_key_chars_max: int = Field(RecordLimits.metadata_key_chars_max, ge=1, le=65_536)
    """Characters of a key of ``metadata``. Default: 256. Consequence: a record with a longer one is rejected. If
    unsure: keep the default."""

    metadata_value_chars_max: int = Field(RecordLimits.metadata_value_chars_max, ge=1, le=STRING_BYTES_MAX)
    """Characters of a value of ``metadata``. Default: 16384. Consequence: a record with a longer one is rejected;
    ``INLET_RECORD_BYTES_MAX`` applies too. If unsure: keep the default."""

    timestamp_chars_max: int = Field(RecordLimits.timestamp_chars_max, ge=25, le=1_024)
    """Characters of ``timestamp``. Default: 64. Consequence: a record with a longer one is rejected; nanoseconds and
    an offset take 35. If unsure: keep the default."""

    payload_bytes_max: int = Field(PayloadLimits.payload_bytes_max, ge=128, le=STRING_BYTES_MAX)
    """Bytes of a body, before and after decoding. Default: 8388608 (8 MiB). Consequence: a longer body gets 413; a
    worker can hold several times this for each request it is working on. If unsure: keep the default and let
    producers send smaller bulks."""

    otlp_bytes_max: int = Field(PayloadLimits.otlp_bytes_max, ge=128, le=STRING_BYTES_MAX)
    """Bytes of an OTLP body, before and after decoding. Default: 20971520 (20 MiB). Consequence: a longer body gets
    413, which exporters drop; a worker can hold several times this for each request it is working on. If unsure: keep
    the default, which is the largest batch that collectors send."""

    bulk_records_max: int = Field(PayloadLimits.bulk_records_max, ge=1, le=1_000_000)
    """Records in a bulk, rejected ones included. Default: 50000. Consequence: a larger bulk gets 413; other requests
    of the worker wait while a bulk is parsed. If unsure: keep the default."""

    nesting_depth_max: int = Field(PayloadLimits.nesting_depth_max, ge=3, le=256)
    """Nesting depth of arrays and objects in a body. Default: 32. Consequence: a deeper body gets 400; a bulk itself
    takes 3. If unsure: keep the default."""

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

    @field_validator("redis_url", "stream")
    @classmethod
    def _usable(cls, value: str | None, info: ValidationInfo) -> str | None:
        """``REDIS_URL`` and ``INLET_STREAM`` as consumers read them too."""
        fault = None
        if value is not None:
            fault = place.url_fault(value) if info.field_name == "redis_url" else place.stream_fault(value)
            if info.field_name == "stream" and is_reserved(value):
                fault = fault or "is named like a store key of Inlet's own; name another stream"
        if fault is not None:
            raise invalid(str(info.field_name), str(value), fault)
        return value

    @field_validator("receivers")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        for name in [] if text is None else text.split(","):
            if name.strip() not in keyfile.RECEIVERS:
                known = ", ".join(keyfile.RECEIVERS)
                raise invalid("receivers", text or "", f"names no receiver: {name.strip()!r}; list some of {known}")
        return text

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                parse_origins(text)
        except ValueError as error:
            raise invalid("cors_origins", text or "", f"is not valid: {error}") from None
        return text

    @field_validator("retention")
    @classmethod
    def _readable(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                retention(text)
        except ValueError as error:
            raise invalid("retention", text or "", f"is not valid: {error}") from None
        return text

    @field_validator("data_dir", "keys_file")
    @classmethod
    def _absolute(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        try:
            str(path).encode()
        except UnicodeEncodeError:
            what = "directory" if info.field_name == "data_dir" else "file"
            raise invalid(str(info.field_name), str(path), f"is not UTF-8; name a {what} that is") from None
        return Path(os.path.abspath(path))

    @model_validator(mode="before")
    @classmethod
    def _synced_means_always(cls, given: Mapping[str, object]) -> Mapping[str, object]:
        """Let ``synced`` change the default of ``fsync``: no other value keeps that promise."""
        embedded = env_name("redis_url") not in given
        if embedded and given.get(env_name("durability")) == "synced":
            return {env_name("fsync"): "always", **given}
        return given

    @model_validator(mode="after")
    def _no_contradiction(self) -> Settings:
        if self.record_bytes_max > self.entry_bytes_max:
            fault = f"is over {env_name('entry_bytes_max')} ({self.entry_bytes_max}): no entry could hold such a record"
            raise invalid("record_bytes_max", str(self.record_bytes_max), f"{fault}; lower it, or raise the other")
        if self.durability == "replicated" and self.redis_url is None:
            fault = "needs replicas; the embedded store has none, so set REDIS_URL"
            raise invalid("durability", self.durability, fault)
        if self.redis_url is not None and "fsync" in self.model_fields_set:
            fault = "is for the embedded store; unset it, and set appendfsync in the configuration of the store"
            raise invalid("fsync", self.fsync, f"{fault} at REDIS_URL")
        if self.redis_url is None and self.durability == "synced" and self.fsync != "always":
            fault = f"contradicts {env_name('durability')}=synced, which needs always; unset one of them"
            raise invalid("fsync", self.fsync, fault)
        if self.redis_url is None and (fault := place.data_dir_fault(self.data_dir) or ""):
            raise invalid("data_dir", str(self.data_dir), fault)
        return self

    @property
    def store_url(self) -> str:
        """URL of the store: ``REDIS_URL``, else the embedded store's."""
        return self.redis_url or place.embedded_url(self.data_dir)

    @property
    def open_receivers(self) -> tuple[str, ...]:
        """Names of the receivers that are open."""
        if self.receivers is None:
            return keyfile.RECEIVERS
        return tuple(dict.fromkeys(name.strip() for name in self.receivers.split(",")))

    @property
    def keep(self) -> Retention | None:
        """What to keep of the stream, or None where nothing is trimmed."""
        return None if self.retention is None else retention(self.retention, self.retention_unread)


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings in ``environ``; raise SettingsError, one line about the first fault and how to fix it.

    Variables of others are ignored, those of Kubernetes for a Service named inlet included; an unknown ``INLET_*``
    is refused: it is a typing error or from another version, and would silently have no effect.
    """
    names = {env_name(field): field for field in Settings.model_fields}
    given = {name: value for name, value in environ.items() if value != ""}
    for name, value in given.items():
        if name.upper().startswith(PREFIX) and name not in names and not is_service_link(name, value):
            raise unknown(name, value, names)
    try:
        return Settings.model_validate({name: given[name] for name in names if name in given})
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"][0])
        raise invalid(names[name], given[name], _expected(names[name])) from None


def _expected(field: str) -> str:
    """Say what a value of ``field`` must be, where pydantic itself has refused it."""
    info = Settings.model_fields[field]
    low = next((bound.ge for bound in info.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in info.metadata if hasattr(bound, "le")), None)
    if low is not None and high is not None:
        return f"must be a whole number from {low} to {high}; unset it for {info.default}"
    values = [value for value in get_args(info.annotation) if isinstance(value, str)]
    if values:
        return f"must be one of {', '.join(values)}; unset it for {info.default}"
    return "is not valid text (UTF-8); set it again"


def main() -> None:
    """Check the environment, the keys file included, and print where records would go; exit 1 on a fault.

    That is ``python -m wsgi.settings``.
    """
    try:
        settings = load(os.environ)
        if settings.keys_file is not None:
            keyfile.load(settings.keys_file)
    except InletError as error:
        sys.exit(f"inlet: {error.detail}")
    where = place.redacted(settings.store_url)
    print(f"inlet: the settings are valid: records go to stream {settings.stream!r} of {where}")


if __name__ == "__main__":
    main()
