"""What can happen to a server, and what it may do about it. Gradients are named by their slot, and
workers by their number, whichever rank computes for them (psdp/protocol/hosting.py)."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.modes import Pushed


@dataclass(frozen=True, slots=True)
class Pull:
    """A worker asks for weights without pushing: at its start, or after an evaluation.

    A worker that the policy does not know joins by its first pull.
    """

    worker: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker says of what it pushes: its gradient number ``clock`` (from 0), computed on
    ``version``, or what it made of ``steps`` gradients from that number on.

    Attributes:
        batch: number of the first batch that they were computed on, as the answer said.
        units: that went into them.
        loss: their mean.
        counted: how many of the units the loss is the mean of; 0: all of them.
        sum_of_squares: of what is pushed.
        step_s: how long one of them took.
        busy_s: how much processor time of its worker that was.
        cpu_s: what the worker has used so far, for training and exchanges.
        own_s: how long one of them would have taken had there always been a core for it.
    """

    clock: int
    version: int
    units: int
    batch: int = 0
    steps: int = 1
    loss: float = 0.0
    sum_of_squares: float = 0.0
    step_s: float = 0.0
    busy_s: float = 0.0
    cpu_s: float = 0.0
    own_s: float = 0.0
    counted: int = 0

    @property
    def weight(self) -> int:
        """How many units count, as much as it does in a mean of several."""
        return self.counted or self.units

    @property
    def clocks(self) -> range:
        """Numbers of the gradients."""
        return range(self.clock, self.clock + self.steps)

    @property
    def batches(self) -> range:
        """Numbers of the batches."""
        return range(self.batch, self.batch + self.steps)


@dataclass(frozen=True, slots=True)
class Push:
    """What a worker made lies in ``slot``."""

    worker: int
    slot: int
    work: Work


@dataclass(frozen=True, slots=True)
class Leave:
    """A worker is gone, by its own word or because it died. Its work not yet pushed is redone."""

    worker: int


@dataclass(frozen=True, slots=True)
class Move:
    """Another rank computes for a worker from now on: what it was to compute is begun again."""

    worker: int
    rank: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Hand out no new work; what is out comes home."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Go on in this one of the candidates of a mode that chooses, once what is out has come
    home."""

    mode: str


Event = Pull | Push | Move | Leave | Stop | Switch


@dataclass(frozen=True, slots=True)
class Apply:
    """Average the slots in this order with these weights (they sum to 1); do one update.

    ``version`` is the one that the update makes; ``lags`` are the version lags of the gradients,
    and ``rate`` is what the learning rate is multiplied by because of them. ``counted`` of the
    units count; 0: all of them.
    """

    slots: tuple[int, ...]
    weights: tuple[float, ...]
    units: int
    lags: tuple[int, ...]
    version: int
    rate: float = 1.0
    counted: int = 0

    @property
    def weight(self) -> int:
        """How many units count."""
        return self.counted or self.units


def some_of(units: int, counted: int) -> int:
    """Return how many of these units count as it is told: 0 if all do."""
    return 0 if counted == units else counted


@dataclass(frozen=True, slots=True)
class Drop:
    """The gradient in ``slot`` came too late: forget it. Its worker is to compute it again."""

    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class SendWeights:
    """Answer the worker: here is ``version``, compute your gradient number ``clock``, or ``steps``
    gradients from that one on before the next push, on the batches from number ``batch`` on;
    ``push`` says what is wanted of them."""

    worker: int
    version: int
    clock: int
    steps: int = 1
    batch: int = 0
    push: Pushed = Pushed.GRADIENT


@dataclass(frozen=True, slots=True)
class Drained:
    """The budget is spent and every gradient is applied: ``version`` is the last one."""

    version: int


Effect = Apply | Drop | SendWeights | Drained
