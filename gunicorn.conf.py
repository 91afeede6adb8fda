"""gunicorn's process model for Inlet. gunicorn's own options on the command line override this file.

What lives here: worker class, preload, collector policy, the embedded store's life, signals during the start, the
metrics directory, the address. What must not: anything about one request.

Order of events: this file runs in the master and checks the environment; gunicorn preloads ``app.py``; ``on_starting``
starts the store; each ``pre_fork`` collects and freezes; ``when_ready`` prints who may send, and a command to try. HUP
runs this file again, so whatever must survive that is kept in a module (``wsgi.store.embedded``) or in the environment.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import glob
import logging
import os
import shutil
import signal
import ssl
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from inlet.keyfile import load as load_keys
from inlet.stream.errors import InletError
from inlet.stream.place import redacted
from wsgi.store import locks

_SHM = "/dev/shm"  # nosec B108  # mkdtemp and mkstemp make what is there
SHM = _SHM if os.path.isdir(_SHM) and os.access(_SHM, os.W_OK) else None
COLLECT_EVERY_REQUESTS = 10_000
"""Answers between two collections in a worker that is not the phased one; see docs/design.md."""
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that end the start."""
IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
"""Signals for a running gunicorn. Their default action would kill or stop one that is starting."""
METRICS_PREFIX = "inlet-metrics-"
METRICS_LOCK = "lock"
"""In a metrics directory; held by the master and its workers, so whoever can take it finds a directory of nobody's."""


def ignore(number: int, frame: object) -> None:
    """Do nothing. Not SIG_IGN, which the store and the workers would inherit."""


def end_start(number: int, frame: object) -> None:
    """End the start like an error does, so that nothing is left running or behind; once."""
    for other in ENDING:
        signal.signal(other, ignore)
    sys.stderr.write(f"inlet: ended by {signal.Signals(number).name} during the start\n")
    sys.exit(0)


def handle_early_signals() -> None:
    """Handle signals until gunicorn does, which is after ``on_starting``. At HUP, it does already."""
    if threading.current_thread() is threading.main_thread():
        for number in (*ENDING, *IGNORED):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, end_start if number in ENDING else ignore)


handle_early_signals()


def remove_directory(directory: str, owner_pid: int) -> None:
    """At exit; a worker inherits the handler, but not the directory."""
    if os.getpid() == owner_pid:
        shutil.rmtree(directory, ignore_errors=True)


def metrics_directory() -> None:
    """Give prometheus_client's multiprocess files an empty directory; before ``wsgi.metrics`` is imported."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory is None:
        directory = tempfile.mkdtemp(prefix=METRICS_PREFIX, dir=SHM)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        atexit.register(remove_directory, directory, os.getpid())
        # Taken before it has the name that others look for; never closed.
        path = os.path.join(directory, METRICS_LOCK)
        locks.take(locks.open_lock(Path(path + ".new")))
        os.rename(path + ".new", path)
    elif "wsgi.metrics" not in sys.modules:
        os.makedirs(directory, exist_ok=True)
        for path in glob.glob(os.path.join(directory, "*.db")):
            os.unlink(path)


def remove_stale_metrics() -> None:
    """Remove the metrics directories of Inlets that were killed, which take memory."""
    for directory in glob.glob(os.path.join(SHM or tempfile.gettempdir(), METRICS_PREFIX + "*")):
        # Others may write in /dev/shm too, so only a directory of this user's, and no link.
        with contextlib.suppress(OSError):
            status = os.lstat(directory)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            lock = os.open(os.path.join(directory, METRICS_LOCK), os.O_RDWR | os.O_NOFOLLOW)
            try:
                if locks.take(lock):
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


RELOADED = "wsgi.metrics" in sys.modules
"""This file runs again, at HUP."""
metrics_directory()

# The directory must exist before the metrics do.
from wsgi import listening, logs, metrics  # noqa: E402
from wsgi import settings as env  # noqa: E402
from wsgi.receivers.application import refuse_for_server  # noqa: E402
from wsgi.server.limits import Limits  # noqa: E402
from wsgi.store.embedded import EmbeddedStore, embedded  # noqa: E402
from wsgi.store.supervisor import Supervisor  # noqa: E402
from wsgi.worker import PhasedWorker  # noqa: E402


def fail(error: InletError) -> NoReturn:
    """End the start with one line."""
    sys.exit(f"inlet: {error.detail}")


try:
    settings = env.load(os.environ)
except InletError as error:
    fail(error)

# Not at HUP: a running server keeps the keys that it has where the file cannot be read any more (``wsgi.access``).
keys: int | None = None
if settings.keys_file is not None and not RELOADED:
    try:
        keys = len(load_keys(settings.keys_file))
    except InletError as error:
        fail(error)

# A relative path would mean another directory to whoever runs elsewhere (gunicorn's --chdir).
os.environ["INLET_DATA_DIR"] = str(settings.data_dir)
store: EmbeddedStore | None = None if settings.redis_url else embedded(settings.data_dir, settings.fsync)

bytes_max = max(settings.payload_bytes_max, settings.otlp_bytes_max if "otlp" in settings.open_receivers else 0)
PhasedWorker.configure(
    limits=Limits(
        payload_bytes_max=bytes_max,
        held_bytes_max=max(Limits.held_bytes_max, bytes_max),
    ),
    refuse=refuse_for_server,
)
bind = listening.bind(settings.port, everywhere=settings.open == "1" or settings.keys_file is not None)
worker_class = "wsgi.worker.PhasedWorker"
logs.Logger.as_json = settings.log == "json"
logger_class = "wsgi.logs.Logger"
access_log_format = logs.ACCESS_FORMAT
workers = settings.web_concurrency
preload_app = True
keepalive = 75
worker_tmp_dir = SHM
control_socket_disable = True
# For sync and gthread. "auto" would depend on what else happens to be installed; the C parser saves them little.
http_parser = "python"


def on_starting(server: Any) -> None:
    """Start the embedded store, and switch automatic collection off in the master."""
    if not isinstance(server.log, logs.Logger):  # --logger-class
        for handler in server.log.error_log.handlers:
            logging.getLogger("inlet").addHandler(handler)
        logging.getLogger("inlet").setLevel(server.log.error_log.level)
    gc.disable()
    if store is not None:
        try:
            store.start()
        except InletError as error:
            fail(error)
        watch_store(server, store)
    # Not earlier: the store has waited for the workers of an Inlet that was killed on its directory.
    remove_stale_metrics()


def watch_store(server: Any, store: EmbeddedStore) -> None:
    """Restart the store when it dies. gunicorn has no hook for this, but calls ``murder_workers`` once a second.

    Its reaper takes the status of every child; asked before that, the store knows its own.
    """
    supervisor = Supervisor(store)
    murder_workers, reap_workers = server.murder_workers, server.reap_workers

    def watch() -> None:
        supervisor.tick(time.monotonic())
        murder_workers()

    def reap() -> None:
        store.poll()
        reap_workers()

    server.murder_workers, server.reap_workers = watch, reap


def when_ready(server: Any) -> None:
    """Log where records go, who may send them, and a command to try."""
    listeners = [(str(listener), listening.is_local(listener.getsockname())) for listener in server.LISTENERS]
    if not listeners:  # --reuse-port: each worker opens its own.
        listeners = [(listening.shown(address), listening.is_local(address)) for address in server.cfg.address]
    certified = server.cfg.is_ssl and server.cfg.cert_reqs == ssl.CERT_REQUIRED
    who = listening.who_may_send(listeners, keys=keys, opened=settings.open == "1", certified=certified)
    server.log.info("inlet: records go to stream %r of %s", settings.stream, redacted(settings.store_url))
    server.log.log("warning" if who.warns else "info", "inlet: %s", who.text)
    line = listening.curl_line(listeners[0][0], keyed=keys is not None, tls=server.cfg.is_ssl, certified=certified)
    server.log.info("inlet: try\n\n  %s\n", line)


def pre_fork(server: Any, worker: Any) -> None:
    """Freeze the heap: no collection in a worker visits, and so unshares, what all workers share."""
    taken = {getattr(other, "inlet_slot", None) for other in server.WORKERS.values()}
    worker.inlet_slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
    gc.collect()
    gc.freeze()


def post_fork(server: Any, worker: Any) -> None:
    """In the worker: take a metrics slot."""
    metrics.take_slot(worker.inlet_slot)


def post_worker_init(worker: Any) -> None:
    """Start this worker's threads; and collections where the worker class has none of its own."""
    if not isinstance(worker, PhasedWorker):
        worker.cfg.set("post_request", collect_now_and_then)
    # Another application than Inlet's may run under this file.
    start = getattr(worker.wsgi, "start", None)
    if start is not None:
        start(worker.inlet_slot)


def collect_now_and_then(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Collect after every COLLECT_EVERY_REQUESTS answers."""
    worker.inlet_requests = getattr(worker, "inlet_requests", 0) + 1
    if worker.inlet_requests % COLLECT_EVERY_REQUESTS == 0:
        gc.collect()


def on_exit(server: Any) -> None:
    """Stop the embedded store, after the last worker."""
    if store is not None:
        store.stop()
