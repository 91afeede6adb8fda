"""What ``Reader`` and ``AsyncReader`` have in common: the session, its settings, its figures, and stopping it.

What lives here: everything about a reader that neither waits nor sends. What must not: performing steps.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Generic, TypeVar

from inlet.consumer import names
from inlet.consumer.entries import Entry
from inlet.consumer.options import Options
from inlet.consumer.session import Session, Stats
from inlet.consumer.steps import Wait
from inlet.consumer.stopping import pauses

Client = TypeVar("Client")


def made_up_name() -> str:
    """Return a name that no other consumer has, made of the host's, the process's and a random part."""
    return names.consumer_name(socket.gethostname(), os.getpid(), uuid.uuid4().hex[:6])


class ReaderBase(Generic[Client]):
    """Hold one consumer's session and its connection to the store."""

    def __init__(
        self,
        url: str,
        stream: str,
        group: str,
        consumer: str | None = None,
        *,
        partitions: int = 1,
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        name = consumer or made_up_name()
        self._forget = consumer is None
        self._session = Session(stream, group, name, partitions, options, time.monotonic, recover=consumer is not None)
        self._client = self._connect(url, options.block_ms)

    def _connect(self, url: str, block_ms: int) -> Client:
        """Return a client of the store; it connects when first used."""
        raise NotImplementedError

    @property
    def stats(self) -> Stats:
        """Return what this reader has done so far."""
        return self._session.stats

    @property
    def consumer(self) -> str:
        """Return the consumer's name."""
        return self._session.consumer

    def stop(self) -> None:
        """End the iteration or ``run`` after the current entry; noticed within ``block_ms``."""
        self._session.stopping = True

    def give_back(self, entry: Entry) -> None:
        """Take back an entry that was not handled: ``close`` returns it with what was read ahead, claimable at once."""
        self._session.give_back(entry)

    def _pauses(self, step: Wait) -> Iterator[float]:
        # A stop that came before this wait began must not turn it into a busy loop.
        was_stopping = self._session.stopping
        return pauses(step.seconds, lambda: self._session.stopping != was_stopping)
