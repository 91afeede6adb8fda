"""The rows of the power cut: the real server over a traced store, cut at the worst instant.

What lives here: the runs, at each level and fsync policy. What must not: reading a trace (``power_cut``).
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from tests.faults.load import summary
from tests.faults.oracle import judge, read_back
from tests.faults.power_cut import Cut, Disk, calls, positions, traced, worst_cut
from tests.faults.rig import STREAM, Rig, Store
from tests.faults.scenario import Row, explained
from tests.faults.store_faults import embedded_pids
from tests.support import wait_until

CASES = {
    "stored, fsync in the background": ("stored", "background"),
    "stored, fsync each second": ("stored", "everysec"),
    # Valkey's WAITAOF may reply before that fsync (redis/redis pull request 13793): such a store must be refused.
    "synced, fsync each second": ("synced", "everysec"),
    "synced, fsync always": ("synced", "always"),
}
"""Level, and who fsyncs: a process beside the embedded store, or an external store."""
LOAD_SECONDS = 3.2
"""Three fsyncs of ``everysec``."""
ANSWERS_MIN = 50
SYNC_SECONDS = 2.2
"""By then an fsync in the background, or each second, has covered the last write."""


def name(fsync: str) -> str:
    """The row's."""
    return f"power cut, traced (fsync {fsync})"


def run(case: str) -> Row:
    """Load a traced store; then cut the power. ``wrong`` holds what breaks the level's promise."""
    level, fsync = CASES[case]
    embedded = fsync == "background"
    with (
        Rig(level, own_store=not embedded, options={} if embedded else {"appendfsync": fsync}) as rig,
        explained(rig),
    ):
        data_dir = rig.server.data_dir if embedded else rig.store.directory
        (file,) = data_dir.glob("appendonlydir/*.incr.aof")
        size = file.stat().st_size
        trace = load_traced(rig, embedded_pids(rig) if embedded else [rig.store.pid])
        content = file.read_bytes()
        verdict = rig.verdict()
        disk = Disk(size, calls(trace))
        assert disk.written[-1][1] == len(content), "the trace misses writes to the append-only file"
        where = positions(content, STREAM)
        worst = worst_cut(disk, where, rig.load.answers)
        found = after_the_cut(file, worst)
        wrong = [verdict.faults(), check_restored(found, worst, rig)]
        if level == "synced" and worst.lost:
            wrong.append(f"{worst.lost} records were answered 202 before they were on the disk")
        if level == "stored" and not worst.lost:
            wrong.append("nothing was lost at stored, so that the cut is none")
        answers = summary(rig.load.answers) or "every request answered 202"
        return Row(
            name=name(fsync), level=level,
            answers=f"{answers}; a record waited up to {disk.window() * 1000:.0f} ms for its fsync",
            recovered=None, slowest=max(answer.seconds for answer in rig.load.answers),
            verdict=verdict._replace(answered=worst.answered, found=worst.answered - worst.lost, lost=worst.lost),
            wrong="; ".join(text for text in wrong if text),
        )  # fmt: skip


def load_traced(rig: Rig, pids: list[int]) -> str:
    """Run the load over these processes, and return their traces."""
    traces = [rig.server.directory / f"trace-{pid}" for pid in pids]
    with contextlib.ExitStack() as stack:
        for pid, trace in zip(pids, traces, strict=True):
            stack.enter_context(traced(pid, trace))
        rig.load.start()
        began = time.time()
        wait_until(lambda: time.time() > began + LOAD_SECONDS and len(rig.load.answers) > ANSWERS_MIN, "load")
        rig.load.stop()
        with rig.reader() as client:
            # Under ``everysec`` a write may have been put off; the trace has to have it.
            wait_until(lambda: not client.info("persistence")["aof_buffer_length"], "all is written")
        # And the fsync that covers it, of whoever does it.
        time.sleep(SYNC_SECONDS)
    return "".join(trace.read_text() for trace in traces)


def after_the_cut(file: Path, worst: Cut) -> list[str]:
    """Start a store on what the disk would hold, and read the stream back."""
    restored = Store({})
    try:
        files = restored.directory / file.parent.name
        shutil.copytree(file.parent, files)
        with open(files / file.name, "r+b") as handle:
            handle.truncate(worst.size)
        restored.start()
        with restored.client() as client:
            return list(read_back(client, STREAM))
    finally:
        restored.close()


def check_restored(found: list[str], worst: Cut, rig: Rig) -> str:
    """The store that came up on the cut file holds what the trace says it must."""
    answered = [answer for answer in rig.load.answers if answer.ended <= worst.when]
    lost = judge(answered, found).lost
    return "" if lost == worst.lost else f"after the cut {lost} records are missing, not {worst.lost} as the trace says"
