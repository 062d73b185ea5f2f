"""Which settings make runs repetitions of one another, rows of one scenario, or neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psdp.config import settings
from psdp.modes import MODES

NOT_COMPARED = {"seed", "out", "resume", "record", "quiet", "keep_checkpoints"}
"""Settings in which repetitions of a run may differ."""

CONDITIONS = {"straggler", "jitter", "link_mbps", "slow_link"}
SETUP = {
    *{field.name for topic, field in settings() if topic in ("model", "data")},
    *("batch_size", "grad_accum", "threads", "device", "kernels", "precision", "dtype"),
}
"""Settings that make runs incomparable, beside the conditions: another task or another machine."""

OF_MODE = {"mode", "balance", "wire_dtype"}.union(
    *(mode.settings.keys() | mode.defaults.keys() for mode in MODES.values())
)
"""Settings whose meaning or default is the mode's."""


def is_plain(s: Mapping[str, Any]) -> bool:
    """Say whether nothing changes what its mode means."""
    return not s["backup_workers"] and not s["overlap"] and s["balance"] == "static"


def hashable(value: Any) -> Any:
    """Return a setting's value as a key may hold it."""
    return tuple(value) if isinstance(value, list) else value


def said(name: str, value: Any) -> str:
    """Return a setting as a title or a label says it."""
    return f"{name.replace('_', '-')} {value}"
