"""What a rank says that is to end, or has to, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signalled:
    """The signal of this number asked the sender to end. Of a worker it may be a notice, that its
    machine alone goes: it goes on until rank 0 has decided."""

    number: int


@dataclass(frozen=True, slots=True)
class Excused:
    """The receiver, which holds a shard and was asked to end by the signal of this number, is to
    leave: another rank goes on with its shard."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The sender cannot go on, and has said why; the job is to end with this exit status."""

    status: int
