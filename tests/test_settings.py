"""wsgi.settings: what the environment may hold, and the one line that refuses anything else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream.limits import RecordLimits
from inlet.stream.place import SOCKET_NAME, SOCKET_PATH_BYTES_MAX, STREAM_CHARS_MAX, redacted
from inlet.stream.retention import Retention
from tests.stream.urls import SECRET, UNUSABLE, USABLE
from tests.support import ROOT
from wsgi.receivers.limits import PayloadLimits
from wsgi.settings import STRING_BYTES_MAX, Settings, load
from wsgi.variables import SettingsError, env_name


def fault(environ: dict[str, str]) -> str:
    """The one line that ``environ`` is refused with."""
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert "\n" not in caught.value.detail
    assert caught.value.detail.isprintable()
    return caught.value.detail


def numbers() -> Iterator[tuple[str, str, int, int]]:
    """Every whole number: variable, field, lowest and highest value."""
    for name, info in Settings.model_fields.items():
        if info.annotation is int:
            low = next(bound.ge for bound in info.metadata if hasattr(bound, "ge"))
            high = next(bound.le for bound in info.metadata if hasattr(bound, "le"))
            yield env_name(name), name, low, high


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load({})
    assert (settings.redis_url, settings.port, settings.web_concurrency) == (None, 8000, 2)
    assert (settings.stream, settings.data_dir) == ("logs", Path.cwd() / "data")
    assert (settings.entry_bytes_max, settings.connect_timeout_ms, settings.commit_timeout_ms) == (1 << 20, 1000, 2000)


@pytest.mark.parametrize("limits", [RecordLimits, PayloadLimits])
def test_every_bound_of_the_core_is_a_setting_with_the_same_name_and_default(
    limits: type[RecordLimits] | type[PayloadLimits],
) -> None:
    settings = load({})
    for field in fields(limits):
        assert getattr(settings, field.name) == field.default


def test_the_process_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INLET_STREAM", "stream", "STREAM"):
        monkeypatch.setenv(name, "elsewhere")
    assert load({}).stream == "logs"


def test_importing_reads_no_environment() -> None:
    code = "import wsgi.settings, wsgi.store.embedded"
    environ = {"INLET_STREAM": "{", "INLET_NO_SUCH": "1", "PORT": "x", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=30)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).stream = "other"


def test_an_empty_value_counts_as_unset() -> None:
    assert load({"PORT": "", "REDIS_URL": "", "INLET_STREAM": "", "INLET_NO_SUCH": ""}) == load({})


def test_every_setting_has_a_text_for_the_documentation() -> None:
    for name, info in Settings.model_fields.items():
        text = " ".join((info.description or "").split())
        for word in ("Default: ", "Consequence: ", "If unsure: "):
            assert word in text, name
        if info.annotation is int:
            assert re.search(rf"Default: {info.default}\b", text), name


@pytest.mark.parametrize(("variable", "field", "low", "high"), list(numbers()))
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(variable: str, field: str, low: int, high: int) -> None:
    beside = {
        "record_bytes_max": {"INLET_ENTRY_BYTES_MAX": str(STRING_BYTES_MAX)},
        "entry_bytes_max": {"INLET_RECORD_BYTES_MAX": "128"},
    }.get(field, {})
    for value in (low, high):
        assert getattr(load({**beside, variable: str(value)}), field) == value
    for wrong in (low - 1, high + 1):
        line = fault({**beside, variable: str(wrong)})
        assert line.startswith(f"{variable}='{wrong}' must be a whole number from {low} to {high}; unset it for ")


@pytest.mark.parametrize("wrong", ["abc", "1.0", "8_0", " 80", "80\n", "1e3", "0x50", "٣", "9" * 5000, "\udcff"])
def test_what_is_no_whole_number_is_refused(wrong: str) -> None:
    assert fault({"PORT": wrong}).startswith("PORT=")


def test_an_unknown_variable_is_refused_with_a_guess() -> None:
    assert fault({"INLET_STREEM": "x"}) == "INLET_STREEM='x' is not a setting of Inlet; did you mean INLET_STREAM?"
    assert "did you mean PORT?" in fault({"INLET_PORT": "80"})
    assert "did you mean REDIS_URL?" in fault({"INLET_REDIS_URL": "redis://h"})
    assert "did you mean INLET_STREAM?" in fault({"inlet_stream": "x"})
    assert "docs/operations.md" in fault({"INLET_XYZZY_QUUX": "x"})


def test_variables_of_others_are_ignored() -> None:
    load({"HOME": "/", "STREAM": "x", "redis_url": "x", "REDIS_PORT": "tcp://10.0.0.1:6379", "OUTLET_X": "1"})


def test_the_variables_of_a_kubernetes_service_named_inlet_are_ignored() -> None:
    load(
        {
            "INLET_SERVICE_HOST": "10.0.0.1",
            "INLET_SERVICE_PORT": "8000",
            "INLET_SERVICE_PORT_HTTP": "8000",
            "INLET_PORT": "tcp://10.0.0.1:8000",
            "INLET_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "INLET_PORT_8000_TCP_ADDR": "10.0.0.1",
            "INLET_CANARY_SERVICE_HOST": "10.0.0.2",
            "INLET_CANARY_PORT": "tcp://10.0.0.2:8000",
        }
    )


def test_a_record_over_the_entry_is_refused() -> None:
    assert load({"INLET_RECORD_BYTES_MAX": "4096", "INLET_ENTRY_BYTES_MAX": "4096"})
    line = fault({"INLET_RECORD_BYTES_MAX": "4097", "INLET_ENTRY_BYTES_MAX": "4096"})
    assert line.startswith("INLET_RECORD_BYTES_MAX='4097' is over INLET_ENTRY_BYTES_MAX (4096)")


@pytest.mark.parametrize("name", ["logs", "a", "app:logs", "tenant-1/logs.v2", "x" * STREAM_CHARS_MAX])
def test_a_stream_may_have_any_plain_name(name: str) -> None:
    assert load({"INLET_STREAM": name}).stream == name


@pytest.mark.parametrize("name", [" ", "a b", "a\n", "\tx", "{a}", "a}", "x" * (STREAM_CHARS_MAX + 1), "é", "a\x7f"])
def test_a_bad_name_of_a_stream_is_refused(name: str) -> None:
    assert fault({"INLET_STREAM": name}).startswith("INLET_STREAM=")


@pytest.mark.parametrize("url", USABLE)
def test_a_url_that_redis_py_reads_is_taken_as_it_is(url: str) -> None:
    settings = load({"REDIS_URL": url})
    assert settings.store_url == url
    redis.ConnectionPool.from_url(url)
    assert SECRET not in redacted(url)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("url", UNUSABLE)
def test_an_unusable_url_is_refused_and_its_password_not_shown(url: str) -> None:
    line = fault({"REDIS_URL": url})
    assert line.startswith("REDIS_URL=")
    assert SECRET not in line


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=40))
def test_no_password_is_ever_shown(password: str) -> None:
    for url in (f"redis://user:{password}@localhost:6379/0", f"redis://user:{password}@localhost:x"):
        assert redacted(url).rpartition("@")[0] == "redis://***"


def test_a_secret_in_an_unknown_variable_is_not_shown() -> None:
    assert SECRET not in fault({"INLET_REDIS_PASSWORD": SECRET})
    assert SECRET not in fault({"INLET_URL": f"redis://:{SECRET}@localhost"})


def test_the_embedded_store_is_the_default_and_its_directory_absolute(tmp_path: Path) -> None:
    assert load({"INLET_DATA_DIR": "/var/lib/x/../inlet"}).store_url == f"unix:///var/lib/inlet/{SOCKET_NAME}"
    assert load({"INLET_DATA_DIR": "store"}).store_url == f"unix://{Path.cwd()}/store/{SOCKET_NAME}"


def test_redis_py_finds_the_path_that_was_meant_in_the_url() -> None:
    url = load({"INLET_DATA_DIR": "/srv/a b/100%?#é"}).store_url
    pool = redis.ConnectionPool.from_url(url)
    assert pool.connection_kwargs["path"] == f"/srv/a b/100%?#é/{SOCKET_NAME}"


def test_the_path_of_the_socket_is_taken_at_its_bound_and_refused_beyond() -> None:
    room = SOCKET_PATH_BYTES_MAX - len(f"/{SOCKET_NAME}")
    assert load({"INLET_DATA_DIR": "/" + "x" * (room - 1)})
    assert f"{SOCKET_PATH_BYTES_MAX + 1} bytes long" in fault({"INLET_DATA_DIR": "/" + "x" * room})
    assert fault({"INLET_DATA_DIR": "/" + "é" * (room // 2 + 1)})
    assert load({"INLET_DATA_DIR": "/" + "x" * room, "REDIS_URL": "redis://localhost"})


def test_a_directory_that_is_not_utf8_is_refused() -> None:
    assert "is not UTF-8" in fault({"INLET_DATA_DIR": os.fsdecode(b"/srv/\xff")})


def test_a_long_value_is_cut_in_the_line() -> None:
    assert len(fault({"INLET_STREAM": "x" * 100_000})) < 300


@pytest.mark.parametrize(
    ("variable", "value", "values"),
    [
        ("INLET_DURABILITY", "bogus", "received, stored, synced, replicated; unset it for stored"),
        ("INLET_RETENTION_UNREAD", "foo", "keep, drop; unset it for keep"),
        ("INLET_FSYNC", "no", "background, everysec, always; unset it for background"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(variable: str, value: str, values: str) -> None:
    assert fault({variable: value}) == f"{variable}={value!r} must be one of {values}"


@pytest.mark.parametrize(
    ("environ", "fsync"),
    [
        ({}, "background"),
        ({"INLET_DURABILITY": "received"}, "background"),
        ({"INLET_DURABILITY": "synced"}, "always"),
        ({"INLET_DURABILITY": "synced", "INLET_FSYNC": ""}, "always"),
        ({"INLET_DURABILITY": "synced", "INLET_FSYNC": "always"}, "always"),
        # A request may ask for synced then.
        ({"INLET_DURABILITY": "stored", "INLET_FSYNC": "always"}, "always"),
        ({"INLET_FSYNC": "everysec"}, "everysec"),
    ],
)
def test_the_level_decides_who_fsyncs_unless_a_setting_does(environ: dict[str, str], fsync: str) -> None:
    assert load(environ).fsync == fsync


@pytest.mark.parametrize("fsync", ["background", "everysec"])
def test_an_fsync_after_the_reply_contradicts_synced(fsync: str) -> None:
    line = fault({"INLET_DURABILITY": "synced", "INLET_FSYNC": fsync})
    assert line == f"INLET_FSYNC={fsync!r} contradicts INLET_DURABILITY=synced, which needs always; unset one of them"


def test_fsync_is_refused_where_it_would_have_no_effect() -> None:
    line = fault({"REDIS_URL": "redis://h", "INLET_FSYNC": "always"})
    assert line.startswith("INLET_FSYNC='always' is for the embedded store; unset it, and set appendfsync ")
    assert load({"REDIS_URL": "redis://h", "INLET_DURABILITY": "synced"})


def test_retention_is_checked_with_the_other_settings() -> None:
    assert "'7d' must be one of age=7d" in fault({"INLET_RETENTION": "7d"})
    settings = load({"INLET_RETENTION": "age=7d,entries=10", "INLET_RETENTION_UNREAD": "drop"})
    assert settings.keep == Retention(age_ms=604_800_000, entries=10, unread="drop")
    assert load({}).keep is None


@pytest.mark.parametrize(("value", "status"), [("2", 0), ("many", 1)])
def test_the_environment_can_be_checked_without_starting_anything(value: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsgi.settings"], cwd=ROOT,
        env={**os.environ, "WEB_CONCURRENCY": value}, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == status
    assert ("WEB_CONCURRENCY='many' must be a whole number" in done.stderr) is bool(status)
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["logs:dead", "logs:rejected", "a:full", "logs:seen:g:x"])
def test_a_stream_is_not_named_like_one_of_our_own_keys(name: str) -> None:
    # Found from outside: its records would stand among dead letters.
    assert "is named like a store key of Inlet's own" in fault({"INLET_STREAM": name})


# ---- who may send


def test_the_path_of_the_keys_file_is_absolute() -> None:
    assert load({}).keys_file is None
    assert load({"INLET_KEYS_FILE": "keys.toml"}).keys_file == Path.cwd() / "keys.toml"
    assert "is not UTF-8; name a file that is" in fault({"INLET_KEYS_FILE": "\udcff"})


@pytest.mark.parametrize("text", ["https://a.example", "https://a.example, http://b.example:8080", "*", "null"])
def test_origins_are_taken(text: str) -> None:
    assert load({"INLET_CORS_ORIGINS": text}).cors_origins == text


@pytest.mark.parametrize(
    "text", ["a.example", "https://a.example/", "https://A.example", "*,https://a.example", ",", "https://a:443"]
)
def test_what_is_no_list_of_origins_is_refused(text: str) -> None:
    assert fault({"INLET_CORS_ORIGINS": text}).startswith(f"INLET_CORS_ORIGINS='{text}' is not valid: ")


@pytest.mark.parametrize(
    ("variable", "values"),
    [("INLET_OPEN", ("0", "1")), ("INLET_KEEP_REJECTED", ("0", "1")), ("INLET_LOG", ("text", "json"))],
)
def test_a_word_that_is_none_of_the_values_is_refused_and_they_are_listed(
    variable: str, values: tuple[str, str]
) -> None:
    for value in values:
        load({variable: value})
    assert fault({variable: "yes"}) == f"{variable}='yes' must be one of {', '.join(values)}; unset it for {values[0]}"
