"""inlet.stream.place: the store's URL and the stream's name, from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream.place import (
    SOCKET_NAME,
    SOCKET_PATH_BYTES_MAX,
    STREAM_CHARS_MAX,
    Place,
    PlaceError,
    from_environment,
    redacted,
)
from tests.stream.urls import SECRET, UNUSABLE, USABLE


def fault(**environ: str) -> str:
    with pytest.raises(PlaceError) as error:
        from_environment(environ)
    assert error.value.reason == "settings"
    return error.value.detail


def test_without_variables_the_place_is_the_embedded_store_and_logs() -> None:
    place = Place(f"unix://{Path.cwd()}/data/{SOCKET_NAME}", "logs")
    assert from_environment({}) == place
    assert from_environment({"REDIS_URL": "", "INLET_DATA_DIR": "", "INLET_STREAM": ""}) == place


def test_the_data_directory_is_made_absolute() -> None:
    assert from_environment({"INLET_DATA_DIR": "/var/lib/x/../inlet"}).url == f"unix:///var/lib/inlet/{SOCKET_NAME}"
    assert from_environment({"INLET_DATA_DIR": "store"}).url == f"unix://{Path.cwd()}/store/{SOCKET_NAME}"


def test_redis_py_finds_the_path_that_was_meant_in_the_url() -> None:
    pool = redis.ConnectionPool.from_url(from_environment({"INLET_DATA_DIR": "/srv/a b/100%?#é"}).url)
    assert pool.connection_kwargs["path"] == f"/srv/a b/100%?#é/{SOCKET_NAME}"


def test_the_path_of_the_socket_is_taken_at_its_bound_and_refused_beyond() -> None:
    room = SOCKET_PATH_BYTES_MAX - len(f"/{SOCKET_NAME}")
    assert from_environment({"INLET_DATA_DIR": "/" + "x" * (room - 1)})
    assert f"{SOCKET_PATH_BYTES_MAX + 1} bytes long" in fault(INLET_DATA_DIR="/" + "x" * room)
    assert fault(INLET_DATA_DIR="/" + "é" * (room // 2 + 1)).startswith("INLET_DATA_DIR=")
    assert from_environment({"INLET_DATA_DIR": "/" + "x" * room, "REDIS_URL": "redis://localhost"})


@pytest.mark.parametrize("name", ["logs", "a", "app:logs", "tenant-1/logs.v2", "x" * STREAM_CHARS_MAX])
def test_a_stream_may_have_any_plain_name(name: str) -> None:
    assert from_environment({"INLET_STREAM": name}).stream == name


@pytest.mark.parametrize("name", [" ", "a b", "a\n", "\tx", "{a}", "a}", "x" * (STREAM_CHARS_MAX + 1), "é", "a\x7f"])
def test_a_bad_name_of_a_stream_is_refused(name: str) -> None:
    assert fault(INLET_STREAM=name).startswith("INLET_STREAM=")


@pytest.mark.parametrize("url", USABLE)
def test_a_url_that_redis_py_reads_is_taken_as_it_is(url: str) -> None:
    assert from_environment({"REDIS_URL": url}).url == url
    redis.ConnectionPool.from_url(url)
    assert SECRET not in redacted(url)


@pytest.mark.parametrize("url", UNUSABLE)
def test_an_unusable_url_is_refused_and_its_password_not_shown(url: str) -> None:
    line = fault(REDIS_URL=url)
    assert line.startswith("REDIS_URL=")
    assert SECRET not in line


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=40))
def test_no_password_is_ever_shown(password: str) -> None:
    for url in (f"redis://user:{password}@localhost:6379/0", f"redis://user:{password}@localhost:x"):
        assert redacted(url).rpartition("@")[0] == "redis://***"
