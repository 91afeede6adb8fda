"""Where Inlet listens, and that its start says who may send records: this machine only, unless told otherwise."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.certificates import make_ca
from tests.support import DEADLINE_SECONDS, ROOT, SETTINGS, kill_all, record, wait_until
from wsgi.listening import bind, curl_line, is_local, who_may_send

LOCAL = "only this machine may send records (set INLET_KEYS_FILE or INLET_OPEN=1 to listen on other interfaces)"
ADDRESS = re.compile(r"Listening at: (\S+?)[,\s]")


class Started:
    """gunicorn as a user starts it: ``arguments`` and ``env`` alone say where it listens."""

    def __init__(self, directory: Path, arguments: Sequence[str], env: dict[str, str], fds: Sequence[int]) -> None:
        self.path = directory / "log"
        words = [sys.executable, "-m", "gunicorn", "app:application", *arguments]
        if fds:
            # As systemd does it: the sockets from descriptor 3 on, and the process's own id (sd_listen_fds(3)).
            words = ["sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"', "sh", *words]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("INLET_", "GUNICORN_")) and name not in SETTINGS
        }
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds,
                env={**inherited, "INLET_DATA_DIR": str(directory / "data"), "TMPDIR": str(directory),
                     "WEB_CONCURRENCY": "1", **env},
            )  # fmt: skip

    def log(self) -> str:
        return self.path.read_text()

    def ready(self) -> str:
        """Wait until it serves; where it says that it listens."""

        def serves() -> bool:
            assert self.process.poll() is None, self.log()
            return "curl -i" in self.log() and "Booting worker" in self.log()

        wait_until(serves, "gunicorn listens")
        return str((ADDRESS.findall(self.log()) or [""])[-1])

    def ends(self) -> int:
        """Wait until it has ended by itself; the status."""
        return self.process.wait(DEADLINE_SECONDS)


Start = Callable[..., Started]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start("--bind", "...", PORT="0")``; stopped after the test."""
    with contextlib.ExitStack() as stack:

        def run(*arguments: str, fds: Sequence[int] = (), **env: str) -> Started:
            directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="inlet-", ignore_cleanup_errors=True))
            )
            stack.callback(kill_all, directory)
            started = Started(directory, arguments, env, fds)

            def stop() -> None:
                started.process.terminate()
                started.process.wait(DEADLINE_SECONDS)

            stack.callback(stop)
            return started

        yield run


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """A keys file with one key."""
    path = tmp_path / "keys.toml"
    run_inlet(path, "keys", "new", "till")
    return path


def run_inlet(keys_file: Path, *words: str) -> str:
    env = {**os.environ, "INLET_KEYS_FILE": str(keys_file)}
    done = subprocess.run(
        [sys.executable, "-m", "inlet", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_port_alone_opened_inlet_to_the_network(start: Start) -> None:
    """Regression: gunicorn reads PORT too, and listened on all interfaces."""
    started = start(PORT="0")
    assert started.ready().startswith("http://127.0.0.1:")
    assert LOCAL in started.log()
    assert "[WARNING]" not in started.log()


def test_an_empty_setting_is_none(start: Start) -> None:
    started = start(PORT="0", INLET_OPEN="", INLET_KEYS_FILE="")
    assert started.ready().startswith("http://127.0.0.1:")


def test_inlet_open_listens_on_all_interfaces(start: Start) -> None:
    started = start(PORT="0", INLET_OPEN="1")
    address = started.ready()
    assert address.startswith("http://0.0.0.0:")
    assert f"anyone who reaches {address} may send records" in started.log()
    assert "[WARNING]" not in started.log()
    answer = httpx.post(address.replace("0.0.0.0", "127.0.0.1") + "/ingest", json=record(), timeout=DEADLINE_SECONDS)
    assert answer.status_code == 202


def test_keys_listen_on_all_interfaces_and_the_curl_line_names_no_secret(start: Start, keys_file: Path) -> None:
    started = start(PORT="0", INLET_KEYS_FILE=str(keys_file))
    assert started.ready().startswith("http://0.0.0.0:")
    assert "holders of 1 key may send records" in started.log()
    assert "-H 'Authorization: Bearer YOUR_KEY'" in started.log()
    assert not re.search(r"inlet_[0-9a-f]{12}", started.log())


def test_the_curl_line_works_once_it_has_the_key(start: Start, keys_file: Path) -> None:
    secret = run_inlet(keys_file, "keys", "new", "second")
    started = start(PORT="0", INLET_KEYS_FILE=str(keys_file))
    started.ready()
    (line,) = re.findall(r"^ +(curl -i .+)$", started.log(), re.MULTILINE)
    assert " 401 " in subprocess.check_output(line, shell=True, text=True, stderr=subprocess.DEVNULL).partition("\n")[0]
    line = line.replace("YOUR_KEY", secret)
    assert " 202 " in subprocess.check_output(line, shell=True, text=True, stderr=subprocess.DEVNULL).partition("\n")[0]


def test_the_curl_line_names_the_files_that_a_client_with_a_certificate_needs(start: Start, tmp_path: Path) -> None:
    """Regression: it had neither --cert nor --key, so it could not work."""
    authority = make_ca(tmp_path)
    server, client = authority.issue("127.0.0.1"), authority.issue("till", client=True)
    started = start(
        "--certfile", server.cert, "--keyfile", server.key, "--ca-certs", authority.ca, "--cert-reqs", "2", PORT="0"
    )  # fmt: skip
    started.ready()
    (line,) = re.findall(r"^ +(curl -i .+)$", started.log(), re.MULTILINE)
    for placeholder, path in (("CA.pem", authority.ca), ("CLIENT.pem", client.cert), ("CLIENT.key", client.key)):
        assert line.count(placeholder) == 1
        line = line.replace(placeholder, path)
    assert " 202 " in subprocess.check_output(line, shell=True, text=True, stderr=subprocess.DEVNULL).partition("\n")[0]


@pytest.mark.parametrize("how", ["option", "environment", "config"])
def test_an_explicit_bind_is_taken_with_a_warning(start: Start, tmp_path: Path, how: str) -> None:
    if how == "option":
        started = start("--bind", "0.0.0.0:0")
    elif how == "environment":
        started = start(GUNICORN_CMD_ARGS="--bind 0.0.0.0:0")
    else:
        config = tmp_path / "own.conf.py"
        config.write_text(
            "import runpy\n"
            "globals().update({k: v for k, v in runpy.run_path('gunicorn.conf.py').items() if k[0] != '_'})\n"
            "bind = '0.0.0.0:0'\n"
        )
        started = start("-c", str(config))
    address = started.ready()
    assert address.startswith("http://0.0.0.0:")
    (warning,) = re.findall(r"\[WARNING\] (.+)", started.log())
    assert warning == (
        f"inlet: anyone who reaches {address} may send records; set INLET_KEYS_FILE to require keys, or INLET_OPEN=1 if"
        " that is what you want"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "127.8.8.8:0"])
def test_an_explicit_bind_to_this_machine_is_no_reason_to_warn(start: Start, address: str) -> None:
    started = start("--bind", address)
    started.ready()
    assert "[WARNING]" not in started.log()
    assert LOCAL in started.log()


def test_a_unix_socket_is_of_this_machine(start: Start, tmp_path: Path) -> None:
    started = start("--bind", f"unix:{tmp_path}/http.sock")
    started.ready()
    assert LOCAL in started.log()
    assert "[WARNING]" not in started.log()


def test_one_address_of_two_is_enough_to_warn(start: Start) -> None:
    started = start("--bind", "127.0.0.1:0", "--bind", "0.0.0.0:0")
    started.ready()
    assert started.log().count("[WARNING] inlet: anyone who reaches http://0.0.0.0:") == 1


@pytest.mark.parametrize(("interface", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_socket_of_systemd_is_the_operators_word(start: Start, interface: str, warns: bool) -> None:
    with socket.socket() as listener:
        listener.bind((interface, 0))
        listener.listen()
        number = listener.fileno()
        # systemd passes it as descriptor 3.
        saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else None
        try:
            if number != 3:
                os.dup2(number, 3)
            started = start(fds=[3], PORT="0")
        finally:
            if number != 3:
                os.close(3)
            if saved is not None:
                os.dup2(saved, 3)
                os.close(saved)
        assert started.ready() == f"http://{interface}:{listener.getsockname()[1]}"
    assert ("[WARNING]" in started.log()) is warns


def test_every_worker_with_a_socket_of_its_own_is_announced_too(start: Start) -> None:
    """Regression: with --reuse-port the master has no socket, and the start failed."""
    started = start("--reuse-port", "--bind", "127.0.0.1:0")
    started.ready()
    assert LOCAL in started.log()


def test_a_reload_keeps_the_address(start: Start) -> None:
    started = start(PORT="0")
    address = started.ready()
    started.process.send_signal(signal.SIGHUP)
    wait_until(lambda: started.log().count("Booting worker") == 2, "a new worker")
    assert set(ADDRESS.findall(started.log())) == {address}
    assert httpx.get(address + "/healthz", timeout=DEADLINE_SECONDS).status_code == 200


def test_a_broken_keys_file_ends_the_start_with_one_line_and_creates_nothing(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[[key]\n")
    path.chmod(0o600)
    started = start(PORT="0", INLET_KEYS_FILE=str(path))
    assert started.ends() == 1
    (line,) = started.log().splitlines()
    assert line.startswith("inlet: ")
    assert str(path) in line
    assert [entry.name for entry in started.path.parent.iterdir()] == ["log"]


def test_a_keys_file_that_does_not_exist_ends_the_start(start: Start, tmp_path: Path) -> None:
    started = start(PORT="0", INLET_KEYS_FILE=str(tmp_path / "none.toml"))
    assert started.ends() == 1
    assert len(started.log().splitlines()) == 1


def test_a_keys_file_that_breaks_does_not_end_a_server_at_a_reload(start: Start, keys_file: Path) -> None:
    started = start(PORT="0", INLET_KEYS_FILE=str(keys_file))
    address = started.ready().replace("0.0.0.0", "127.0.0.1")
    keys_file.write_text("[[key]\n")
    started.process.send_signal(signal.SIGHUP)
    wait_until(lambda: started.log().count("Booting worker") == 2, "a new worker")
    assert httpx.get(address + "/healthz", timeout=DEADLINE_SECONDS).status_code == 200
    assert started.process.poll() is None


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (("127.0.0.1", 80), True), (("127.255.0.1", 80), True), (("::1", 80, 0, 0), True),
        (("::ffff:127.0.0.1", 80, 0, 0), True), ("/run/inlet.sock", True), (b"\0abstract", True),
        (("0.0.0.0", 80), False), (("::", 80, 0, 0), False), (("10.0.0.1", 80), False),
        (("128.0.0.1", 80), False), (("fe80::1%eth0", 80, 0, 2), False), (("::ffff:10.0.0.1", 80, 0, 0), False),
    ],
)  # fmt: skip
def test_loopback_and_unix_sockets_are_local_and_nothing_else(address: object, local: bool) -> None:
    assert is_local(address) is local


def test_the_default_address() -> None:
    assert bind(8000, everywhere=False) == "127.0.0.1:8000"
    assert bind(80, everywhere=True) == "0.0.0.0:80"


@pytest.mark.parametrize(
    ("shown", "begins"),
    [
        ("http://0.0.0.0:80", "curl -i http://127.0.0.1:80/ingest"),
        ("http://[::]:80", "curl -i http://[::1]:80/ingest"),
        ("https://10.0.0.1:443", "curl -i https://10.0.0.1:443/ingest"),
        ("unix:/run/x.sock", "curl -i --unix-socket /run/x.sock http://localhost/ingest"),
    ],
)
def test_the_curl_line_reaches_the_address(shown: str, begins: str) -> None:
    assert curl_line(shown, keyed=False).startswith(begins)
    assert "Authorization" not in curl_line(shown, keyed=False)
    assert curl_line("http://[::]:443", keyed=False, tls=True).startswith("curl -i https://[::1]:443/ingest ")
    certified = curl_line("https://0.0.0.0:443", keyed=True, tls=True, certified=True)
    assert certified.startswith(
        "curl -i --cacert CA.pem --cert CLIENT.pem --key CLIENT.key https://127.0.0.1:443/ingest -H 'Authorization: "
    )


def test_who_may_send_counts_the_keys() -> None:
    assert (
        who_may_send([("http://0.0.0.0:80", False)], keys=2, opened=False).text == "holders of 2 keys may send records"
    )
    none = who_may_send([("http://0.0.0.0:80", False)], keys=0, opened=True)
    assert none.text == "nobody may send records: the keys file holds no key; run `inlet keys new`"
    assert none.warns
    certified = who_may_send([("https://0.0.0.0:80", False)], keys=None, opened=False, certified=True)
    assert certified == ("holders of a client certificate may send records", False)
    local = who_may_send([("http://127.0.0.1:80", True)], keys=None, opened=True)
    assert local.text == "only this machine may send records, because of --bind"
