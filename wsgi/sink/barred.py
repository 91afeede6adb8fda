"""What is logged of the destinations that are refused alone: one line for each change, and at most ten at once.

What lives here: the reasons that were logged last, by destination. What must not: which destinations are refused, and
until when (``circuit``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from wsgi.problems import SinkError

log = logging.getLogger("inlet")

LINES_MAX = 10
"""Lines for one commit or one look; a last one counts the rest. A thousand streams may change at once."""
MISCONFIGURED = frozenset({"sink-misconfigured"})
"""Reasons that only the operator can fix: given to producers as they are, critical where all are refused."""
PRESSURE = frozenset({"backlog-full", "store-full"})
"""Reasons of backpressure: logged as warnings."""


class BarredLog:
    """Destinations are store keys. Not safe for threads: the circuit calls it under its lock."""

    def __init__(self) -> None:
        self.failing: dict[bytes, str] = {}
        """Reason of the last commit that failed, until one succeeds or the stream is no longer looked at."""
        self._found: dict[bytes, str] = {}  # reason of the last look

    def failed(self, faults: Iterable[tuple[bytes, SinkError]]) -> None:
        """Log commits that failed for these destinations alone."""
        lines = []
        for key, error in faults:
            if self.failing.get(key) != error.reason:
                self.failing[key] = error.reason
                if self._found.get(key) != error.reason:
                    lines.append((level_of(error.reason), key, f"commits fail, {_words(error)}"))
        _log(lines)

    def looked(self, streams: Mapping[bytes, SinkError | None]) -> None:
        """Log what a look found: by destination, why it is refused, or None. Forget all others."""
        lines = []
        for key, error in streams.items():
            reason = error.reason if error is not None else None
            if self._found.get(key) == reason:
                continue
            if error is not None:
                self._found[key] = error.reason
                if self.failing.get(key) != reason:
                    lines.append((level_of(error.reason), key, f"refusing, {_words(error)}"))
            else:
                del self._found[key]
                # After a commit that failed, only one that succeeds shows that the cause is gone.
                if key not in self.failing:
                    lines.append((logging.INFO, key, "accepting again"))
        for known in (self._found, self.failing):
            for key in known.keys() - streams.keys():
                del known[key]
        _log(lines)

    def succeeded(self, keys: Iterable[bytes]) -> None:
        """Note that commits to these destinations succeeded."""
        _log([(logging.INFO, key, "commits succeed again") for key in keys if self.failing.pop(key, None)])


def level_of(reason: str | None) -> int:
    """Return the level at which a destination's refusal for ``reason`` is logged: the others still take records."""
    return logging.WARNING if reason in PRESSURE else logging.ERROR


def _words(error: SinkError) -> str:
    return f"reason={error.reason}: {error.detail}"


def _log(lines: list[tuple[int, bytes, str]]) -> None:
    for level, key, words in lines[:LINES_MAX]:
        log.log(level, "sink: stream %s: %s", ascii(key.decode(errors="replace")), words)
    if len(lines) > LINES_MAX:
        log.log(max(level for level, _, _ in lines), "sink: the same for %d more streams", len(lines) - LINES_MAX)
