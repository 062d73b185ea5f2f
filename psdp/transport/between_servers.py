"""The messages that servers exchange: what rank 0 has decided, and what the others tell it. They
are part of :mod:`psdp.transport.messages`."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.protocol.order import Squares


@dataclass(frozen=True, slots=True)
class PartialNorm:
    """What the sender's part of the mean that leads to ``version`` adds to its squared norm."""

    version: int
    squares: Squares


@dataclass(frozen=True, slots=True)
class HasLanded:
    """To rank 0: what this rank pushed for a worker is here; it counts once all servers have it."""

    worker: int
    rank: int


@dataclass(frozen=True, slots=True)
class Void:
    """Rank 0 to the others: forget what was pushed last for this worker, if it is there."""

    worker: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Rank 0 to the others: this rank computes for a worker from now on."""

    worker: int
    rank: int


@dataclass(frozen=True, slots=True)
class Include:
    """Rank 0 to the others, before an :class:`ApplyMean`: these slots come next in the mean, with
    these weights."""

    slots: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ApplyMean:
    """Rank 0 to the others: make the update to ``version`` with the mean of what was included, and
    ``rate`` times the learning rate."""

    version: int
    rate: float


@dataclass(frozen=True, slots=True)
class SendShard:
    """Rank 0 to the others: send this rank your shard of the weights, on which it computes for
    these workers."""

    rank: int
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Rank 0 to the others: copy your shard as it is now; ``hold`` the copy until it is dropped, or
    save it."""

    hold: bool


@dataclass(frozen=True, slots=True)
class SaveSnapshot:
    """Rank 0 to the others: write the copy of this version to its checkpoint, and keep it: whoever
    leads may need it until that is complete."""

    version: int


@dataclass(frozen=True, slots=True)
class DropSnapshot:
    """Rank 0 to the others: the copy of this version is not needed any more."""

    version: int


@dataclass(frozen=True, slots=True)
class SaveNow:
    """Rank 0 to the others: the run ends early, with this version; write its checkpoint as soon as
    you are there, whatever else was decided."""

    version: int


@dataclass(frozen=True, slots=True)
class ShardSaved:
    """To rank 0: the sender's file of a checkpoint, of ``file_bytes``, is on disk. ``cpu_s``: what
    the sender has used of its core so far."""

    version: int
    name: str
    file_bytes: int
    sha256: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class ShardRefused:
    """To rank 0: the sender does not save its shard of a version, since it holds NaN or Inf;
    ``why`` says where."""

    version: int
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Rank 0 to the other servers and to ranks that wait: everything is saved, the run is over."""


@dataclass(frozen=True, slots=True)
class Left:
    """Rank 0 to the others: this rank takes part no more, whatever comes."""

    rank: int


# With --standby


@dataclass(frozen=True, slots=True)
class Follows:
    """Standby to its server: it has done all that was decided before so many answers of this term,
    which may leave now. Where they leave at once, also to whom the last of them goes, whose next
    push it can take now."""

    answers: int


@dataclass(frozen=True, slots=True)
class Relieve:
    """Server to its standby: an error keeps the sender from coming to this version, or past it."""

    version: int


@dataclass(frozen=True, slots=True)
class Relieved:
    """Standby to its server: the sender has come to that version, and goes on."""


@dataclass(frozen=True, slots=True)
class Over:
    """Rank 0 to the others: nothing is left to do but to say :class:`Finish`."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Rank 0 to the others, with --record, before what follows from it: this is the line of the
    record of this number, and this version is decided with it."""

    line: int
    version: int
    text: str


@dataclass(frozen=True, slots=True)
class Halt:
    """To all that hold a shard: a term ends, since these that did are lost, or others that are
    spare join them, of these shards; tell the sender, who leads the next term of this number, what
    you know (:class:`Include`, :class:`ApplyMean`, and :class:`Noted` of lines after this one)."""

    term: int
    lost: tuple[int, ...]
    shards: tuple[int, ...]
    joined: tuple[int, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Halted:
    """To who sent :class:`Halt`: that is all that the sender knows; ``lacks``: it has not got its
    shard yet."""

    term: int
    lacks: bool


@dataclass(frozen=True, slots=True)
class Close:
    """To all that hold a shard, after the decisions that some may lack: come to this version, and
    begin the term there; hand your shard to these ranks, if they stand by for you."""

    term: int
    version: int
    lacking: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """To who sent :class:`Close`: the sender has begun the term."""

    term: int


@dataclass(frozen=True, slots=True)
class Rehost:
    """Before a :class:`Close` or a :class:`Begin`: for these workers these ranks compute, other
    than at the start."""

    workers: tuple[int, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """To ranks that work: this term begins without the ranks that are lost, and with those that
    have joined; ask again."""

    term: int
    lost: tuple[int, ...]
    shards: tuple[int, ...]
    joined: tuple[int, ...]


def joined_by(message: Halt | Begin) -> tuple[tuple[int, int], ...]:
    """Return (shard, rank) of those that have come to hold a shard, as a message tells."""
    return tuple(zip(message.shards, message.joined, strict=True))


@dataclass(frozen=True, slots=True)
class Prepare:
    """Rank 0 to a spare rank: make what it takes to hold this shard; or, without one, to compute
    for workers."""

    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """To who sent :class:`Prepare`: it is made; and for which of the two."""

    computes: bool


@dataclass(frozen=True, slots=True)
class Account:
    """Server to who is to stand by for it, when this term begins there: a part of what it is told
    of the shard (psdp/servers/joining.py), and whether it is the last."""

    term: int
    text: str
    last: bool


@dataclass(frozen=True, slots=True)
class Vector:
    """After the :class:`Account`, with one of the vectors (S,) that it tells of."""

    term: int
    place: int
