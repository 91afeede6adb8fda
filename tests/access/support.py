"""What the tests of access share: keys with their secrets, and a file of them.

What lives here: making keys. What must not: assertions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inlet import keyfile
from inlet.keyfile import Key

CREATED = datetime(2026, 11, 27, 20, 0, 0, tzinfo=UTC)


def new_key(name: str = "checkout", **members: Any) -> tuple[Key, str]:
    """Return a key, and how a producer sends it."""
    secret, sha256 = keyfile.new_secret()
    key = Key(**{"id": keyfile.new_id(), "name": name, "sha256": sha256, "created": CREATED, **members})
    return key, f"inlet_{key.id}_{secret}"


def keys_file(path: Path, *keys: Key) -> Path:
    """Write the keys to a file and return its path."""
    keyfile.save(path, keys)
    return path
