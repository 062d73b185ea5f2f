"""What can happen to a server, and what it may do about it. Gradients are named by their slot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pull:
    """A worker asks for weights without pushing: at its start, or after an evaluation.

    A rank that the policy does not know joins by its first pull.
    """

    rank: int


@dataclass(frozen=True, slots=True)
class Push:
    """What a worker computed on ``version`` lies in ``slot``: its gradient number ``clock`` (from
    0), or what it made of ``steps`` gradients from that number on (local steps).

    ``batch`` numbers the first batch that they were computed on, as the answer said. ``step_s`` is
    how long one of them took, for the policies that give a worker what it can do.
    """

    rank: int
    clock: int
    version: int
    slot: int
    tokens: int
    steps: int = 1
    step_s: float = 0.0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Leave:
    """A worker is gone, by its own word or because it died. Its work not yet pushed is redone."""

    rank: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Hand out no new work; what is out comes home."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Go on in this mode (``--mode auto``), once what is out has come home."""

    mode: str


Event = Pull | Push | Leave | Stop | Switch


@dataclass(frozen=True, slots=True)
class Apply:
    """Average the slots in this order with these weights (they sum to 1); do one update.

    ``version`` is the one that the update makes; ``lags`` are the version lags of the gradients,
    and ``rate`` is what the learning rate is multiplied by because of them. With ``outer`` the
    slots hold what workers changed on their own, in a run that has gradients too (``--mode auto``).
    """

    slots: tuple[int, ...]
    weights: tuple[float, ...]
    tokens: int
    lags: tuple[int, ...]
    version: int
    rate: float = 1.0
    outer: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """The gradient in ``slot`` came too late: forget it. Its worker is to compute it again."""

    rank: int
    slot: int


@dataclass(frozen=True, slots=True)
class SendWeights:
    """Answer the worker: here is ``version``, compute your gradient number ``clock``, or ``steps``
    gradients from that one on before the next push, on the batches from number ``batch`` on; with
    ``alone`` train on your own, in a run in which you are not always to (``--mode auto``)."""

    rank: int
    version: int
    clock: int
    steps: int = 1
    batch: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Drained:
    """The budget is spent and every gradient is applied: ``version`` is the last one."""

    version: int


Effect = Apply | Drop | SendWeights | Drained
