"""The keys file: what is read back, every fault in one line, and writes that lose nothing."""

from __future__ import annotations

import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet import keyfile
from inlet.command import keyedit
from inlet.keyfile import (
    BURST_MAX,
    FILE_BYTES_MAX,
    KEYS_MAX,
    PER_SECOND_MAX,
    SERVICE_CHARS_MAX,
    VALUES_MAX,
    Key,
    KeyFileError,
    KeyQuotas,
    Quota,
)
from inlet.stream.place import STREAM_CHARS_MAX
from tests.access.support import CREATED, keys_file, new_key

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
ID, HASH = "3f9a0c12be47", "ab" * 32
FULL = Key(
    id=ID, name="shop.eu-1_b", sha256=HASH, created=CREATED, receivers=("native", "loki"),
    services=("cart", 'a "quoted" \\ one', "ü\u2028\x00\x7f"), stream="tenant:a", metrics=True,
    quotas=KeyQuotas(requests=Quota(100, 200), records=Quota(0.5, 1), bytes=Quota(1e12, 1e12)),
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def text(**members: str) -> str:
    """One key as TOML, with these members changed, or left out where empty."""
    values = {"id": f'"{ID}"', "name": '"checkout"', "sha256": f'"{HASH}"', "created": "2026-11-27T20:00:00Z"}
    values.update(members)
    return "[[key]]\n" + "".join(f"{name} = {value}\n" for name, value in values.items() if value)


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def fault(path: Path) -> str:
    """The one line that refuses the file."""
    with pytest.raises(KeyFileError) as caught:
        keyfile.load(path)
    detail = caught.value.detail
    assert detail.startswith(f"keys file {path} "), detail
    assert detail.isprintable(), detail
    assert detail.isascii(), detail
    return detail


# What is read ---------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back(path: Path) -> None:
    bare, _ = new_key()
    keyfile.save(path, (FULL, bare))
    assert keyfile.load(path) == (FULL, bare)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_key_needs_four_members_and_gets_every_right(path: Path) -> None:
    assert keyfile.load(write(path, text())) == (Key(ID, "checkout", HASH, CREATED),)


def test_a_file_without_keys_is_one(path: Path) -> None:
    assert keyfile.load(write(path, "# nothing yet\n")) == ()


def test_a_burst_is_one_second_of_the_rate_and_at_least_one_unless_given(path: Path) -> None:
    quotas = {"quotas.requests": "{ per_second = 100 }", "quotas.records": "{ per_second = 0.5 }",
              "quotas.bytes": "{ per_second = 100, burst = 7 }"}  # fmt: skip
    (key,) = keyfile.load(write(path, text(**quotas)))
    assert key.quotas == KeyQuotas(Quota(100, 100), Quota(0.5, 1), Quota(100, 7))


def test_a_time_with_another_offset_is_read_as_utc(path: Path) -> None:
    (key,) = keyfile.load(write(path, text(created="2026-11-27T22:00:00+02:00")))
    assert (key.created, key.created.tzinfo) == (CREATED, UTC)


def test_no_secret_is_in_the_file_and_the_hash_is_that_of_the_secret_as_text(path: Path) -> None:
    key, token = new_key()
    keyfile.save(path, (key,))
    secret = token.rpartition("_")[2]
    assert re.fullmatch(r"inlet_[0-9a-f]{12}_[0-9a-f]{64}", token)
    assert secret not in path.read_text()
    assert os.popen(f"printf %s {secret} | sha256sum").read().split()[0] == key.sha256


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, unique=True))
def test_any_service_is_written_so_that_it_reads_back(services: list[str]) -> None:
    key = Key(ID, "checkout", HASH, CREATED, services=tuple(services))
    assert keyfile.parse(keyfile.block(key).encode(), Path("-")) == (key,)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_content_is_keys_or_a_keyfileerror(content: bytes) -> None:
    for data in (content, text().encode() + content):
        detail = ""
        try:
            keyfile.parse(data, Path("-"))
        except KeyFileError as error:
            detail = error.detail
        assert detail.isprintable()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1\n", "unknown member 'x'"),
        ('key = "a"\n', "[[key]]"),
        ("key = [1]\n", "[[key]]"),
        ("[key]\n", "[[key]]"),
        ("[[key]\n", "not TOML"),
        ("a = " + "[" * 5_000, "not TOML"),
        ("a = " + "1" * 5_000, "not TOML"),
        ("a = '\x1b[31m'", "not TOML"),
        (b"a = '\xff'", "not UTF-8 at byte 5"),
        (text(id=""), "key 'checkout': id is missing"),
        (text(name=""), "key number 1: name is missing"),
        (text(sha256=""), "key 'checkout': sha256 is missing"),
        (text(created=""), "key 'checkout': created must be a time"),
        (text(id='"3F9A0C12BE47"'), "key 'checkout': id must be 12 hex digits"),
        (text(id='"3f9a0c12be4"'), "id must be 12 hex digits"),
        (text(id='"3f9a0c12be477"'), "id must be 12 hex digits"),
        (text(id='"3f9a0c12be47\\n"'), "id must be 12 hex digits"),
        (text(id="1"), "id must be 12 hex digits"),
        (text(name='"a b"'), "key number 1: name must be"),
        (text(name='"a\\u001b"'), "key number 1: name must be"),
        (text(name=f'"{"a" * 65}"'), "key number 1: name must be 1 to 64"),
        (text(sha256='"ab"'), "sha256 must be 64 hex digits"),
        (text(created='"2026-11-27T20:00:00Z"'), "created must be a time with its offset"),
        (text(created="2026-11-27T20:00:00"), "created must be a time with its offset"),
        (text(created="2026-11-27"), "created must be a time with its offset"),
        (text(secret='"x"'), "key 'checkout': 'secret' is not a member of a key"),
        (text(metrics='"true"'), "metrics must be true or false"),
        (text(metrics="1"), "metrics must be true or false"),
        (text(receivers="[]"), "receivers must be a list with at least one name; leave it out"),
        (text(receivers='"native"'), "receivers must be a list"),
        (text(receivers='["Native"]'), "receivers must be words"),
        (text(receivers='["native", 1]'), "receivers must be words"),
        (text(receivers='["native", "native"]'), "receivers names one twice"),
        (text(services="[]"), "services must be a list with at least one name; leave it out"),
        (text(services='[""]'), "services must be strings of 1 to"),
        (text(services="[true]"), "services must be strings of 1 to"),
        (text(stream='""'), "stream '' must be 1 to"),
        (text(stream='"a b"'), "stream 'a b' must be 1 to"),
        (text(stream='"{a}"'), "without spaces or braces"),
        (text(stream="1"), "stream must be a string"),
        *((text(stream=f'"{name}"'), "is named like a store key of Inlet's own") for name in
          ("logs:dead", "a:rejected", "logs:full", "logs:keeper", "x:groups", "logs:try:g:1-0", "a:seen:g:x",
           "logs:forgotten:g")),
        (text(quotas="1"), "quotas must be quotas.requests"),
        (text(**{"quotas.cpu": "{ per_second = 1 }"}), "quotas must be quotas.requests"),
        (text(**{"quotas.requests": "100"}), "quotas.requests must be"),
        (text(**{"quotas.requests": "{ burst = 1 }"}), "quotas.requests must be"),
        (text(**{"quotas.requests": "{ per_second = 1, per_minute = 1 }"}), "quotas.requests must be"),
        (text(**{"quotas.requests": "{ per_second = true }"}), "quotas.requests must hold numbers"),
        (text(**{"quotas.requests": '{ per_second = "1" }'}), "quotas.requests must hold numbers"),
        (text(**{"quotas.requests": "{ per_second = 0 }"}), "per_second out of range"),
        (text(**{"quotas.requests": "{ per_second = 0.00099 }"}), "per_second out of range"),
        (text(**{"quotas.requests": "{ per_second = -1 }"}), "per_second out of range"),
        (text(**{"quotas.requests": "{ per_second = nan }"}), "per_second out of range"),
        (text(**{"quotas.requests": "{ per_second = inf }"}), "per_second out of range"),
        (text(**{"quotas.requests": "{ per_second = 1, burst = 0.9 }"}), "burst out of range"),
        (text(**{"quotas.requests": "{ per_second = 1, burst = inf }"}), "burst out of range"),
        (text() + text(name='"b"', sha256=f'"{"cd" * 32}"'), f"key 'b' ({ID}): another key has the same id"),
        (text() + text(id='"aaaaaaaaaaaa"', sha256=f'"{"cd" * 32}"'), "another key has the same name; rename"),
        (text() + text(id='"aaaaaaaaaaaa"', name='"b"'), "key 'b' (aaaaaaaaaaaa): another key has the same sha256"),
    ],
)  # fmt: skip
def test_every_fault_is_one_line_with_the_file_the_key_and_the_fix(
    path: Path, content: str | bytes, words: str
) -> None:
    assert words in fault(write(path, content))


@pytest.mark.parametrize(
    ("members", "most"),
    [
        ({"name": '"' + "a" * 64 + '"'}, None),
        ({"services": f'["{"a" * SERVICE_CHARS_MAX}"]'}, f'["{"a" * (SERVICE_CHARS_MAX + 1)}"]'),
        ({"services": str([f"s{n}" for n in range(VALUES_MAX)])}, str([f"s{n}" for n in range(VALUES_MAX + 1)])),
        ({"stream": f'"{"a" * STREAM_CHARS_MAX}"'}, f'"{"a" * (STREAM_CHARS_MAX + 1)}"'),
        ({"receivers": f'["{"a" * 32}"]'}, f'["{"a" * 33}"]'),
        ({"quotas.requests": f"{{ per_second = {PER_SECOND_MAX} }}"}, f"{{ per_second = {PER_SECOND_MAX * 1.01} }}"),
        ({"quotas.bytes": "{ per_second = 0.001 }"}, "{ per_second = 0.00099 }"),
        (
            {"quotas.bytes": f"{{ per_second = 1, burst = {BURST_MAX} }}"},
            f"{{ per_second = 1, burst = {BURST_MAX * 1.01} }}",
        ),
    ],
)
def test_what_is_at_a_bound_is_taken_and_what_is_past_it_refused(
    path: Path, members: dict[str, str], most: str | None
) -> None:
    assert len(keyfile.load(write(path, text(**members)))) == 1
    if most is not None:
        fault(write(path, text(**dict.fromkeys(members, most))))


def test_a_thousand_keys_are_taken_and_one_more_is_refused(path: Path) -> None:
    keys = [new_key(f"k{number}")[0] for number in range(KEYS_MAX + 1)]
    keyfile.save(path, keys[:-1])
    assert len(keyfile.load(path)) == KEYS_MAX
    with pytest.raises(KeyFileError, match=f"has {KEYS_MAX + 1} keys; at most {KEYS_MAX}"):
        keyedit.add(path, keys[-1])
    keyfile.save(path, keys)
    assert f"at most {KEYS_MAX}" in fault(path)


def test_a_file_at_its_bound_is_read_and_one_byte_more_is_refused(path: Path) -> None:
    content = text()
    write(path, content + "#" * (FILE_BYTES_MAX - len(content)))
    assert len(keyfile.load(path)) == 1
    write(path, content + "#" * (FILE_BYTES_MAX - len(content) + 1))
    assert f"over {FILE_BYTES_MAX} bytes" in fault(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o601, 0o610, 0o777])
def test_a_file_that_others_may_read_or_change_is_refused_with_the_chmod_that_fixes_it(path: Path, mode: int) -> None:
    write(path, text(), mode)
    detail = fault(path)
    assert f"has the mode {mode:04o}" in detail
    assert detail.endswith(f"run: chmod 600 {path}")
    os.system(detail.rpartition("run: ")[2])
    assert len(keyfile.load(path)) == 1


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_read(path: Path, mode: int) -> None:
    assert len(keyfile.load(write(path, text(), mode))) == 1


@ROOT_ONLY
@pytest.mark.parametrize("mode", [0o640, 0o440])
def test_root_may_let_a_group_read_as_kubernetes_does_for_a_mounted_secret_with_fsgroup(path: Path, mode: int) -> None:
    write(path, text(), mode)
    os.chown(path, 0, 12_345)
    assert len(keyfile.load(path)) == 1
    for worse in (mode | 0o020, mode | 0o004):
        path.chmod(worse)
        assert "chmod 600" in fault(path)
    path.chmod(mode)
    os.chown(path, 12_345, 12_345)
    assert "its group may read" in fault(path)


def test_what_is_no_file_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    assert "create it with `inlet keys new NAME`" in fault(path)
    path.mkdir(mode=0o700)
    assert "not a regular file" in fault(path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "not a regular file" in fault(fifo)
    assert "cannot be read" in fault(path.parent / "none" / "keys.toml")


def test_a_path_with_control_characters_is_named_escaped(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as caught:
        keyfile.load(tmp_path / "a\n\x1b[31m")
    assert "a\\n\\x1b[31m" in caught.value.detail


# What is written ------------------------------------------------------------------------------------------------------


COMMENTED = f"""\
# Ours. Ask the platform team.

# The shop's.
# Until March.
{text(name='"shop"')}# billing pays for this one
{text(name='"billing"', id='"bbbbbbbbbbbb"', sha256=f'"{"cd" * 32}"')}
# -- Tenants --

  [[ key ]]  # odd, but TOML
  id = "cccccccccccc"
  name = "tenant"
  sha256 = "{"ef" * 32}"
  created = 2026-11-27T20:00:00Z
# The end.
"""


def test_a_new_key_leaves_everything_else_as_it_was(path: Path) -> None:
    write(path, COMMENTED)
    key, _ = new_key("new")
    keyedit.add(path, key)
    assert path.read_text() == COMMENTED + "\n" + keyfile.block(key)
    assert [key.name for key in keyfile.load(path)] == ["shop", "billing", "tenant", "new"]


def test_a_revoked_key_goes_with_the_comments_above_it_and_no_others(path: Path) -> None:
    write(path, COMMENTED)
    assert keyedit.remove(path, "bbbbbbbbbbbb").name == "billing"
    left = path.read_text()
    assert [key.name for key in keyfile.load(path)] == ["shop", "tenant"]
    assert "billing" not in left
    assert all(words in left for words in ("# Ours.", "# Until March.", "# -- Tenants --", "# odd", "# The end."))
    keyedit.remove(path, ID)
    keyedit.remove(path, "cccccccccccc")
    assert path.read_text().split("\n") == [
        "# Ours. Ask the platform team.",
        "",
        "# -- Tenants --",
        "",
        "# The end.",
        "",
    ]


@pytest.mark.parametrize("separator", ["", "\n", "\n\n"])
def test_a_file_without_a_newline_at_its_end_is_appended_to(path: Path, separator: str) -> None:
    write(path, text().rstrip() + separator)
    keyedit.add(path, new_key("new")[0])
    assert "Z\n\n[[key]]" in path.read_text()


def test_a_file_whose_text_resists_is_written_anew(path: Path) -> None:
    members = text().replace("[[key]]\n", "").strip().replace("\n", ", ")
    for content in (f"key = [{{ {members} }}] # inline\n", text() + 'services = ["""\n[[key]]\n"""]\n'):
        write(path, content)
        key, _ = new_key("new")
        keyedit.add(path, key)
        assert [key.name for key in keyfile.load(path)] == ["checkout", "new"]
        keyedit.remove(path, ID)
        assert [key.name for key in keyfile.load(path)] == ["new"]


@pytest.mark.parametrize("content", [text() + text(), "[[key]\n", text(receivers="[]")])
def test_a_broken_file_is_left_as_it_is(path: Path, content: str) -> None:
    write(path, content)
    for change in (lambda: keyedit.add(path, new_key()[0]), lambda: keyedit.remove(path, ID)):
        with pytest.raises(KeyFileError):
            change()
    assert path.read_text() == content


def test_an_unknown_id_cannot_be_revoked(path: Path) -> None:
    write(path, COMMENTED)
    with pytest.raises(KeyFileError, match="has no key with the id 'aaaaaaaaaaaa'"):
        keyedit.remove(path, "aaaaaaaaaaaa")
    assert path.read_text() == COMMENTED


def test_changes_at_the_same_time_lose_nothing_and_no_reader_sees_half_a_file(path: Path) -> None:
    keys_file(path, new_key("first")[0])
    over = threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not over.is_set():
            try:
                keyfile.load(path)
            except KeyFileError as error:
                faults.append(error.detail)

    def add(start: int) -> None:
        for number in range(start, start + 10):
            keyedit.add(path, new_key(f"k{number}")[0])

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=add, args=(start,)) for start in (0, 10, 20, 30)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert not faults
    assert {key.name for key in keyfile.load(path)} == {"first", *(f"k{number}" for number in range(40))}
    assert os.listdir(path.parent) == [path.name]


def test_a_symbolic_link_stays_one(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path.symlink_to("real/keys.toml")
    for name in ("a", "b"):
        keyedit.add(path, new_key(name)[0])
    assert path.is_symlink()
    assert len(keyfile.load(tmp_path / "real/keys.toml")) == 2


@ROOT_ONLY
def test_a_file_keeps_its_owner_and_its_mode(path: Path) -> None:
    keys_file(path, new_key()[0])
    for owner, mode in ((12_345, 0o600), (0, 0o640)):
        os.chown(path, owner, 12_345)
        path.chmod(mode)
        keyedit.add(path, new_key(f"k{owner}")[0])
        status = path.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (owner, 12_345, mode)


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none" / "keys.toml"
    with pytest.raises(KeyFileError, match=r"cannot be written: its directory .*: No such file or directory"):
        keyedit.add(path, new_key()[0])


def test_a_write_that_fails_leaves_the_old_file_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = new_key()
    keys_file(path, key)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="cannot be written: No space left on device"):
        keyedit.add(path, new_key("new")[0])
    assert keyfile.load(path) == (key,)
    assert os.listdir(path.parent) == [path.name]


def test_a_key_with_a_fraction_of_a_second_survives_a_rewrite(path: Path) -> None:
    created = datetime(2026, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)
    keyfile.save(path, (Key(ID, "checkout", HASH, created),))
    assert keyfile.load(path)[0].created == created
