"""Keys: one refusal for every failure, rights, and reading the file again."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ujson

from inlet import keyfile
from inlet.command import keyedit
from inlet.keyfile import Key, KeyFileError, KeyQuotas, Quota
from inlet.stream.limits import RecordLimits
from inlet.stream.record import encoder
from tests.access.support import keys_file, new_key
from tests.support import record
from wsgi import metrics
from wsgi.access import keys as module
from wsgi.access.keys import REMEMBERED_CHARS_MAX, REMEMBERED_MAX, Keys
from wsgi.access.lastgood import LastGood
from wsgi.access.quotas import Meter, Quotas
from wsgi.problems import Denied


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def bearer(token: str) -> dict[str, str]:
    return {"HTTP_AUTHORIZATION": f"Bearer {token}", "QUERY_STRING": ""}


def refusal(call: Callable[[], object]) -> tuple[str, str, list[tuple[str, str]]]:
    with pytest.raises(Denied) as caught:
        call()
    return caught.value.reason, caught.value.detail, caught.value.headers


def denied(keys: Keys, sent: dict[str, str], receiver: str = "native") -> tuple[str, str, list[tuple[str, str]]]:
    return refusal(lambda: keys.admit(sent, receiver))


def other(token: str) -> str:
    """The same key with another secret."""
    return token[:-1] + ("0" if token[-1] != "0" else "1")


def why(keys: Keys) -> str | None:
    return keys.broken


def broken_gauge() -> float:
    return float(metrics.KEYS_FILE_BROKEN._value.get())


# Who it is ------------------------------------------------------------------------------------------------------------


def failures(token: str, revoked: str) -> list[dict[str, str]]:
    """Environs of every way to fail."""
    unknown = "inlet_" + "0" * 12 + token[18:]
    basic = b64encode(f"a:{other(token)}".encode()).decode()
    return [
        {},
        {"QUERY_STRING": ""},
        {"HTTP_AUTHORIZATION": ""},
        {"HTTP_AUTHORIZATION": token},
        {"HTTP_AUTHORIZATION": f"Digest {token}"},
        {"HTTP_AUTHORIZATION": f"Basic {basic}"},
        {"HTTP_AUTHORIZATION": "Basic \xff"},
        {"HTTP_AUTHORIZATION": "Bearer " + "a" * 100_000},
        bearer(unknown),
        bearer(other(token)),
        bearer(revoked),
        {"HTTP_X_API_KEY": other(token)},
        {"HTTP_X_API_KEY": f"{token},{token}"},
        {"QUERY_STRING": f"key={other(token)}"},
        {"QUERY_STRING": "key="},
        {**bearer(token), "HTTP_X_API_KEY": other(token)},
        {**bearer(token), "HTTP_DD_API_KEY": ""},
        {**bearer(token), "QUERY_STRING": f"key={other(token)}"},
        {**bearer(token), "QUERY_STRING": "key="},
        {"QUERY_STRING": f"key={token}&key={other(token)}"},
        {"QUERY_STRING": f"key={token}&" * 5},
    ]


def test_every_failure_is_the_same_401(path: Path) -> None:
    (key, token), (gone, revoked) = new_key(), new_key("gone")
    keys = Keys(keys_file(path, key, gone))
    keys.admit(bearer(revoked), "native")
    keyedit.remove(path, gone.id)
    keys.look()
    for _ in range(2):  # Also once the valid key is remembered.
        refusals = {str(denied(keys, sent)) for sent in failures(token, revoked)}
        assert len(refusals) == 1
        keys.admit(bearer(token), "native")
        keys.admit({"HTTP_X_API_KEY": token}, "native")
    reason, detail, headers = refusal(lambda: keys.grant({}))
    assert (reason, headers) == ("unauthorized", [("www-authenticate", 'Bearer realm="inlet"')])
    assert token not in detail


def test_every_failure_does_the_same_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By structure: one hash of 64 characters and one comparison of 64 with 64, whatever is wrong."""
    (key, token), (_, revoked) = new_key(), new_key("gone")
    keys = Keys(keys_file(path, key))
    done: list[tuple[str, int, int]] = []
    sha256 = hashlib.sha256

    def hashing(data: bytes) -> Any:
        done.append(("hash", len(data), 0))
        return sha256(data)

    def comparing(one: str, two: str) -> bool:
        done.append(("compare", len(one), len(two)))
        return hmac.compare_digest(one, two)

    monkeypatch.setattr(hashlib, "sha256", hashing)
    monkeypatch.setattr(module, "compare_digest", comparing)
    for sent in failures(token, revoked):
        denied(keys, sent)
        assert done == [("hash", 64, 0), ("compare", 64, 64)], sent
        done.clear()


def test_a_secret_of_another_key_is_none(path: Path) -> None:
    (one, first), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one, two))
    assert keys.grant(bearer(first)).key == one.id
    assert keys.grant(bearer(second)).key == two.id
    assert refusal(lambda: keys.grant(bearer(first[:19] + second[19:])))[0] == "unauthorized"


def test_the_same_key_in_several_places_is_one(path: Path) -> None:
    key, token = new_key()
    keys = Keys(keys_file(path, key))
    sent = {**bearer(token), "HTTP_X_API_KEY": token, "HTTP_DD_API_KEY": token, "QUERY_STRING": f"key={token}"}
    for _ in range(2):
        assert keys.admit(sent, "native").key == key.id


def test_a_remembered_credential_counts_only_where_it_was_sent(path: Path) -> None:
    key, token = new_key()
    keys = Keys(keys_file(path, key))
    for sent in ({"HTTP_X_API_KEY": token}, {"QUERY_STRING": f"key={token}"}, bearer(token)):
        keys.admit(sent, "native")
    for sent in ({"HTTP_AUTHORIZATION": token}, {"HTTP_X_API_KEY": f"Bearer {token}"}):
        assert denied(keys, sent)[0] == "unauthorized"


def test_what_is_remembered_is_bounded_in_number_and_length(path: Path) -> None:
    key, token = new_key()
    keys = Keys(keys_file(path, key))

    def basic(user: str) -> dict[str, str]:
        return {"HTTP_AUTHORIZATION": f"Basic {b64encode(f'{user}:{token}'.encode()).decode()}"}

    for number in range(REMEMBERED_MAX):
        keys.admit(basic(str(number)), "native")
    assert len(keys._ring.remembered) == REMEMBERED_MAX
    keys.admit(basic("one more"), "native")
    assert len(keys._ring.remembered) == 1
    for spaces, remembered in ((0, 2), (1, 2)):
        sent = f"Bearer {' ' * (REMEMBERED_CHARS_MAX - 7 - len(token) + spaces)}{token}"
        assert len(sent) == REMEMBERED_CHARS_MAX + spaces
        keys.admit({"HTTP_AUTHORIZATION": sent}, "native")
        assert len(keys._ring.remembered) == remembered


def test_no_failure_is_remembered(path: Path) -> None:
    (key, token), (_, revoked) = new_key(), new_key("gone")
    keys = Keys(keys_file(path, key))
    for sent in failures(token, revoked):
        denied(keys, sent)
    assert keys._ring.remembered == {}


# What it may do -------------------------------------------------------------------------------------------------------


def test_a_key_without_the_right_to_a_receiver_is_403_and_names_the_right_not_the_key(path: Path) -> None:
    key, token = new_key(receivers=("loki", "otlp"))
    keys = Keys(keys_file(path, key))
    for _ in range(2):
        assert keys.admit(bearer(token), "loki").receivers == frozenset(("loki", "otlp"))
        reason, detail, _ = denied(keys, bearer(token))
        assert (reason, "'native'" in detail) == ("forbidden", True)
        assert key.id not in detail
        assert key.name not in detail


def test_a_grant_has_what_the_file_says(path: Path) -> None:
    bare, first = new_key("bare")
    full, second = new_key("full", receivers=("native",), services=("a", "ü/<\u2028"), stream="tenant", metrics=True)
    keys = Keys(keys_file(path, bare, full))
    grant = keys.admit(bearer(first), "anything")
    assert (grant.key, grant.receivers, grant.services, grant.stream, grant.metrics, grant.meter) == (
        bare.id, None, None, None, False, None,
    )  # fmt: skip
    grant = keys.grant(bearer(second))
    assert (grant.stream, grant.metrics, grant.services) == (
        b"tenant", True, frozenset((b"a", "ü/<\u2028".encode())),
    )  # fmt: skip


@pytest.mark.parametrize("service", ['q"uote', "back\\slash", "sl/ash", "<&>", "ü", "\x00\x1f\x7f", "\u2028", "😀"])
def test_a_service_is_granted_as_a_line_has_it(path: Path, service: str) -> None:
    key, token = new_key(services=(service,))
    granted = Keys(keys_file(path, key)).grant(bearer(token)).services
    assert granted is not None
    (encoded,) = granted
    line = encoder(RecordLimits())(record("e-1", service=service))
    assert b'"' + encoded + b'"' in line
    assert ujson.loads(line)[2] == service


def test_streams_are_sorted_and_named_once(path: Path) -> None:
    made = [new_key(f"k{n}", stream=stream)[0] for n, stream in enumerate(("b", "a", None, "b"))]
    assert Keys(keys_file(path, *made)).streams() == ("a", "b")


def test_a_meter_is_made_for_each_key_and_again_when_the_file_changes(path: Path) -> None:
    made: list[str] = []
    quotas = Quotas()

    def meter(key: Key) -> Meter | None:
        made.append(key.name)
        return quotas.meter(key)

    limited, token = new_key("limited", quotas=KeyQuotas(requests=Quota(1, 1)))
    free, _ = new_key("free")
    keys = Keys(keys_file(path, limited, free), meter)
    assert keys.grant(bearer(token)).meter is not None
    keys_file(path, limited)
    keys.look()
    assert made == ["limited", "free", "limited"]


# Reading the file again -----------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_stops_the_start(path: Path) -> None:
    with pytest.raises(KeyFileError, match="inlet keys new"):
        Keys(path)


def test_a_new_key_and_a_revoked_one_take_effect_at_the_next_look(path: Path) -> None:
    (one, first), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one))
    keys.admit(bearer(first), "native")
    keyedit.add(path, two)
    assert denied(keys, bearer(second))[0] == "unauthorized"
    keys.look()
    keys.admit(bearer(second), "native")
    keys.admit(bearer(first), "native")
    keyedit.remove(path, one.id)
    keys.look()
    assert denied(keys, bearer(first))[0] == "unauthorized"
    assert keys.admit(bearer(second), "native").key == two.id


def rewritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def renamed(path: Path, content: bytes) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    fresh.rename(path)


@pytest.mark.parametrize("change", [rewritten, renamed])
def test_a_change_is_noticed_however_it_was_made(path: Path, change: Callable[[Path, bytes], None]) -> None:
    (one, first), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one))
    change(path, keyfile.text_of([two]).encode())
    keys.look()
    assert keys.grant(bearer(second)).key == two.id
    denied(keys, bearer(first))


def test_a_link_that_is_switched_as_kubernetes_does_is_noticed(tmp_path: Path) -> None:
    """A mounted secret: keys.toml -> ..data/keys.toml, and ..data -> a directory that is exchanged."""
    (one, first), (two, second) = new_key("one"), new_key("two")
    for name, key in (("..1", one), ("..2", two)):
        (tmp_path / name).mkdir()
        keys_file(tmp_path / name / "keys.toml", key)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "keys.toml"
    path.symlink_to("..data/keys.toml")
    keys = Keys(path)
    assert keys.grant(bearer(first)).key == one.id
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    keys.look()
    assert keys.grant(bearer(second)).key == two.id
    denied(keys, bearer(first))


def broken_toml(path: Path) -> None:
    path.write_text("[[key]")


def others_may_read(path: Path) -> None:
    path.chmod(0o644)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [broken_toml, others_may_read, removed])
def test_a_broken_file_keeps_the_keys_says_so_once_and_is_read_when_it_is_fixed(
    path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inlet")
    (one, first), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one))
    spoil(path)
    for _ in range(3):
        keys.look()
        assert keys.admit(bearer(first), "native").key == one.id
    assert keys.broken is not None
    assert keys.broken.startswith(f"keys file {path} ")
    assert broken_gauge() == 1
    assert [(line.levelname, keys.broken in line.getMessage()) for line in caplog.records] == [("ERROR", True)]
    caplog.clear()
    path.unlink(missing_ok=True)
    keys_file(path, one, two)
    for _ in range(3):
        keys.look()
    assert keys.grant(bearer(second)).key == two.id
    assert (why(keys), broken_gauge()) == (None, 0)
    assert [line.getMessage() for line in caplog.records] == ["keys: the file was read again; 2 keys are in force"]


@pytest.mark.parametrize("begin", [lambda path: path.write_text(""), lambda path: path.unlink()])
def test_a_file_that_is_just_being_written_is_not_taken_half(
    path: Path, begin: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An editor empties the file, or moves it away, and then writes it: for a moment there is no key in it."""
    monkeypatch.setattr(module, "SETTLED_SECONDS", 1.0)
    (one, first), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one))
    begin(path)
    text = keyfile.text_of([one, two])

    def write() -> None:
        path.touch(0o600)
        path.write_text(text)

    timer = threading.Timer(0.1, write)
    timer.start()
    keys.look()
    timer.join()
    assert keys.grant(bearer(first)).key == one.id
    assert keys.grant(bearer(second)).key == two.id
    assert (why(keys), [line for line in caplog.records if line.levelname == "ERROR"]) == (None, [])


def test_a_file_that_never_comes_to_rest_is_read_after_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, _), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one))
    keys_file(path, two)
    pauses: list[float] = []

    def touch(seconds: float) -> None:
        pauses.append(seconds)
        os.utime(path, (len(pauses), len(pauses)))

    monkeypatch.setattr(time, "sleep", touch)
    keys.look()
    assert pauses == [module.SETTLED_SECONDS] * module.SETTLING_MAX
    assert keys.grant(bearer(second)).key == two.id


def test_a_chmod_that_fixes_the_file_is_noticed(path: Path) -> None:
    key, token = new_key()
    keys = Keys(keys_file(path, key))
    path.chmod(0o644)
    keys.look()
    assert keys.broken is not None
    path.chmod(0o600)
    keys.look()
    assert (why(keys), keys.grant(bearer(token)).key) == (None, key.id)


def test_a_meter_that_cannot_be_made_keeps_the_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one, first), (two, _) = new_key("one"), new_key("two")

    def meter(key: Key) -> Meter | None:
        if key.name == "two":
            raise RuntimeError("a bug")
        return None

    keys = Keys(keys_file(path, one), meter)
    keys_file(path, one, two)
    keys.look()
    assert keys.grant(bearer(first)).key == one.id
    assert keys.broken is not None


def test_a_worker_that_starts_while_the_file_is_broken_gets_the_last_good_keys_not_the_masters(path: Path) -> None:
    """A revoked key stays revoked: the master read the file before, a sibling after the change."""
    (one, first), (two, second) = new_key("one"), new_key("two")
    keys = Keys(keys_file(path, one, two))
    reader, writer = os.pipe()

    def child(work: Callable[[], bytes]) -> bytes:
        if (pid := os.fork()) == 0:
            try:
                os.write(writer, work())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        return os.read(reader, 100)

    def sibling() -> bytes:
        keys.look()
        return str(len(keys._ring.by_id)).encode()

    def newcomer() -> bytes:
        keys.look()
        admitted = []
        for token in (first, second):
            try:
                admitted.append(keys.grant(bearer(token)).key)
            except Denied:
                admitted.append("denied")
        return " ".join([*admitted, str(keys.broken is not None)]).encode()

    keyedit.remove(path, one.id)
    assert child(sibling) == b"1"
    path.write_text("[[key]")
    assert child(newcomer) == f"denied {two.id} True".encode()
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_worker_of_another_user_that_cannot_read_the_file_says_so_at_its_first_look(tmp_path: Path) -> None:
    """The master may be root; each worker must be able to read a change."""
    key, token = new_key()
    keys = Keys(keys_file(tmp_path / "keys.toml", key))
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setuid(12_345)
            keys.look()
            os.write(writer, f"{keys.grant(bearer(token)).key == key.id} {keys.broken}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    said = os.read(reader, 1_000).decode()
    os.close(reader)
    os.close(writer)
    assert said.startswith("True keys file ")
    assert said.endswith("Permission denied; make the user that Inlet runs as its owner (chown)")


def test_requests_of_another_thread_never_fail_while_keys_come_and_go(path: Path) -> None:
    key, token = new_key()
    keys = Keys(keys_file(path, key))
    over = threading.Event()
    failed: list[Exception] = []
    admitted = [0]

    def admit() -> None:
        while not over.is_set():
            for sent in (bearer(token), {"HTTP_DD_API_KEY": token}):
                try:
                    keys.admit(sent, "native")
                    admitted[0] += 1
                except Exception as error:
                    failed.append(error)

    thread = threading.Thread(target=admit)
    thread.start()
    for number in range(50):
        if number % 10 == 9:
            path.write_text("[[key]")
        else:
            keys_file(path, key, *(new_key(f"k{n}")[0] for n in range(number % 10)))
        keys.look()
    over.set()
    thread.join()
    assert (failed, admitted[0] > 0) == ([], True)


# The memory of the last good file -------------------------------------------------------------------------------------


def test_the_last_good_file_is_shared_up_to_its_bound() -> None:
    memory = LastGood(100)
    assert memory.read() is None
    for data in (b"a" * 100, b"", b"b"):
        memory.write(data)
        memory.write(data)
        assert memory.read() == data


@pytest.mark.parametrize("offset", [0, 31, 32, 36, 45])
def test_a_torn_write_is_never_taken_for_a_whole_one(offset: int) -> None:
    memory = LastGood(100)
    memory.write(b"0123456789")
    memory._memory[offset] ^= 1
    assert memory.read() is None
