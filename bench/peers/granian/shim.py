"""Inlet's app for Granian, which reads the status before it iterates the answer, against PEP 3333.

Inlet calls ``start_response`` at the first iteration, so without this every answer would be a 200, sent whatever the
store said. Here the answer is iterated inside the call. Group commit still works: the threads share a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app import application as inlet


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The whole answer, once its status is known."""
    answer = inlet(environ, start_response)
    try:
        return [b"".join(answer)]
    finally:
        if hasattr(answer, "close"):
            answer.close()
