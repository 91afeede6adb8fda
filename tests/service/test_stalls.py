"""What one client does to the others: every row of ``bench.stallrows``, held to a generous bound.

The figures are the bench's (``python -m bench.stalls``). These bounds only tell a loop that waits from one that does
not: they are far over what a busy machine costs, and far under what each stall cost before the loop stopped waiting.
Where a bound would depend on the machine, two figures of the same run are compared instead.

``STALLS_TREE=/another/checkout`` runs them on another checkout: on one from before they must fail.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import stallrows
from bench.ordinary import DEADLINE_SECONDS
from bench.stallrows import ROWS, Result, measure
from bench.trees import row as tree_peer
from tests.support import ROOT

DEADLINE_MS = DEADLINE_SECONDS * 1000
MIB = 2**20
SHORT_SECONDS = 1.5
TREE = Path(os.environ.get("STALLS_TREE", ROOT))


def seen(name: str, seconds: float = SHORT_SECONDS, **changes: Any) -> Result:
    """Return the result of a row, with these fields of it changed; skip where the machine cannot run it."""
    result = measure(replace(ROWS[name], **changes), tree_peer("tested", TREE), seconds)
    if "impossible" in result:
        pytest.skip(result["impossible"])
    return result


def test_a_level_that_cannot_be_reached_is_refused_before_storing_and_delays_nobody() -> None:
    result = seen("replicated_none")
    assert result["stored"] == 0
    assert set(result["offender"]["statuses"]) == {"503"}
    assert set(result["ordinary"]["statuses"]) == {"202"}
    assert result["ordinary"]["p50_ms"] < 250
    assert result["ordinary"]["p99_ms"] < DEADLINE_MS


def test_a_slow_replica_delays_only_those_who_wait_for_it() -> None:
    result = seen("replicated_slow", store=partial(stallrows.with_replica, seconds=0.6))
    assert set(result["offender"]["statuses"]) == {"202"}
    assert result["offender"]["median_ms"] > 600
    assert set(result["ordinary"]["statuses"]) == {"202"}
    assert result["ordinary"]["p50_ms"] < 150


def test_a_slow_fsync_delays_only_those_who_wait_for_the_store() -> None:
    result = seen("synced_received")
    assert result["alone"]["p50_ms"] > 150, "the fsync of the store is not slow"
    assert set(result["ordinary"]["statuses"]) == {"202"}
    assert result["ordinary"]["p50_ms"] < 150
    assert result["healthz"]["p99_ms"] < 350


def test_a_slow_fsync_delays_no_answer_that_needs_no_store() -> None:
    result = seen("synced_stored")
    assert result["alone"]["p50_ms"] > 150, "the fsync of the store is not slow"
    assert result["healthz"]["p99_ms"] < 350


def test_a_store_that_is_stopped_stops_no_answer_that_needs_no_store() -> None:
    result = seen("store_stopped", 4.0, env={"INLET_COMMIT_TIMEOUT_MS": "5000"})
    assert set(result["healthz"]["statuses"]) == {"200"}
    assert result["healthz"]["max_ms"] < 2000
    stopped, after = result["posts"]["stopped"], result["posts"]["after"]
    assert stopped["statuses"].get("503", 0) >= 0.9 * stopped["requests"]
    assert after["statuses"].get("202", 0) > 0


def test_small_bodies_that_are_much_work_are_done_in_slices_and_in_little_memory() -> None:
    result = seen("bad_gzip", run=partial(stallrows.bad_gzip, bodies=40))
    assert result["offender"]["statuses"] == {"202": 40}
    assert result["died"] == 0
    assert result["ordinary"]["p99_ms"] < DEADLINE_MS
    assert result["growth_bytes"] < 150 * MIB


def test_many_compressed_bulks_at_once_are_all_accepted_and_delay_nobody() -> None:
    result = seen("full_gzip", run=partial(stallrows.full_gzip, bulks=30))
    assert result["offender"]["statuses"] == {"202": 30}
    assert result["died"] == 0
    assert result["ordinary"]["p99_ms"] < DEADLINE_MS


def test_others_wait_for_a_part_of_a_big_bulk_and_not_for_all_of_it() -> None:
    for _ in range(3):  # One pause of a busy machine is a p99; code that lets others wait fails each time.
        result = seen("mixed")
        assert set(result["offender"]["statuses"]) == {"202"}
        if result["ordinary"]["p99_ms"] < 0.8 * result["offender"]["median_ms"]:
            return
    pytest.fail(f"three times: {result['ordinary']} beside {result['offender']}")


def test_bodies_of_one_byte_chunks_delay_nobody() -> None:
    result = seen("tiny_chunks", 1.0)
    assert result["died"] == 0
    assert result["ordinary"]["max_ms"] < 2 * DEADLINE_MS


def test_a_client_that_pipelines_and_reads_nothing_costs_no_memory() -> None:
    result = seen("unread_pipeline", 4.0)
    assert result["growth_bytes"] < 24 * MIB
    assert result["kept_bytes"] < 16 * MIB
    assert result["ordinary"]["p99_ms"] < DEADLINE_MS


def test_a_deep_pipeline_is_answered_about_as_fast_as_a_shallow_one() -> None:
    result = seen("deep_pipeline")
    assert set(result["offender"]["statuses"]) == {"202"}
    assert result["rate_share"] > 0.3
