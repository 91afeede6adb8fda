"""Any mix of good, failing and bad records, and of kills at any call of the handler, over the real store.

Whatever happens: each good record takes effect exactly once, each other one becomes one letter, and a good record
becomes a letter only if consumers died of it alone as often as ``attempts_max`` says.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inlet import BadRecord, Entry, Options
from inlet.consumer import handling
from inlet.consumer.session import Session
from inlet.consumer.steps import Call, Done, Invoke, Steps, advance
from inlet.stream.client import StoreClient
from tests.consumer.support import add, dead, pending

EXAMPLES = 150
"""Each takes some tens of milliseconds, most of it waiting until entries are due."""
RUNS_MAX = 400
"""Consumers, one after the other, until everything must be handled."""

Kill = Literal["no", "before", "after"]
_numbers = itertools.count()


class Killed(Exception):
    """The process is gone: nothing it had begun is ended."""


class Effects:
    """What handlers do, exactly once: spans of lines in a set, as a database would keep them."""

    def __init__(self, kills: Iterator[Kill]) -> None:
        self.spans: dict[tuple[str, int, int], list[str]] = {}
        self.deaths_alone: Counter[str] = Counter()
        self._kills = kills

    def handle(self, entry: Entry) -> None:
        """Store the records, exactly once; die before or after that, as it comes."""
        kill = next(self._kills, "no")
        names = [record.event_id for record in entry.records]
        if kill != "no" and len(names) == 1:
            self.deaths_alone[names[0]] += 1
        if kill == "before":
            raise Killed
        # As a real handler does: what is stored is not even looked at again.
        if not self.kept(entry.entry_id, *entry.span):
            self.store(entry, names)
        if kill == "after":
            raise Killed

    def kept(self, entry_id: str, first: int, last: int) -> bool:
        """Whether these lines are within those that are stored."""
        return any(span[0] == entry_id and span[1] <= first and span[2] >= last for span in self.spans)

    def store(self, entry: Entry, names: list[str]) -> None:
        """Store the records, or raise for what is not good."""
        for address, record in entry.items():
            if record.event_id.startswith("bad"):
                raise BadRecord("bad", address.line)
        if any(name.startswith("failing") for name in names):
            raise ValueError("failing")
        self.spans[entry.entry_id, *entry.span] = names


def perform(client: StoreClient, steps: Steps[Any], effects: Effects) -> Any:
    """Take the steps, as a reader does."""
    step = advance(steps)
    while not isinstance(step, Done):
        try:
            outcome: Any = client.call(step.commands) if isinstance(step, Call) else None
            if isinstance(step, Invoke):
                effects.handle(step.argument)
        except Killed:
            raise
        except Exception as error:
            step = advance(steps, error=error)
        else:
            step = advance(steps, outcome)
    return step.value


def consume(url: str, stream: str, options: Options, effects: Effects) -> None:
    """One consumer, until it dies or there is nothing more right now."""
    client = StoreClient(url)
    session = Session(stream, "g", "me", 1, options, time.monotonic, recover=True)
    try:
        while True:
            entry = perform(client, session.next(), effects)
            if entry is not None:
                perform(client, handling.whole(session, entry), effects)
                perform(client, session.flush(), effects)
                continue
            perform(client, session.fetch(block=False), effects)
            if not session.buffer:
                return
    except Killed:
        return
    finally:
        client.close()


# The verdict must be known before the others are stored; a record dies beside one that fails.
@example(entries=[["good", "bad"]], kills=["no", "after"], attempts_max=3)
@example(entries=[["failing", "good"]], kills=["no", "no", "no", "before", "no", "before"], attempts_max=2)
@settings(max_examples=EXAMPLES)
@given(
    entries=st.lists(st.lists(st.sampled_from(["good", "good", "good", "failing", "bad"]), min_size=1, max_size=7),
                     min_size=1, max_size=2),
    kills=st.lists(st.sampled_from(["no", "before", "after"]), min_size=2, max_size=15),
    attempts_max=st.integers(1, 3),
)  # fmt: skip
def test_only_what_fails_is_buried_and_the_rest_takes_effect_once(
    valkey: str, entries: list[list[str]], kills: list[Kill], attempts_max: int
) -> None:
    stream = f"machine-{next(_numbers)}"
    options = Options(block_ms=1, claim_idle_ms=10, claim_idle_ms_max=10, attempts_max=attempts_max)
    effects = Effects(iter(kills))
    with redis.Redis.from_url(valkey) as client:
        names = [[f"{kind}-{at}-{row}" for row, kind in enumerate(entry)] for at, entry in enumerate(entries)]
        for entry in names:
            add(client, stream, *entry)
        for _ in range(RUNS_MAX):
            consume(valkey, stream, options, effects)
            if not pending(client, stream, "g"):
                break
            time.sleep(0.003)
        assert not pending(client, stream, "g"), "everything is handled in the end"
        letters = Counter(letter[b"record"].split(b'"')[1].decode() for letter in dead(client, stream))
        assert not client.keys(f"{stream}:try:*")
        client.delete(stream, f"{stream}:dead", f"{stream}:groups")
    done = Counter(name for found in effects.spans.values() for name in found)
    everything = [name for entry in names for name in entry]
    good = {name for name in everything if name.startswith("good")}
    assert set(done) <= good
    assert set(done.values()) <= {1}, "exactly once"
    assert set(letters.values()) <= {1}, "one letter a line"
    assert set(done) | set(letters) == set(everything), "nothing is lost"
    for name in set(letters) & good:
        assert effects.deaths_alone[name] >= attempts_max, f"{name} was buried though it is good"
