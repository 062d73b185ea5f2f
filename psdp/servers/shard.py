"""One server's range of the flat vector: weights, optimizer, gradient slots, snapshots.

Knows nothing of what a mode decides, nor of who sent a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from psdp.backend import Backend, make_backend
from psdp.checkpoint import Snapshot
from psdp.errors import ConfigError
from psdp.fields import AUTO
from psdp.job import Job
from psdp.modes import Pushed
from psdp.optim import DelayCompensation, Optimizer, WeightAverage
from psdp.params import Array, Zeros
from psdp.servers.rules import Rules, make_rules
from psdp.servers.weights import Weights
from psdp.transport import Room, Sending
from psdp.wire import Codec, make_codec


class Slots:
    """Places for what workers push, each made when it is first asked for.

    Args:
        make: returns a new one, for the longest payload.
    """

    def __init__(self, count: int, make: Callable[[], Array]) -> None:
        self._count = count
        self._make = make
        self._made: dict[int, Room] = {}

    def __len__(self) -> int:
        return self._count

    def room(self, slot: int) -> Room:
        """Return where a payload of any size lands that fits into a slot."""
        assert 0 <= slot < self._count, slot
        if slot not in self._made:
            self._made[slot] = Room(self._make())
        return self._made[slot]

    def renew(self, slot: int) -> None:
        """Make a new place for a slot, and move into it what lies there."""
        before, room = self._made[slot], Room(self._make())
        assert room.take(before.payload.nbytes)
        room.payload[...] = before.payload
        self._made[slot] = room

    def __getitem__(self, slot: int) -> Array:
        return self.room(slot).vector

    def __iter__(self) -> Iterator[Array]:
        return (self[slot] for slot in range(self._count))

    def __setitem__(self, slot: int, vector: Array) -> None:
        assert 0 <= slot < self._count, slot
        self._made[slot] = Room(vector)


class Shard:
    """The parameters ``span`` of the flat vector, updated in place by this server's rules.

    Args:
        rules: for vectors (S,); the backend of the first one's optimizer averages too.
        weights: (S,) this shard's initial values.
        slots: pushes that can be held at once.
        codec: of these; as vectors are, if that is not said.
        zeros: makes copies of the weights, where workers on this host can see them.
        ema: decay of an average of the weights; 0: none is kept.
    """

    def __init__(
        self,
        rules: Rules,
        weights: Array,
        slots: int,
        *,
        codec: Codec | None = None,
        zeros: Zeros = np.zeros,
        ema: float = 0.0,
    ) -> None:
        self.weights = Weights(weights, zeros)
        self.rules = rules
        self.codec = codec = make_codec(None, weights.dtype) if codec is None else codec
        self._bound = codec.bound(weights.size)
        self.slots = Slots(slots, lambda: self.backend.empty(self._bound, dtype=codec.item))
        # A mean of what is encoded needs a vector of its own.
        self._mean = None if codec.as_it_is else self.backend.empty(weights.size)
        # Copies to save and to evaluate on are the host's, wherever the weights are.
        self._on_host = self.backend.name == "cpu"
        self._host_zeros = zeros if self._on_host else np.zeros
        self._spare: list[Snapshot] = []
        self._computed_on: dict[int, tuple[Array, Sending]] = {}
        self._adopted: set[int] = set()
        self._nowhere: Room | None = None
        self._delay: DelayCompensation | None = None
        self._average: WeightAverage | None = None
        if ema:
            self._average = WeightAverage(ema, self.optimizer.part, self.backend)
            self._average.begin(weights)

    @classmethod
    def initial(
        cls,
        job: Job,
        number: int,
        zeros: Zeros = np.zeros,
        *,
        weights: Array | None = None,
        threads: int = 1,
        device: Backend | None = None,
        on_device: bool = False,
    ) -> Shard:
        """Return the fresh shard of this number; its values depend on the settings alone.

        Args:
            weights: (S,) that it begins with, where they are not random.
            device: a GPU that keeps the optimizer's vectors and updates, if one does.
            on_device: whether it keeps the weights and the gradients too; ``zeros`` are its own.

        Raises:
            ConfigError: the task's first weights are no such vector.
        """
        config, span = job.config, job.shards[number]
        first = _first(job, span) if weights is None else weights
        own = zeros(len(span), config.run.dtype)
        run = config.run
        # Where workers are on GPUs the flag is about kernels of theirs.
        kernels = run.kernels if run.device == "cpu" else AUTO
        backend = make_backend("cpu", run.dtype, kernels=kernels, threads=threads)
        if device is not None and on_device:
            backend, device = device, None
        backend.to_device(first, own)
        return cls(
            make_rules(job, job.parts[number], backend, device),
            own,
            0 if job.reduces else len(job.workers),
            codec=job.codec,
            zeros=zeros,
            ema=config.optim.ema,
        )

    @property
    def optimizer(self) -> Optimizer:
        """The one whose state is saved with the weights."""
        return self.rules.optimizer

    @property
    def backend(self) -> Backend:
        return self.optimizer.backend

    def nowhere(self) -> Room:
        """Return where that lands which does not count."""
        if self._nowhere is None:
            self._nowhere = Room(self.backend.empty(self._bound, dtype=self.codec.item))
        return self._nowhere

    def landing(self, slot: int) -> Array | Room:
        """Return where what is pushed to a slot lands."""
        return self.slots.room(slot) if self.codec.varies else self.slots[slot]

    @property
    def updates(self) -> int:
        """Updates that were begun, since the first start of the run."""
        return self.rules.updates

    def adopt(self, slot: int, gradient: Array) -> None:
        """Let a slot be where a worker's own gradient for this shard is, from now on.

        What the worker adds up there is then in place when it says so, and :meth:`average` writes
        there. Both are safe since a worker touches its gradient only between an answer and its
        next push, and this server only between a push and its answer: that gradient is applied,
        or the run over, before the answer is sent (protocol/policy.py answers so in every mode).
        """
        assert gradient.shape == (self._bound,), gradient.shape
        assert gradient.dtype == self.codec.item, gradient.dtype
        self.slots[slot] = gradient
        self._adopted.add(slot)

    def detach(self, slot: int) -> None:
        """Let a slot be this server's own again, with what is in it: the rank that shared its
        memory is gone, or computes for several workers there."""
        if slot in self._adopted:
            self._adopted.discard(slot)
            self.slots.renew(slot)

    def average(self, slots: Sequence[int], weights: Sequence[float]) -> Array:
        """Return the weighted mean (S,) of the slots, in this order, in the weights' type.

        It takes the first one's place; where slots are encoded, that of the last mean.
        """
        mean = self.slots[slots[0]] if self._mean is None else self._mean
        if len(slots) > 1 or self._mean is not None:
            payloads = [self.slots.room(slot).payload for slot in slots]
            self.codec.mean(payloads, weights, mean, self.backend)
        return mean

    def squares(self, mean: Array) -> tuple[float, ...]:
        """Return few numbers whose sum is that of the squares of a mean (S,); those of all shards
        have the same sum for any number of servers."""
        return self.backend.squares(mean, self.optimizer.part)

    def send(self, snapshot: Snapshot, way: Callable[[Array], Sending]) -> None:
        """Send the weights of a snapshot that are evaluated some way, from where the shard's own
        are."""
        if self._on_host:
            way(snapshot.evaluated)
            return

        def fill(vector: Array) -> None:
            self.backend.to_device(snapshot.evaluated, vector)

        lent = self.weights.beside(snapshot.version, fill)
        lent.readers.append(way(lent.values))

    def begin_term(self) -> None:
        """A term begins: what is not saved begins anew in it."""
        self.rules.begin()
        self._delay = None

    def remember(self, slot: int) -> None:
        """Keep the present weights: the next gradient in this slot is computed on them."""
        if slot in self._computed_on:
            self._computed_on[slot][1].done = True
        pin = Sending()
        self.weights.reading(pin)
        self._computed_on[slot] = self.weights.values, pin

    def compensate(self, slot: int, gradient: Array) -> None:
        """Correct a gradient (S,) in place for what the weights have moved since it was begun."""
        if self._delay is None:
            self._delay = DelayCompensation(gradient.size, self.backend)
        then, _ = self._computed_on[slot]
        self._delay.correct(gradient, self.weights.values, then)

    def update(self, kind: Pushed, gradient: Array, norm: float, lr: float) -> None:
        """Do one update in place with a push (S,) of some kind, or a mean of such, that is part of
        one of this global norm."""
        self.rules.update(kind, self.weights.writable(), gradient, norm, lr)

    def add_to_average(self, before: float, steps: float) -> None:
        """Take the weights into their average, if one is kept: the last update was worth so many
        steps, after those ``before`` it."""
        if self._average is not None:
            self._average.add(self.weights.values, before, steps)

    def average_bytes(self, slots: Sequence[int]) -> int:
        """Bytes that :meth:`average` reads."""
        if len(slots) == 1 and self._mean is None:
            return 0
        return sum(self.slots.room(slot).payload.nbytes for slot in slots)

    @property
    def update_bytes(self) -> int:
        """Bytes of the vectors that an update reads or writes, each once."""
        vectors = 2 + len(self.optimizer.state_names) + (self._average is not None)
        return vectors * self.weights.values.nbytes

    def snapshot(
        self,
        version: int,
        units: int,
        clocks: dict[int, int],
        batches: Sequence[tuple[int, int]] = (),
    ) -> Snapshot:
        """Return a copy, on the host, of everything that training changes."""
        values, state = self.weights.values, self.optimizer.state()
        copy = self._spare.pop() if self._spare else self._room(state)
        self.backend.to_host(values, copy.weights)
        if self._average is not None:
            assert copy.average is not None
            self.backend.to_host(self._average.values, copy.average)
        for name, vector in state.items():
            self.backend.to_host(vector, copy.optimizer[name])
        copy.version, copy.units, copy.clocks = version, units, dict(clocks)
        copy.batches, copy.updates = batches, self.optimizer.updates
        return copy

    def _room(self, state: Mapping[str, Array]) -> Snapshot:
        """Return where a copy fits in; what is evaluated of it lies where workers can see it."""
        size, dtype = self.weights.values.size, self.weights.values.dtype
        seen = self._host_zeros(size, dtype)
        optimizer = {name: np.empty(size, vector.dtype) for name, vector in state.items()}
        if self._average is None:
            return Snapshot(0, 0, 0, {}, seen, optimizer)
        return Snapshot(0, 0, 0, {}, np.empty(size, dtype), optimizer, average=seen)

    def restore(self, snapshot: Snapshot) -> None:
        """Copy a snapshot's weights and optimizer back. An average that it lacks begins anew.

        Raises:
            CheckpointError: the optimizer's vectors are not those of this optimizer.
        """
        self.backend.to_device(snapshot.weights, self.weights.writable())
        self.optimizer.load(snapshot.optimizer, snapshot.updates)
        if self._average is not None:
            self._average.load(snapshot.evaluated)

    def recycle(self, snapshot: Snapshot) -> None:
        """Take back a snapshot that nobody reads any more."""
        self._spare.append(snapshot)


def _first(job: Job, span: range) -> Array:
    """Return the random weights ``span`` of the flat vector.

    Raises:
        ConfigError: the task's first weights are no such vector.
    """
    config = job.config
    flat = job.task.initial(config.run.seed, config.run.dtype)
    if flat.shape != (job.table.size,) or flat.dtype != np.dtype(config.run.dtype):
        raise ConfigError(
            f"{job.task.called()}.initial returned {flat.shape} of {flat.dtype}, expected "
            f"({job.table.size},) of {config.run.dtype}"
        )
    return flat[span.start : span.stop]
