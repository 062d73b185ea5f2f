"""The loop of a rank that holds a shard: receive -> decide -> act.

Rank 0 also leads the run; what only it does is in leader.py.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from psdp.checkpoint import BackgroundWriter, CheckpointStore
from psdp.errors import PeerLost, ProtocolError
from psdp.job import Job
from psdp.loops.snapshots import Snapshots
from psdp.optim.clip import sum_of_squares
from psdp.optim.schedule import Schedule
from psdp.protocol import (
    Apply,
    Discard,
    Drained,
    Effect,
    Event,
    Leave,
    Policy,
    Pull,
    Push,
    SendWeights,
)
from psdp.shard import Shard, Snapshot
from psdp.transport import Arrival, Endpoint, Lost
from psdp.transport import messages as m

Array = npt.NDArray[Any]

TICK_S = 0.05
"""How often a loop looks up from its messages."""

WRITE_S = 600.0
"""How long the end of a run waits for a checkpoint to be on disk."""


@dataclass(frozen=True)
class Saved:
    """The writer finished this shard's file of the checkpoint of a version."""

    version: int
    file: dict[str, Any]


@dataclass
class _Update:
    """An update that waits for the other servers' parts of the gradient's norm."""

    apply: Apply
    gradient: Array


class Server:
    """Serves one shard until rank 0 says that the run is over.

    Args:
        clocks: gradients already applied of each worker (of a resumed run; else empty).
        behind: see :class:`~psdp.protocol.Policy`.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        shard: Shard,
        store: CheckpointStore,
        *,
        version: int = 0,
        tokens: int = 0,
        clocks: dict[int, int] | None = None,
        behind: Iterable[int] = (),
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.shard = shard
        self.store = store
        self.version = version
        self.tokens = tokens
        self.clocks = {rank: (clocks or {}).get(rank, 0) for rank in job.workers}
        self.policy: Policy = job.policy(self.grants(), version, self.clocks, behind)
        self.writer: BackgroundWriter[Any] = BackgroundWriter()
        self.finished = False
        self._over = False
        self._schedule = Schedule(job.config.optim, job.config.run.max_steps)
        self._live = set(job.workers)
        self._effects: deque[Effect] = deque()
        self._gradients: dict[int, m.Gradient] = {}
        self._update: _Update | None = None
        self._norms: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self.snapshots = Snapshots(self._take, self.write, shard.recycle)
        self._snapshot_pulls: defaultdict[int, list[int]] = defaultdict(list)
        endpoint.landing = self._landing

    def grants(self) -> int | None:
        """Return the pushes this server may grant; followers answer whatever rank 0 granted."""
        return None

    def run(self) -> None:
        """Serve until the run is over.

        Raises:
            PsdpError: it cannot go on; the text says why.
        """
        self.start()
        while not self.finished:
            self.turn()
        self.writer.close(WRITE_S)

    def start(self) -> None:
        """Do what is due before the first message."""

    def turn(self) -> None:
        """Wait a little for one thing to happen; act on it; see what the writer finished."""
        event = self.endpoint.receive(TICK_S)
        if event is not None:
            self.on_event(event)
        for result in self.writer.poll():
            self.on_written(result)
        if self._over and not self._live:
            # Not before: a worker waits until its goodbye is taken.
            self.finished = True

    # Receiving

    def on_event(self, event: Arrival | Lost) -> None:
        match event:
            case Lost(peer, why):
                self.on_lost(peer, why)
            case Arrival(peer, message):
                self.on_message(peer, message)

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.Gradient():
                self.on_gradient(peer, message)
            case m.PullRequest(m.CURRENT):
                self.decide(Pull(peer))
            case m.PullRequest(snapshot):
                self._snapshot_pulls[snapshot].append(peer)
                self._serve_snapshots()
            case m.PartialNorm(version, squares):
                self._norms[version][peer] = squares
                self._finish_update()
            case m.TakeSnapshot(version):
                self.snapshots.want(version, self.version)
                self._serve_snapshots()
            case m.ReleaseSnapshot(version, save):
                self.snapshots.release(version, save=save)
            case m.Goodbye(why=m.DONE):
                self.on_leave(peer)
            case m.Goodbye():
                # Rank 0 ends the run. A round that closed here without this worker would put an
                # update into the last checkpoint of this shard that the others do not have.
                pass
            case m.Finish():
                self._over = True
            case _:
                raise ProtocolError(f"server {self.endpoint.rank} does not take {message}")

    def on_gradient(self, peer: int, message: m.Gradient) -> None:
        if not math.isfinite(message.sum_of_squares):
            self.on_bad_gradient(peer, message)
            return
        slot = self._slot(peer)
        self._gradients[slot] = message
        self.decide(Push(peer, message.clock, message.version, slot, message.tokens))

    def on_bad_gradient(self, peer: int, message: m.Gradient) -> None:
        """Every server sees that a gradient holds NaN or Inf; rank 0 ends the run."""

    def on_leave(self, peer: int) -> None:
        self._live.discard(peer)
        self.decide(Leave(peer))

    def on_lost(self, peer: int, why: str) -> None:
        if peer in self.job.servers:
            raise PeerLost(f"server rank {peer} is gone ({why}); its shard is lost with it")
        self.on_leave(peer)

    def on_written(self, result: Saved) -> None:
        file = result.file
        saved = m.ShardSaved(result.version, file["name"], file["bytes"], file["sha256"])
        self.endpoint.send(0, saved)
        self.snapshots.written(result.version)

    def _landing(self, peer: int, message: m.Message) -> Array:
        if not isinstance(message, m.Gradient) or peer not in self.job.workers:
            raise ProtocolError(f"rank {peer} sent a payload with {message}")
        return self.shard.slots[self._slot(peer)]

    def _slot(self, worker: int) -> int:
        return worker - self.job.workers.start

    # Acting

    def decide(self, event: Event) -> None:
        """Ask the policy; perform what it says, in order."""
        self._effects.extend(self.policy.handle(event))
        self._perform()

    def _perform(self) -> None:
        while self._effects and self._update is None:
            match self._effects.popleft():
                case Apply() as apply:
                    self._begin_update(apply)
                case SendWeights(rank, version, clock):
                    self.answer(rank, version, clock)
                case Drained(version):
                    self.on_drained(version)
                case Discard():
                    pass

    def _begin_update(self, apply: Apply) -> None:
        self._update = _Update(apply, self.shard.average(apply.slots, apply.weights))
        norms = self._norms[apply.version]
        in_step = self.job.config.run.mode == "sync" and len(self.job.servers) > 1
        if len(apply.slots) == 1 and not in_step:
            # The worker has the whole gradient and sent its sum of squares to every server.
            norms.update(dict.fromkeys(self.job.servers, 0.0))
            norms[0] = self._gradients[apply.slots[0]].sum_of_squares
        else:
            own = sum_of_squares(self._update.gradient)
            norms[self.endpoint.rank] = own
            for server in self.job.servers:
                if server != self.endpoint.rank:
                    self.endpoint.send(server, m.PartialNorm(apply.version, own))
        self._finish_update()

    def _finish_update(self) -> None:
        """Once every server's part is known, and added in the same order everywhere, update."""
        update = self._update
        if update is None or len(self._norms[update.apply.version]) < len(self.job.servers):
            return
        apply = update.apply
        parts = self._norms.pop(apply.version)
        norm = math.sqrt(sum(parts[server] for server in self.job.servers))
        lr = self._schedule.lr(self.tokens / self.job.tokens_per_step)
        self.shard.update(update.gradient, norm, lr)
        self._update = None
        self.version = apply.version
        self.tokens += apply.tokens
        for slot in apply.slots:
            self.clocks[self.job.workers[slot]] = self._gradients[slot].clock + 1
        self.after_update(apply, norm, lr)
        self._perform()

    def after_update(self, apply: Apply, norm: float, lr: float) -> None:
        """Copy the shard where a checkpoint or an evaluation is due. All servers do so alike."""
        save = self.job.due(self.job.config.run.checkpoint_every, self.version)
        hold = self.evaluation_due()
        if save or hold:
            self.snapshots.keep(self.version, hold=hold, save=save)
        self.snapshots.reached(self.version)
        self._serve_snapshots()

    def evaluation_due(self) -> bool:
        """Say whether workers evaluate this version on the way."""
        config = self.job.config
        return config.data.val_fraction > 0 and self.job.due(config.run.eval_every, self.version)

    def answer(self, rank: int, version: int, clock: int) -> None:
        """Send a worker the weights as they are now."""
        self.send_weights(rank, m.Weights(version, clock, m.TRAIN, m.CURRENT, 0, 0))

    def send_weights(self, rank: int, message: m.Weights) -> None:
        weights = self.shard.weights
        weights.reading(self.endpoint.send(rank, message, weights.values))

    def on_drained(self, version: int) -> None:
        raise ProtocolError("only rank 0 has a budget")

    # Snapshots

    def _serve_snapshots(self) -> None:
        for key, ranks in list(self._snapshot_pulls.items()):
            snapshot = self.snapshots.get(key)
            if snapshot is not None:
                del self._snapshot_pulls[key]
                for rank in ranks:
                    message = m.Weights(snapshot.version, 0, m.EVALUATE, key, 0, 0)
                    self.endpoint.send(rank, message, snapshot.weights)

    def _take(self) -> Snapshot:
        return self.shard.snapshot(self.version, self.tokens, self.clocks)

    def write(self, key: int, snapshot: Snapshot) -> None:
        """Write this shard's file of a checkpoint in the background."""
        step, shard, count = self.job.step_of(key), self.endpoint.rank, len(self.job.servers)
        tensors = snapshot.tensors()
        self.writer.submit(lambda: Saved(key, self.store.write_shard(step, shard, count, tensors)))
