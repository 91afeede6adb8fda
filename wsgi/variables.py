"""Environment variables: their names, and the errors about them. Pure.

What lives here: which variable sets which field, which ones are somebody else's, and one line for each fault. What must
not: the settings themselves (``wsgi.settings``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from inlet.stream import place
from inlet.stream.errors import InletError

SHOWN_CHARS_MAX = 120
"""Characters of a value that an error shows: enough to recognize it."""
PREFIX = "INLET_"
"""Begins the name of every variable of Inlet's own."""

_SHARED = frozenset({"redis_url", "port", "web_concurrency"})
_SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|AUTH|KEYS?$")
# What Kubernetes puts into every pod for a Service that is named inlet, or inlet-something.
_SERVICE_LINK = re.compile(r"INLET_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


class SettingsError(InletError):
    """The environment is invalid: one line that names the variable, its value, and how to fix it. Startup only."""

    reason = "settings"


def env_name(field: str) -> str:
    """Return the variable that sets ``field``."""
    return field.upper() if field in _SHARED else PREFIX + field.upper()


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable for a Service that is named inlet, or inlet-something."""
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def unknown(name: str, value: str, names: Mapping[str, str]) -> SettingsError:
    """Say that there is no such variable, and which one was probably meant."""
    bare = name.upper().removeprefix(PREFIX)
    near = [bare] if bare in names else get_close_matches(name.upper(), names, n=1)
    advice = f"did you mean {near[0]}?" if near else "unset it; docs/operations.md lists all settings"
    if _SECRET_NAME.search(name.upper()):
        value = "***"
    elif "://" in value or "@" in value:
        value = place.redacted(value)
    return SettingsError(f"{_quoted(name)[1:-1]}={_quoted(value)} is not a setting of Inlet; {advice}")


def invalid(field: str, value: str, fault: str) -> SettingsError:
    """Say what is wrong with the ``value`` that was given for ``field``, and how to fix it."""
    shown = place.redacted(value) if field == "redis_url" else value
    return SettingsError(f"{env_name(field)}={_quoted(shown)} {fault}")


def _quoted(value: str) -> str:
    """Return one line, whatever the value holds."""
    return repr(value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "...")
