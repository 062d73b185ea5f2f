"""What workers tell of themselves in several messages."""

from __future__ import annotations

from dataclasses import dataclass, field

from psdp.memory import Usage


@dataclass(frozen=True, slots=True)
class Totals:
    """What a worker has spent and moved so far, in seconds and bytes, and what its process has had
    of memory."""

    compute_s: float
    push_s: float
    wait_s: float
    pull_s: float
    pushed_bytes: int
    pulled_bytes: int
    memory: Usage = field(default_factory=Usage)
