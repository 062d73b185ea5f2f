"""The headers that ranks exchange, and their bytes: one msgpack array, checked field by field.

``[kind, payload_bytes, offset, field, field, ...]``, at most ``MAX_HEADER_BYTES``. A payload, where
there is one, is the raw memory of a flat vector. It follows on its own, or lies at ``offset`` in
the memory that its sender shares with the receiver.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_args

import msgpack

from psdp.errors import ProtocolError

MAX_HEADER_BYTES = 1024
FOLLOWS = -1
"""As the offset of a payload: in no shared memory, it follows its header."""
CURRENT = -1
"""As a snapshot version: the weights as they are now."""

TRAIN, ALONE, EVALUATE, STOP = "train", "alone", "evaluate", "stop"
DONE, SIGNAL, ERROR = "done", "signal", "error"


@dataclass(frozen=True, slots=True)
class Totals:
    """What a worker has spent and moved so far; no message by itself, but part of several."""

    compute_s: float
    push_s: float
    wait_s: float
    pull_s: float
    pushed_bytes: int
    pulled_bytes: int


@dataclass(frozen=True, slots=True)
class Gradient(Totals):
    """Worker to every server, with its part of the gradient.

    The gradient is the server's to read and write from then until it has answered, so a server on
    the same host takes it where it lies. Where workers train alone, it is what became of ``steps``
    of their own. ``batch`` is as it was ordered; ``step_s`` is how long one of them took,
    ``busy_s`` how much processor time of its worker that was, and ``cpu_s`` what the worker has
    used so far for training and exchanges. Where they reduce among themselves it is empty, and
    ``weights_sha256`` is of what they reached.
    """

    clock: int
    version: int
    tokens: int
    loss: float
    sum_of_squares: float
    steps: int = 1
    step_s: float = 0.0
    batch: int = 0
    weights_sha256: str = ""
    busy_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Worker to rank 0: send the current weights, all of you; or to each server: a snapshot's."""

    snapshot: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Server to worker, with its shard of the weights.

    ``clock`` numbers the gradient to compute next and ``batch`` the batch that it is of, ``steps``
    says how many from these on, and ``tokens`` how many tokens the weights have seen. ``order`` is
    rank 0's: with ``alone``, train on your own in a run that chooses its mode; with ``evaluate``,
    take part ``part`` of ``parts`` of the validation split on snapshot ``snapshot``.
    """

    version: int
    clock: int
    order: str
    snapshot: int
    part: int
    parts: int
    steps: int = 1
    tokens: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """Worker to server, between their endpoints: the oldest weights that it saw in shared memory
    and had not confirmed are copied; that memory may be written again."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Worker to rank 0: sums over its part; ``weights_sha256`` of the whole flat vector."""

    snapshot: int
    part: int
    loss_sum: float
    correct: int
    tokens: int
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Goodbye(Totals):
    """A rank to rank 0: it does no more. ``why``: done, signal or error, with its exit status."""

    why: str
    status: int


@dataclass(frozen=True, slots=True)
class PartialNorm:
    """Server to server: the sum of squares of its shard of the averaged gradient."""

    version: int
    sum_of_squares: float


@dataclass(frozen=True, slots=True)
class Update:
    """Rank 0 to servers: average these slots (a bit each, the first in the lowest) and update, with
    the learning rate times ``rate``, or by the outer optimizer of a run that chooses its mode."""

    version: int
    slots: bytes
    rate: float
    outer: bool


@dataclass(frozen=True, slots=True)
class Discard:
    """Rank 0 to servers: forget the gradient in this slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Rank 0 to servers: send this worker your weights."""

    rank: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Rank 0 to servers: keep a copy of your shard as it is now."""


@dataclass(frozen=True, slots=True)
class ReleaseSnapshot:
    """Rank 0 to servers: the copy is not needed any more, once saved if ``save``."""

    version: int
    save: bool


@dataclass(frozen=True, slots=True)
class ShardSaved:
    """Server to rank 0: its file of a checkpoint, of ``file_bytes``, is on disk. ``cpu_s``: what
    this server has used of its core so far."""

    version: int
    name: str
    file_bytes: int
    sha256: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Rank 0 to servers: everything is saved, the run is over."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Worker to rank 0, with ``--profile``: what one kind of work took in its first ``steps``."""

    steps: int
    kind: str
    calls: int
    seconds: float
    flops: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Progress(Totals):
    """Worker to rank 0, which does not answer: ``steps`` more that the workers took together, from
    number ``clock`` on. The mean loss is this worker's, the sum of squares that of the last mean
    gradient, the same on all workers."""

    clock: int
    steps: int
    loss: float
    sum_of_squares: float


@dataclass(frozen=True, slots=True)
class State:
    """Worker to rank 0, before it says where the workers are (an empty :class:`Gradient`): its
    weights (``index`` 0), or a vector of its optimizer, in the order of
    :meth:`psdp.optim.Optimizer.state`."""

    index: int


Message = (
    Gradient
    | PullRequest
    | Weights
    | Taken
    | Evaluated
    | Goodbye
    | PartialNorm
    | Update
    | Discard
    | Answer
    | TakeSnapshot
    | ReleaseSnapshot
    | ShardSaved
    | Finish
    | Spent
    | Progress
    | State
)

_KINDS: tuple[type[Any], ...] = get_args(Message)
WITH_PAYLOAD = (Gradient, State, Weights)
"""Kinds that a vector always follows; no other kind has a landing."""

_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}
_FIELDS = {kind: tuple((f.name, str(f.type)) for f in fields(kind)) for kind in _KINDS}
_MOST_FIELDS = 3 + max(len(names) for names in _FIELDS.values())


def pack_slots(slots: Iterable[int]) -> bytes:
    """Return slots as a bit each."""
    bits = sum(1 << slot for slot in slots)
    return bits.to_bytes(bits.bit_length() // 8 + 1, "little")


def unpack_slots(packed: bytes) -> tuple[int, ...]:
    """Return the slots of :func:`pack_slots` in rising order."""
    bits = int.from_bytes(packed, "little")
    return tuple(slot for slot in range(bits.bit_length()) if bits >> slot & 1)


class Header(NamedTuple):
    """What a header says: the message, and how large its payload is and where."""

    message: Message
    payload_bytes: int
    offset: int


def encode(message: Message, payload_bytes: int, offset: int = FOLLOWS) -> bytes:
    """Return the header of a message whose payload has this many bytes (0: none)."""
    kind = type(message)
    values = [getattr(message, name) for name, _ in _FIELDS[kind]]
    header: bytes = msgpack.packb([_NUMBER[kind], payload_bytes, offset, *values])
    assert len(header) <= MAX_HEADER_BYTES, f"header of {kind.__name__} is too long"
    return header


def decode(header: bytes | memoryview, peer: int) -> Header:
    """Return what a header from rank ``peer`` says.

    Raises:
        ProtocolError: not a header of this protocol; nothing was allocated for it.
    """

    def wrong(why: str) -> ProtocolError:
        return ProtocolError(f"rank {peer} sent a bad header of {len(header)} bytes: {why}")

    if len(header) > MAX_HEADER_BYTES:
        raise wrong(f"at most {MAX_HEADER_BYTES} are allowed")
    try:
        parts = msgpack.unpackb(
            header,
            max_str_len=MAX_HEADER_BYTES,
            max_array_len=_MOST_FIELDS,
            max_bin_len=MAX_HEADER_BYTES,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise wrong(f"not msgpack ({error})") from error
    if not isinstance(parts, list) or len(parts) < 3 or not all(type(x) is int for x in parts[:3]):
        raise wrong("expected [kind, payload bytes, offset, fields...]")
    number, payload_bytes, offset, *values = parts
    if not 0 <= number < len(_KINDS) or payload_bytes < 0:
        raise wrong(f"unknown kind {number} or negative payload of {payload_bytes} bytes")
    if offset < FOLLOWS:
        raise wrong(f"a payload at offset {offset}")
    kind = _KINDS[number]
    expected = _FIELDS[kind]
    if len(values) != len(expected):
        raise wrong(f"{kind.__name__} has {len(expected)} fields, got {len(values)}")
    for (name, type_name), value in zip(expected, values, strict=True):
        if type(value).__name__ != type_name:
            raise wrong(f"{kind.__name__}.{name} must be {type_name}, got {value!r:.40}")
    return Header(kind(*values), payload_bytes, offset)
