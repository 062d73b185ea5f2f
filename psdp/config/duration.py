"""Times as people and batch systems write them."""

from __future__ import annotations

import re

from psdp.errors import ConfigError
from psdp.terminal import shown

_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")
_SECONDS = (86400, 3600, 60, 1)


def seconds_in(text: str, flag: str) -> int:
    """Return how many seconds a time is: ``90``, ``30m``, ``1h30m``, ``01:30:00``, ``1-12:00:00``.

    Raises:
        ConfigError: it is none, or nothing.
    """
    if text.isdecimal() and len(text) < _LONGEST:
        found = int(text)
    else:
        match = (_UNITS.fullmatch(text) or _CLOCK.fullmatch(text)) if len(text) < _LONGEST else None
        parts = match.groups() if match is not None else ()
        found = sum(int(part or 0) * unit for part, unit in zip(parts, _SECONDS, strict=False))
    if not found:
        raise ConfigError(
            f"{flag} expects a time such as 90 (seconds), 30m, 1h30m or 01:30:00, got {shown(text)}"
        )
    return found


_LONGEST = 20
"""Characters of a time; nobody trains for longer than that."""
