"""``inlet keys`` as a process: what is printed where, exit codes, and the file it leaves."""

from __future__ import annotations

import codecs
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from inlet import keyfile
from inlet.keyfile import KEYS_MAX, KeyQuotas, Quota
from tests.access.support import keys_file, new_key
from tests.support import ROOT
from wsgi.access.keys import Keys

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def start(path: Path | None, *words: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("INLET_")}
    if path is not None:
        env["INLET_KEYS_FILE"] = str(path)
    return subprocess.Popen(
        [sys.executable, "-m", "inlet", "keys", *words],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(path: Path | None, *words: str) -> Done:
    process = start(path, *words)
    out, errors = process.communicate(timeout=60)
    return Done(words, process.returncode, out, errors)


def fails(done: Done, code: int, words: str) -> None:
    """Check for one line on stderr and nothing on stdout."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("inlet: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_new_creates_the_file_and_prints_the_key_alone_on_the_last_line(path: Path) -> None:
    done = run(path, "new", "checkout")
    assert done.returncode == 0, done.stderr
    token = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"inlet_[0-9a-f]{12}_[0-9a-f]{64}", token)
    assert done.stdout == token + "\n"
    assert token not in done.stderr
    assert token[19:] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (key,) = keyfile.load(path)
    assert (key.name, key.receivers, key.services, key.stream, key.metrics, key.quotas) == (
        "checkout", None, None, None, False, KeyQuotas(),
    )  # fmt: skip
    assert Keys(path).grant({"HTTP_AUTHORIZATION": f"Bearer {token}"}).key == key.id


def test_the_umask_does_not_matter(path: Path) -> None:
    old = os.umask(0)
    try:
        run(path, "new", "checkout")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_new_takes_every_right_and_quota(path: Path) -> None:
    done = run(
        path, "new", "shop", "--receiver", "native", "--receiver", "loki", "--service", "cart",
        "--service", "a b", "--stream", "s", "--metrics", "--quota", "requests=100/s,burst=200", "--quota",
        "records=0.5/s", "--quota", "bytes=5mb/s,burst=1.5gb",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (key,) = keyfile.load(path)
    assert (key.receivers, key.services, key.stream, key.metrics) == (("native", "loki"), ("cart", "a b"), "s", True)
    assert key.quotas == KeyQuotas(Quota(100, 200), Quota(0.5, 1), Quota(5 * 1024**2, 1.5 * 1024**3))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a b",), "name must be"),
        (("x" * 65,), "name must be"),
        (("x", "--receiver", "Native"), "receivers must be words"),
        (("x", "--receiver", "native", "--receiver", "native"), "receivers names one twice"),
        (("x", "--service", ""), "services must be strings"),
        (("x", "--stream", "a b"), "stream 'a b' must be"),
        (("x", "--stream", ""), "stream '' must be"),
        (("x", "--quota", "requests=100"), "write one as requests=100/s,burst=200"),
        (("x", "--quota", "cpu=1/s"), "write one as"),
        (("x", "--quota", "requests=1/s,burst=2,burst=3"), "write one as"),
        (("x", "--quota", "requests=-1/s"), "is not a number"),
        (("x", "--quota", "requests=nan/s"), "is not a number"),
        (("x", "--quota", "requests=1kb/s"), "is not a number"),
        (("x", "--quota", "bytes=1tb/s"), "kb, mb or gb"),
        (("x", "--quota", "requests=0/s"), "per_second out of range"),
        (("x", "--quota", "requests=1/s,burst=0.5"), "burst out of range"),
        (("x", "--quota", "requests=1/s", "--quota", "requests=2/s"), "twice"),
        # Regressions: "is not a number".
        (("x", "--quota", "requests=1e400/s"), "per_second out of range; it must be from 0.001 to 1e+12"),
        (("x", "--quota", "requests=0.0000001/s"), "per_second out of range; it must be from 0.001 to 1e+12"),
        (("x", "--quota", "bytes=1e13kb/s"), "per_second out of range"),
        (("x", "--quota", "requests=1/s,burst=1e400"), "burst out of range; it must be from 1 to 1e+12"),
    ],
)
def test_a_wrong_word_is_exit_status_2_and_changes_nothing(path: Path, words: tuple[str, ...], said: str) -> None:
    fails(run(path, "new", *words), 2, said)
    assert not path.exists()


def test_without_a_file_named_it_says_what_to_set_and_file_wins_over_the_environment(path: Path) -> None:
    for words in (("new", "a"), ("list",), ("revoke", "a" * 12), ("check",)):
        fails(run(None, *words), 2, "set INLET_KEYS_FILE, or use --file")
    assert run(Path("/nonexistent/keys.toml"), "new", "a", "--file", str(path)).returncode == 0
    assert run(None, "list", "--file", str(path)).returncode == 0
    assert run(None, "check", str(path)).returncode == 0
    fails(run(None, "check", str(path), "--file", str(path)), 2, "once")


def test_list_shows_rights_and_neither_secrets_nor_hashes(path: Path) -> None:
    key, token = new_key("shop", services=("cart", "\x1b[31m"), stream="s", quotas=KeyQuotas(requests=Quota(1000, 5)))
    keys_file(path, new_key()[0], key)
    for words in (("list",), ("check",), ("list", "--json"), ("check", "--json")):
        done = run(path, *words)
        assert done.returncode == 0, done.stderr
        for hidden in (key.sha256, token[19:], "\x1b"):
            assert hidden not in done.stdout + done.stderr
        assert key.id in done.stdout
        if "--json" in words:
            row = json.loads(done.stdout.splitlines()[1])
            assert (row["id"], row["stream"], row["created"]) == (key.id, "s", "2026-11-27T20:00:00Z")
            assert row["quotas"]["requests"] == {"per_second": 1000, "burst": 5}
        else:
            assert "every receiver; services cart, \\x1b[31m; stream s; 1,000 requests/s (burst 5)" in done.stdout


def test_revoke_removes_one_key(path: Path) -> None:
    one, two = new_key("one")[0], new_key("two")[0]
    keys_file(path, one, two)
    done = run(path, "revoke", one.id)
    assert (done.returncode, f"'one' ({one.id})" in done.stdout) == (0, True)
    assert keyfile.load(path) == (two,)
    fails(run(path, "revoke", one.id), 1, "`inlet keys list` prints the ids")
    fails(run(path, "revoke", "\x1b[31m"), 1, "\\x1b[31m")
    assert keyfile.load(path) == (two,)


def test_a_second_key_of_the_same_name_is_refused(path: Path) -> None:
    assert run(path, "new", "checkout").returncode == 0
    before = path.read_text()
    fails(run(path, "new", "checkout"), 1, "another key has the same name")
    assert path.read_text() == before


def test_one_key_too_many_is_refused(path: Path) -> None:
    keys_file(path, *(new_key(f"k{number}")[0] for number in range(KEYS_MAX - 1)))
    assert run(path, "new", "last").returncode == 0
    fails(run(path, "new", "more"), 1, f"at most {KEYS_MAX} are allowed")


def test_check_says_what_each_key_may_do_or_exits_1_with_the_line_of_the_server(path: Path) -> None:
    key, _ = new_key("shop", receivers=("native",), metrics=True)
    keys_file(path, key)
    done = run(path, "check")
    assert done.stdout == f"shop ({key.id}): receivers native; every service; metrics\n{path}: 1 key, valid\n"
    path.chmod(0o644)
    fails(run(path, "check"), 1, f"chmod 600 {path}")
    path.chmod(0o600)
    path.write_text(keyfile.block(key).replace("metrics = true", "metrics = 1"))
    fails(run(path, "check"), 1, f"keys file {path} key 'shop': metrics must be true or false")
    path.write_text("")
    done = run(path, "check")
    assert (done.returncode, "refuses every request" in done.stderr) == (0, True)
    path.unlink()
    for words in (("check",), ("list",), ("revoke", "a" * 12)):
        fails(run(path, *words), 1, "create it with `inlet keys new NAME`")


def test_two_new_keys_at_once_lose_nothing(path: Path) -> None:
    processes = [start(path, "new", f"k{number}") for number in range(6)]
    tokens = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    assert {key.id for key in keyfile.load(path)} == {token[6:18] for token in tokens}
    assert os.listdir(path.parent) == [path.name]


def test_a_key_that_nobody_could_read_is_not_kept(path: Path) -> None:
    keys_file(path, new_key()[0])
    before = path.read_text()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "inlet", "keys", "new", "a", "--file", str(path)],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, "so it was removed again" in done.stderr) == (1, True)
    assert path.read_text().strip() == before.strip()


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "none" / "keys.toml", "new", "a")
    fails(done, 1, f"No such file or directory; create it: mkdir -p {tmp_path}/none")


def test_an_option_does_not_take_the_name_for_another_value(path: Path) -> None:
    """Regression: `new --service cart shop` said that NAME is missing."""
    done = run(path, "new", "--receiver", "native", "--quota", "records=1e3/s", "--service", "cart", "shop")
    assert done.returncode == 0, done.stderr
    (key,) = keyfile.load(path)
    assert (key.name, key.services, key.receivers) == ("shop", ("cart",), ("native",))
    assert key.quotas == KeyQuotas(records=Quota(1000, 1000))


def test_a_receiver_that_there_is_not_brings_a_warning_and_is_taken(path: Path) -> None:
    """Regression: a typing error made a key that may send nothing, and nobody said so."""
    done = run(path, "new", "shop", "--receiver", "nativ")
    (key,) = keyfile.load(path)
    known = ", ".join(keyfile.RECEIVERS)
    words = f"inlet: the key 'shop' ({key.id}) names 'nativ': not a receiver of this version, which has {known}\n"
    assert (done.returncode, words in done.stderr) == (0, True)
    done = run(path, "check")
    assert (done.returncode, done.stderr) == (0, words)
    assert run(path, "new", "till", "--receiver", "native").stderr.count("\n") == 2


def test_the_receivers_are_those_of_the_server() -> None:
    program = (
        "import runpy; runpy.run_path('gunicorn.conf.py'); import app\n"
        "print(*sorted({endpoint.name for endpoint in app.application._endpoints.values()}))"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("INLET_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, sorted(keyfile.RECEIVERS)), done.stderr


def test_a_file_with_a_byte_order_mark_is_read_and_written_without(path: Path) -> None:
    """Regression: "Invalid statement (at line 1, column 1)", of a mark that no editor shows."""
    key, _ = new_key("shop")
    keys_file(path, key)
    path.write_bytes(codecs.BOM_UTF8 + b"# mine\n" + path.read_bytes())
    assert keyfile.load(path) == (key,)
    assert run(path, "check").returncode == 0
    assert run(path, "new", "till").returncode == 0
    assert path.read_bytes().startswith(b"# mine\n")
    assert [each.name for each in keyfile.load(path)] == ["shop", "till"]
