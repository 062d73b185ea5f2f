"""What every rank that holds a shard does: receive gradients, update, keep copies, send weights.

Rank 0 decides what happens to all shards, and when (leader.py); the other servers do the same to
theirs in the same order (follower.py). So a version is the same gradients on every shard.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from psdp.checkpoint import BackgroundWriter, CheckpointStore, Snapshot
from psdp.errors import PeerLost, ProtocolError
from psdp.job import Job
from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Ranges
from psdp.records.profile import UNPROFILED, Spans
from psdp.servers.shard import Shard
from psdp.servers.snapshots import Snapshots
from psdp.transport import Arrival, Endpoint, Lost, Room
from psdp.transport import messages as m

TICK_S = 0.05
"""How often a loop looks up from its messages."""

WRITE_S = 600.0
"""How long the end of a run waits for a checkpoint to be on disk."""


WRITES_AHEAD = 4
"""Writes that may wait for the disk before a further one makes the server wait."""


@dataclass(frozen=True)
class Saved:
    """The writer finished this shard's file of the checkpoint of a version."""

    version: int
    file: dict[str, Any]


@dataclass(frozen=True)
class Updating:
    """An update that waits for the other servers' parts of the gradient's norm."""

    asked: m.Update
    slots: Sequence[int]
    gradient: Array


class Server(ABC):
    """Serves one shard until the run is over.

    Args:
        snapshot: of a resumed run: where to go on from.
        cpu_time: seconds that this process has used its core.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        shard: Shard,
        store: CheckpointStore,
        snapshot: Snapshot | None = None,
        *,
        cpu_time: Callable[[], float] = time.process_time,
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.shard = shard
        self.store = store
        self.version = 0
        self.tokens = 0
        self.clocks = dict.fromkeys(job.workers, 0)
        self.batches = Ranges() if snapshot is None else Ranges(snapshot.batches)
        if snapshot is not None:
            shard.restore(snapshot)
            self.version, self.tokens = snapshot.version, snapshot.tokens
            self.clocks |= snapshot.clocks
        # A version that is evaluated after its step may not have been, if its run was cut off then.
        self.tokens_before = self.tokens - 1
        self.writer: BackgroundWriter[Any] = BackgroundWriter()
        self.snapshots = Snapshots(self._take, self.write, shard.recycle)
        self.finished = False
        self.gradients: dict[int, m.Gradient] = {}
        self.updating: Updating | None = None
        self._compensates = job.config.optim.lag_compensation == "dc-asgd"
        self._norms: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self._snapshot_pulls: defaultdict[int, list[int]] = defaultdict(list)
        self.profile: Spans = UNPROFILED
        self._cpu_time = cpu_time
        self._cpu_start_s = cpu_time()
        endpoint.landing = self.landing

    @property
    def cpu_s(self) -> float:
        """Seconds of its core that this server has used."""
        return self._cpu_time() - self._cpu_start_s

    def run(self) -> None:
        """Serve until the run is over.

        Raises:
            PsdpError: it cannot go on; the text says why.
        """
        while not self.finished:
            self.turn()
        self.writer.close(WRITE_S)

    def turn(self) -> None:
        """Wait a little for one thing to happen; act on it; see what the writer finished."""
        match self.endpoint.receive(TICK_S):
            case Lost(peer, why):
                self.on_lost(peer, why)
            case Arrival(peer, message):
                self.on_message(peer, message)
        for result in self.writer.poll():
            self.on_written(result)

    # Receiving

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.Gradient():
                self.on_gradient(peer, message)
            case m.PullRequest(snapshot):
                self._snapshot_pulls[snapshot].append(peer)
                self._serve_snapshots()
            case m.PartialNorm(version, squares):
                self._norms[version][peer] = squares
                self._try_update()
            case _:
                raise ProtocolError(f"server {self.endpoint.rank} does not take {message}")

    @abstractmethod
    def on_gradient(self, peer: int, message: m.Gradient) -> None:
        """A worker's gradient has landed in its slot."""

    def on_lost(self, peer: int, why: str) -> None:
        if peer in self.job.servers:
            raise PeerLost(f"server rank {peer} is gone ({why}); its shard is lost with it")

    @abstractmethod
    def on_written(self, result: Any) -> None:
        """The writer finished a job."""

    def landing(self, peer: int, message: m.Message) -> Array | Room:
        """Return the vector into which a peer's payload goes.

        Raises:
            ProtocolError: none is expected from that peer with such a message.
        """
        if not isinstance(message, m.Gradient) or peer not in self.job.workers:
            raise ProtocolError(f"rank {peer} sent a payload with {message}")
        return self.shard.landing(self.slot_of(peer))

    def slot_of(self, worker: int) -> int:
        return self.job.workers.index(worker)

    # Updating

    def begin_update(self, asked: m.Update) -> None:
        """Average the slots, weighted by tokens; update as soon as the norm of the whole average is
        known."""
        slots = m.unpack_slots(asked.slots)
        tokens = [self.gradients[slot].tokens for slot in slots]
        weights = [count / sum(tokens) for count in tokens]
        with self.profile.span("average", self.shard.average_bytes(slots)):
            gradient = self.shard.average(slots, weights)
        self.updating = Updating(asked, slots, gradient)
        norms, own = self._norms[asked.version], self.endpoint.rank
        if len(slots) == 1:
            # The worker has the whole gradient and sent its sum of squares to every server.
            norms |= dict.fromkeys(self.job.servers, 0.0)
            norms[0] = self.gradients[slots[0]].sum_of_squares
        else:
            with self.profile.span("gradient norm", gradient.nbytes):
                norms[own] = self.shard.backend.sum_of_squares(gradient)
            for server in self.job.servers:
                if server != own:
                    self.endpoint.send(server, m.PartialNorm(asked.version, norms[own]))
        self._try_update()

    def _try_update(self) -> None:
        """Once every server's part is known, and added in the same order everywhere, update."""
        update = self.updating
        if update is None or len(self._norms[update.asked.version]) < len(self.job.servers):
            return
        asked = update.asked
        parts = self._norms.pop(asked.version)
        norm = math.sqrt(sum(parts[server] for server in self.job.servers))
        kind = Pushed.CHANGE if asked.outer else self.job.mode.pushes[0]
        lr = asked.rate * self.shard.rules.lr(kind, self.tokens / self.job.tokens_per_step)
        if self._compensates:
            self.shard.compensate(update.slots[0], update.gradient)
        with self.profile.span("update", self.shard.update_bytes):
            self.shard.update(kind, update.gradient, norm, lr)
        self.profile.step()
        self.updating = None
        self.reach(asked.version, update.slots, norm)

    def reach(self, version: int, slots: Sequence[int], norm: float) -> None:
        """The shard is now this version, made of these slots: do what is due, and go on."""
        self.version, self.tokens_before = version, self.tokens
        for slot in slots:
            gradient = self.gradients[slot]
            self.tokens += gradient.tokens
            self.clocks[self.job.workers[slot]] = gradient.clock + gradient.steps
            if self.job.deals:
                self.batches.add(range(gradient.batch, gradient.batch + gradient.steps))
        self.after_update(norm)
        for slot in slots:
            del self.gradients[slot]
        self.proceed()

    def after_update(self, norm: float) -> None:
        """Copy the shard where a checkpoint or an evaluation is due. All servers do so alike."""
        save = self.job.due(self.job.config.run.checkpoint_every, self.tokens_before, self.tokens)
        hold = self.evaluation_due()
        if save or hold:
            self.keep(hold=hold, save=save)

    @abstractmethod
    def proceed(self) -> None:
        """Do what waited for the update."""

    def evaluation_due(self) -> bool:
        """Say whether workers evaluate this version on the way."""
        config = self.job.config
        due = self.job.due(config.run.eval_every, self.tokens_before, self.tokens)
        return config.data.val_fraction > 0 and due

    # Weights and their copies

    def send_weights(self, rank: int, message: m.Weights) -> None:
        weights = self.shard.weights
        weights.reading(self.endpoint.send(rank, message, weights.values))
        if self._compensates:
            self.shard.remember(self.slot_of(rank))

    def keep(self, *, hold: bool, save: bool) -> None:
        """Keep a copy of the shard as it is; send it to who asked for it already."""
        self.snapshots.keep(self.version, hold=hold, save=save)
        self._serve_snapshots()

    def _serve_snapshots(self) -> None:
        for version, ranks in list(self._snapshot_pulls.items()):
            snapshot = self.snapshots.get(version)
            if snapshot is not None:
                del self._snapshot_pulls[version]
                for rank in ranks:
                    message = m.Weights(version, 0, m.EVALUATE, version, 0, 0)
                    self.shard.send(snapshot, partial(self.endpoint.send, rank, message))

    def _take(self) -> Snapshot:
        return self.shard.snapshot(self.version, self.tokens, self.clocks, self.batches.pairs())

    def write(self, snapshot: Snapshot) -> None:
        """Write this shard's file of a checkpoint in the background."""
        version, tensors = snapshot.version, snapshot.tensors()
        step, shard, count = (
            self.job.step_of(snapshot.tokens),
            self.endpoint.rank,
            len(self.job.servers),
        )
        self.writer.submit(
            lambda: Saved(version, self.store.write_shard(step, shard, count, tensors)),
            ahead=WRITES_AHEAD,
        )
