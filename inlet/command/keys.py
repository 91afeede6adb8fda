"""``keys``: create, list and revoke the keys of producers, and check the file.

What lives here: the commands and their words. What must not: the file's format (``inlet.keyfile``), how its text is
changed (``inlet.command.keyedit``).
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inlet import keyfile
from inlet.command import common, keyedit, output
from inlet.keyfile import Key, KeyFileError, KeyQuotas, Quota
from inlet.stream.errors import ConsumerError

DESCRIPTION = """Create, list, and revoke the keys that producers send, in the file that INLET_KEYS_FILE names.

  inlet keys new checkout                              may send everything; prints the key, once
  inlet keys new shop --service cart --service checkout --stream shop
  inlet keys new edge --quota requests=100/s,burst=200 --quota bytes=5mb/s
  inlet keys new prometheus --metrics                  may read /metrics as well
  inlet keys list
  inlet keys revoke 3f9a0c12be47
  inlet keys check /etc/inlet/keys.toml                exit status 1 if a server would refuse the file

The last line that `new` prints is the key, alone; the file has only its SHA-256. Send it as
`Authorization: Bearer KEY`, or as any of the ways in docs/protocol.md.

A quota is requests, records, or bytes: =RATE/s, and optionally ,burst=N for how much may come at once; the default is
what one second allows. Bytes may be written with kb, mb, or gb (1024, 1024 * 1024, ...).

To rotate a key, create another under another name with the same rights, give it to the producer, then revoke the old
one. Running servers notice a change of the file within two seconds.
"""

_QUOTA = re.compile(r"(requests|records|bytes)=([^,/]+)/s(?:,burst=([^,/]+))?")
_NUMBER = re.compile(r"(\d{1,400}(?:\.\d{1,400})?(?:[eE][+-]?\d{1,9})?)(kb|mb|gb)?", re.ASCII)
_UNITS = {"": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}


def register(commands: Any) -> None:
    """Add ``keys`` to the command line."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "keys", help="create, list, or revoke producers' keys", description=DESCRIPTION, formatter_class=kind
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for name, text, run in (
        ("new", "create a key and print it, once", run_new),
        ("list", "print one line a key, without its secret", run_list),
        ("revoke", "remove a key", run_revoke),
        ("check", "check the file, and print what each key may do", run_check),
    ):
        action = actions.add_parser(name, help=text, description=DESCRIPTION, formatter_class=kind)
        action.add_argument("--file", help="the keys file; default: INLET_KEYS_FILE")
        if name in ("list", "check"):
            action.add_argument("--json", action="store_true", help="print JSON, one object a line")
        action.set_defaults(run=run)
        if name == "new":
            _new_options(action)
        elif name == "revoke":
            action.add_argument("id", metavar="ID", help="from `keys list`")
        elif name == "check":
            action.add_argument("path", nargs="?", metavar="FILE", help="the keys file, instead of --file")


def _new_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("name", metavar="NAME", help="for people; no two keys of a file share one")
    for option, what in (
        ("--receiver", "a receiver it may use, such as native"),
        ("--service", "a service it may send"),
    ):
        # One value each: with more, `new --service cart shop` would take the name for a service.
        letter = option[2].upper()
        action.add_argument(option, action="append", metavar=letter, help=f"{what}; repeatable; default: all")
    action.add_argument("--stream", metavar="S", help="stream for its records; default: the server's INLET_STREAM")
    action.add_argument("--metrics", action="store_true", help="it may read /metrics")
    action.add_argument(
        "--quota", action="append", default=[], metavar="Q", help="such as records=1000/s,burst=5000; repeatable"
    )


def file_of(arguments: argparse.Namespace) -> Path:
    """Return the path of the keys file. Raises Usage where nothing names it."""
    named = getattr(arguments, "path", None) or arguments.file or os.environ.get("INLET_KEYS_FILE")
    if not named:
        raise common.Usage("no keys file is named; set INLET_KEYS_FILE, or use --file")
    return Path(os.path.abspath(named))


def quotas_of(words: list[str]) -> KeyQuotas:
    """Return the quotas that ``--quota`` gives. Raises Usage."""
    found: dict[str, Quota] = {}
    for word in words:
        match = _QUOTA.fullmatch(word)
        if match is None:
            raise common.Usage(f"--quota {word!a} is not a quota; write one as requests=100/s,burst=200")
        if match[1] in found:
            raise common.Usage(f"--quota gives {match[1]} twice; keep one")
        quota = keyfile.quota_of(
            _number(match[1], match[2], word), None if match[3] is None else _number(match[1], match[3], word)
        )
        if (fault := keyfile.quota_fault(quota)) is not None:
            raise common.Usage(f"--quota {word!a} {fault}")
        found[match[1]] = quota
    return KeyQuotas(**found)


def _number(what: str, text: str, word: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or (match[2] and what != "bytes"):
        units = "a number, optionally with kb, mb or gb" if what == "bytes" else "a number"
        raise common.Usage(f"--quota {word!a}: {text!a} is not {units}")
    return float(match[1]) * _UNITS[match[2] or ""]


def run_new(arguments: argparse.Namespace) -> int:
    """Run ``keys new``."""
    path = file_of(arguments)
    secret, sha256 = keyfile.new_secret()
    key = Key(
        id=keyfile.new_id(),
        name=arguments.name,
        sha256=sha256,
        created=datetime.now(UTC).replace(microsecond=0),
        receivers=None if arguments.receiver is None else tuple(arguments.receiver),
        services=None if arguments.service is None else tuple(arguments.service),
        stream=arguments.stream,
        metrics=arguments.metrics,
        quotas=quotas_of(arguments.quota),
    )
    try:
        keyfile.parse(keyfile.block(key).encode(), Path("-"))
    except KeyFileError as error:
        raise common.Usage(error.detail.partition(": ")[2]) from None
    try:
        keyedit.add(path, key)
    except KeyFileError as error:
        raise ConsumerError(error.detail) from None
    _warn_of_receivers(key)
    output.warn(f"added the key {key.name!r} ({key.id}) to {output.printable(str(path))}: {words(key)}")
    output.warn("this is the only time that the key is shown:")
    try:
        output.write(f"inlet_{key.id}_{secret}\n".encode())
    except OSError as error:
        # Nobody has the secret.
        keyedit.remove(path, key.id)
        raise ConsumerError(f"the key could not be printed, so it was removed again: {error.strerror}") from None
    return common.OK


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``keys list``."""
    keys = _load(file_of(arguments))
    width = max([4, *(len(key.name) for key in keys)])
    if not arguments.json:
        output.write(f"ID            CREATED     {'NAME':<{width}}  MAY\n".encode())
    for key in keys:
        text = f"{key.id}  {key.created:%Y-%m-%d}  {key.name:<{width}}  {words(key)}"
        output.say(as_json(key), text, arguments)
    return common.OK


def run_revoke(arguments: argparse.Namespace) -> int:
    """Run ``keys revoke``."""
    path = file_of(arguments)
    try:
        key = keyedit.remove(path, arguments.id)
    except KeyFileError as error:
        raise ConsumerError(error.detail) from None
    output.write(f"revoked the key {key.name!r} ({key.id}); running servers notice within two seconds\n".encode())
    return common.OK


def run_check(arguments: argparse.Namespace) -> int:
    """Run ``keys check``."""
    if arguments.path and arguments.file:
        raise common.Usage("name the file once: as FILE, or with --file")
    path = file_of(arguments)
    keys = _load(path)
    if not keys:
        output.warn("the file has no key, so a server refuses every request; create one with `inlet keys new NAME`")
    for key in keys:
        _warn_of_receivers(key)
        output.say(as_json(key), f"{key.name} ({key.id}): {words(key)}", arguments)
    if not arguments.json:
        count = f"{len(keys)} key" + "s" * (len(keys) != 1)
        output.write(f"{output.printable(str(path))}: {count}, valid\n".encode(errors="replace"))
    return common.OK


def _warn_of_receivers(key: Key) -> None:
    """Warn of a typing error, with which a key may send nothing."""
    if unknown := keyfile.unknown_receivers(key):
        names = ", ".join(map(repr, unknown))
        output.warn(
            f"the key {key.name!r} ({key.id}) names {names}: not a receiver of this version, which has"
            f" {', '.join(keyfile.RECEIVERS)}"
        )


def _load(path: Path) -> tuple[Key, ...]:
    try:
        return keyfile.load(path)
    except KeyFileError as error:
        raise ConsumerError(error.detail) from None


def as_json(key: Key) -> dict[str, Any]:
    """Return a key as JSON's members, without its hash."""
    members = asdict(key)
    del members["sha256"]
    return {**members, "created": key.created.isoformat().replace("+00:00", "Z")}


def words(key: Key) -> str:
    """Return what a key may do, for people."""
    parts = [
        "every receiver" if key.receivers is None else f"receivers {', '.join(key.receivers)}",
        "every service" if key.services is None else f"services {', '.join(map(output.printable, key.services))}",
    ]
    if key.stream is not None:
        parts.append(f"stream {key.stream}")
    if key.metrics:
        parts.append("metrics")
    for kind, quota in key.quotas.given():
        parts.append(f"{quota.per_second:,.10g} {kind}/s (burst {quota.burst:,.10g})")
    return "; ".join(parts)
