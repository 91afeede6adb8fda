"""Editing the keys file: a key appended, a key removed, and everything else as the operator wrote it.

What lives here: changes of the file's text. What must not: the format and its checks (``inlet.keyfile``), output.

The text is edited, then read back, and taken only if it holds exactly the keys that it should. Where it does not, as in
a file that has its keys as one inline array, the file is written anew without its comments.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from inlet.keyfile import HEADER, Key, KeyFileError, block, error, locked, parse, read, replace, text_of

_HEAD = re.compile(r"[ \t]*\[\[[ \t]*key[ \t]*\]\][ \t]*(#.*)?")

Edited = tuple[str, tuple[Key, ...]]
"""The new text, and the keys that it should hold."""


def add(path: Path, key: Key) -> None:
    """Append a key; create the file (mode 0600) if there is none. Comments stay. Raises KeyFileError."""

    def appended(text: str, keys: tuple[Key, ...]) -> Edited:
        separator = "\n" * (2 - len(text[-2:]) + len(text[-2:].rstrip("\n"))) if text else ""
        return (text or HEADER) + separator + block(key), (*keys, key)

    _edit(path, appended, create=True)


def remove(path: Path, key_id: str) -> Key:
    """Remove a key, with the comment lines directly above it, and return it. Raises KeyFileError."""
    found: list[Key] = []

    def without(text: str, keys: tuple[Key, ...]) -> Edited:
        index = next((index for index, key in enumerate(keys) if key.id == key_id), None)
        if index is None:
            raise error(path, f"has no key with the id {key_id!a}; `inlet keys list` prints the ids")
        found.append(keys[index])
        return _cut(text, index), keys[:index] + keys[index + 1 :]

    _edit(path, without)
    return found[0]


def _edit(path: Path, change: Callable[[str, tuple[Key, ...]], Edited], *, create: bool = False) -> None:
    """Change the file under its lock. Raises KeyFileError, with the file as it was."""
    with locked(path) as real:
        data = b"" if create and not os.path.exists(real) else read(path)
        keys = parse(data, path)
        text, wanted = change(data.decode(), keys)
        for candidate in (text, text_of(wanted)):
            with contextlib.suppress(KeyFileError):
                if parse(candidate.encode(), path) == wanted:
                    replace(real, candidate, path)
                    return
        parse(text_of(wanted).encode(), path)  # Raises what is wrong with the new key.
        raise error(path, "would not read back as it was written: a bug in Inlet; nothing was changed")


def _cut(text: str, index: int) -> str:
    """Return the text without its table number ``index`` and the comment lines directly above it."""
    lines = text.splitlines(keepends=True)
    heads = [number for number, line in enumerate(lines) if _HEAD.fullmatch(line.rstrip("\r\n"))]
    if index >= len(heads):
        return text
    start = heads[index]
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    end = heads[index + 1] if index + 1 < len(heads) else len(lines)
    # Comments behind the table's last line are about what follows.
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    if end < len(lines) and not lines[end].strip():
        end += 1
    return "".join(lines[:start] + lines[end:])
