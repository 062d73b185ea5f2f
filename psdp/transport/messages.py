"""The messages that ranks exchange: each says what it is by its type. Their bytes: headers.py.

A message may be followed by a vector (:data:`WITH_PAYLOAD`). Fields are plain numbers and text,
tuples of numbers, or such dataclasses themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from psdp.modes import Pushed
from psdp.protocol import Sums, Work
from psdp.protocol.order import Discard

# Imports whose names are this module's too.
# isort: off
from psdp.transport.between_endpoints import (
    Begun as Begun,
    Shares as Shares,
    Taken as Taken,
)
from psdp.transport.endings import (
    Excused as Excused,
    Failed as Failed,
    Signalled as Signalled,
)
from psdp.transport.between_servers import (
    Account as Account,
    ApplyMean as ApplyMean,
    Begin as Begin,
    Close as Close,
    Closed as Closed,
    DropSnapshot as DropSnapshot,
    Finish as Finish,
    Follows as Follows,
    Halt as Halt,
    Halted as Halted,
    HasLanded as HasLanded,
    Include as Include,
    Left as Left,
    Moved as Moved,
    Noted as Noted,
    Over as Over,
    PartialNorm as PartialNorm,
    Prepare as Prepare,
    Prepared as Prepared,
    Rehost as Rehost,
    Relieve as Relieve,
    Relieved as Relieved,
    SaveNow as SaveNow,
    SaveSnapshot as SaveSnapshot,
    SendShard as SendShard,
    ShardRefused as ShardRefused,
    ShardSaved as ShardSaved,
    TakeSnapshot as TakeSnapshot,
    Vector as Vector,
    Void as Void,
    joined_by as joined_by,
)
from psdp.transport.totals import Totals as Totals
# isort: on


# Worker to every server: pushes


@dataclass(frozen=True, slots=True)
class Push:
    """What all of them say: for which worker, and what they bring."""

    worker: int
    work: Work
    totals: Totals


@dataclass(frozen=True, slots=True)
class Gradient(Push):
    """With the server's part of a gradient, which is the server's to read and write from then until
    it has answered: on the same host it takes it where it lies. So is what the next three bring."""


@dataclass(frozen=True, slots=True)
class Change(Push):
    """With the server's part of a pseudo-gradient: the weights before some steps of the worker's
    own, minus those after."""


@dataclass(frozen=True, slots=True)
class Share(Push):
    """The same, to be taken alone."""


@dataclass(frozen=True, slots=True)
class WorkerWeights(Push):
    """With the server's part of the worker's own weights."""


@dataclass(frozen=True, slots=True)
class Reached(Push):
    """All workers have made these steps together; this is the hash of what the sender has reached.
    To rank 0, after each :class:`State` of the first worker's rank."""

    weights_sha256: str


PUSHES: dict[Pushed, type[Gradient | Change | Share | WorkerWeights]] = {
    Pushed.GRADIENT: Gradient,
    Pushed.CHANGE: Change,
    Pushed.SHARE: Share,
    Pushed.WEIGHTS: WorkerWeights,
}
"""The message in which each kind of push comes; where nothing is pushed, it is :class:`Reached`."""


# Worker to servers: all else


@dataclass(frozen=True, slots=True)
class AskWeights:
    """To rank 0: send me the present weights, all of you, with orders for these workers."""

    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AskSnapshot:
    """To each server: send me the weights of this version, of which you have, or will have, a
    snapshot."""

    version: int


@dataclass(frozen=True, slots=True)
class State:
    """To rank 0, with the weights that all workers share (``index`` 0), a vector of their
    optimizer, or the weights' average, in the order of :attr:`psdp.checkpoint.Snapshot.vectors`."""

    index: int


@dataclass(frozen=True, slots=True)
class Progress:
    """To rank 0, which does not answer: ``steps`` more that the workers took together, from number
    ``clock`` on. The mean loss is that of the sender's workers, which are so many; the sum of
    squares that of the last mean gradient, the same on all ranks, and so is how many units counted
    in these steps (0: all of them)."""

    totals: Totals
    clock: int
    steps: int
    workers: int
    counted: int
    loss: float
    sum_of_squares: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """To rank 0: what a worker's part of an evaluation comes to; the hash is of the weights that
    part 0 was evaluated on, and empty of all others."""

    worker: int
    version: int
    part: int
    sums: Sums
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """To rank 0, before :class:`Evaluated`: the next part of a text that the version makes."""

    worker: int
    version: int
    text: str


@dataclass(frozen=True, slots=True)
class Spent:
    """To rank 0, with ``--profile``: what one kind of work took in the first ``steps``."""

    steps: int
    kind: str
    calls: int
    seconds: float
    flops: float
    bytes: int


@dataclass(frozen=True, slots=True)
class WorkerSaved:
    """To rank 0: the file of what a worker has for itself, of ``file_bytes``, is in the checkpoint
    of a version, on disk."""

    worker: int
    version: int
    file_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WorkerUnsaved:
    """To rank 0: there will be no such file; ``why`` says so in words."""

    worker: int
    version: int
    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """To rank 0: the last of this rank's workers was told to stop, and has."""

    totals: Totals


# Server to worker


@dataclass(frozen=True, slots=True)
class Train:
    """Compute ``steps`` gradients of a worker from number ``clock`` on, of batches from number
    ``batch`` on, and push what is wanted of them. The weights have seen ``units`` units."""

    worker: int
    clock: int
    batch: int
    steps: int
    units: int
    push: Pushed


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate part ``part`` of ``parts`` of the validation split on the snapshot of a version, for
    a worker, and tell what text it makes, if it ``samples``."""

    worker: int
    version: int
    part: int
    parts: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """Compute no more for this worker."""

    worker: int


Order = Train | Evaluate | Stop


@dataclass(frozen=True, slots=True)
class Answer:
    """With the server's shard of the weights of ``version``. Orders, one for a worker at most, are
    rank 0's; what comes of other servers or with a snapshot has none."""

    version: int
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class SaveWorker:
    """Rank 0 to a worker's rank: write what the worker had for itself after ``clock`` gradients to
    the checkpoint of this step and version."""

    worker: int
    clock: int
    step: int
    version: int


# Any rank to rank 0


Message = (
    Gradient
    | Change
    | Share
    | WorkerWeights
    | Reached
    | AskWeights
    | AskSnapshot
    | Taken
    | State
    | Progress
    | Evaluated
    | Sampled
    | Spent
    | WorkerSaved
    | WorkerUnsaved
    | Done
    | Answer
    | SaveWorker
    | PartialNorm
    | HasLanded
    | Void
    | Moved
    | Shares
    | Include
    | ApplyMean
    | Discard
    | SendShard
    | TakeSnapshot
    | SaveSnapshot
    | DropSnapshot
    | SaveNow
    | ShardSaved
    | ShardRefused
    | Finish
    | Signalled
    | Excused
    | Failed
    | Left
    | Follows
    | Noted
    | Relieve
    | Relieved
    | Over
    | Halt
    | Halted
    | Close
    | Closed
    | Rehost
    | Begin
    | Begun
    | Prepare
    | Prepared
    | Account
    | Vector
)

WITH_PAYLOAD = (*PUSHES.values(), State, Answer, Vector)
"""Kinds that a vector always follows; no other kind has a landing."""

OF_ANY_TERM = (
    *(Include, ApplyMean, Halt, Halted, Close, Closed, Rehost, Begin, Begun, Left, Noted),
    *(Account, Vector, Signalled, Failed, Shares),
)
"""Kinds that count whenever they come; all others are void when a later term has begun."""
