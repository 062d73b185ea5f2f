"""One job under the virtual clock: the policy of its mode, its servers and workers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from psdp.config.handicap import parse_jitter, parse_stragglers
from psdp.job import Job
from psdp.policies import make_policy
from psdp.protocol import (
    Adaptive,
    Apply,
    Choice,
    Drained,
    Drop,
    Effect,
    Evaluations,
    Event,
    Leave,
    Portion,
    Pull,
    Push,
    SendWeights,
    Sums,
    Switch,
    Work,
)
from psdp.records.events import Happened
from psdp.simulate.changes import Changes
from psdp.simulate.clock import Clock, Cores, Network, Ring
from psdp.simulate.costs import Costs
from psdp.simulate.course import Chosen, Course
from psdp.simulate.failures import Failures
from psdp.simulate.server import Group, Order, Server, Shard
from psdp.simulate.worker import Worker
from psdp.transport.link import LinkSpeed
from psdp.workers.handicap import Handicap

FAILURES = 10
"""A job that sees so many times more failures than it has gradients and workers never ends."""

FORWARD = 1 / 3
"""Of a step, the part that is a forward pass, which is all that an evaluation does."""

Note = Callable[[Happened], None]


def survives(job: Job) -> bool:
    """Say whether a job goes on when it loses a worker."""
    return len(job.servers) == 1 and job.mode.survives_loss


class World:
    """A job's ranks, with costs in place of work.

    Args:
        job: resolved settings and the sizes of things. Failures need one server, and not allreduce:
            other jobs end with the first worker that they lose.
        note: called with what rank 0 decides on, at its virtual time, if anybody wants to know.

    Attributes:
        clock: of this world.
    """

    def __init__(self, job: Job, costs: Costs, note: Note | None = None) -> None:
        assert costs.mtbf_s is None or survives(job)
        run = job.config.run
        self._note = note
        self._evaluations = Evaluations()
        self._owed: dict[int, Portion] = {}
        """Of each worker, what its latest answer has it evaluate."""
        self._units = 0
        item_bytes = np.dtype(run.dtype).itemsize
        self._reduces = job.reduces
        self._units_per_gradient = job.units_per_gradient
        self._eval_every = run.eval_every if job.task.validation_units else 0
        self._job, self._costs = job, costs
        self._policy = make_policy(job, 0, {})
        self._ranks = dict(zip(job.workers, job.worker_ranks, strict=True))
        """Of each worker its own."""
        self._slots = {worker: job.slot_of(worker) for worker in job.workers}
        self._lives = dict.fromkeys(job.workers, 0)
        """The life of each worker that rank 0 knows of."""
        self._course = Course()
        self.clock = Clock()
        self._changes = Changes(job, costs, self.clock) if job.mode.chooses else None
        speed = LinkSpeed.of(run)
        network = Network(self.clock, job.world_size, costs.latency_s, speed)
        self._cores = [Cores(self.clock, costs.cores, costs.slice_s) for _ in range(costs.hosts)]
        self._network = network
        self._size = job.table.size * item_bytes
        self._servers = self._make_servers([len(shard) * item_bytes for shard in job.shards])
        self._pushed = [
            # How much to each server: where workers reduce, it has no use for what they push.
            (own, own.rank, 0 if self._reduces else job.codec.bound_bytes(len(shard)))
            for own, shard in zip(self._servers, job.shards, strict=True)
        ]
        workers, hops = len(job.workers), 2 * (len(job.workers) - 1)

        def summed_s(begin_s: float) -> float:
            return speed.through_s(begin_s + hops * costs.latency_s, hops * self._size / workers)

        ring = Ring(self.clock, workers, summed_s, self._summed)
        self._workers = self._make_workers(ring)

    def _make_servers(self, shard_bytes: Sequence[int]) -> Sequence[Server]:
        common: dict[str, Any] = {
            "costs": self._costs,
            "clock": self.clock,
            "network": self._network,
            "ranks": self._ranks,
            "answer": self._answered,
        }
        if len(shard_bytes) == 1:
            # Failures, and times by which a mode is chosen, come from outside.
            free = self._costs.mtbf_s is None and not self._job.mode.chooses
            own = shard_bytes[0], self._cores_of(0), self._performed
            return [Server(0, *own, runs_ahead=free, **common)]
        group = Group(self._network)
        group.servers = [
            Shard(
                rank,
                size,
                self._cores_of(rank),
                self._performed if rank == 0 else _ignore,
                group=group,
                servers=len(shard_bytes),
                **common,
            )
            for rank, size in enumerate(shard_bytes)
        ]
        return group.servers

    def _make_workers(self, ring: Ring) -> dict[int, Worker]:
        job, costs, run = self._job, self._costs, self._job.config.run
        stragglers, jitter = parse_stragglers(run.straggler), parse_jitter(run.jitter)
        return {
            worker: Worker(
                self.clock,
                self._cores_of(self._ranks[worker]),
                costs,
                steps=costs.steps(number, run.seed),
                handicap=Handicap(
                    self._ranks[worker], number, run.seed, stragglers=stragglers, jitter=jitter
                ),
                shards=len(job.servers),
                push_size=sum(job.codec.bound_bytes(len(shard)) for shard in job.shards),
                pull_size=self._size,
                inner_s=costs.apply_s,
                overlaps=run.overlap,
                push=self._push,
                evaluation_s=partial(self._evaluation_s, worker) if self._eval_every else None,
                evaluated=partial(self._pull, worker),
                reduce=ring.join if self._reduces else None,
            )
            for number, worker in enumerate(job.workers)
        }

    def run(self) -> Course:
        """Let the job go from its start to its end."""
        self._evaluate_where_due(0, -1, 0)
        for worker in self._workers:
            self._pull(worker)
        most = FAILURES * (self._job.gradients + len(self._workers))
        failures = Failures(self.clock, self._costs, self._workers, self._to_leader, most)
        failures.begin(self._job.config.run.seed)
        with _uncollected():
            self.clock.run()
        course = self._course
        course.failures = failures.count
        for own in self._workers.values():
            own.ended()
            for state, spent_s in own.spent_s.items():
                course.spent_s[state] += spent_s
            course.pulled_bytes += own.pulls * self._size
        course.max_clock_gap = max(self._policy.clock_gaps, default=0)
        course.virtual_s = self.clock.now_s
        return course

    def _cores_of(self, rank: int) -> Cores:
        """Return those of a rank's host."""
        return self._cores[rank * len(self._cores) // self._job.world_size]

    # Workers to servers

    def _pull(self, worker: int) -> None:
        self._to_leader(Pull(worker))

    def _push(self, answer: SendWeights, version: int, step_s: float) -> None:
        worker = answer.worker
        slot, life = self._slots[worker], self._workers[worker].life
        work = Work(
            clock=answer.clock,
            version=version,
            units=answer.steps * self._units_per_gradient,
            batch=answer.batch,
            steps=answer.steps,
            step_s=step_s,
        )
        rank, push = self._ranks[worker], Push(worker, slot, work)
        send, arrive = self._network.send, self._arrive
        for server, to, size in self._pushed:
            self._course.pushed_bytes += size
            send(rank, to, size, arrive, server, push, life)

    def _arrive(self, server: Server, push: Push, life: int) -> None:
        if life != self._workers[push.worker].life:
            return
        server.take(self._costs.server_message_s, self._taken, server, push, life)

    def _taken(self, server: Server, push: Push, life: int) -> None:
        server.land(push.slot)
        if server.rank == 0:
            self._decide(push, life)

    def _to_leader(self, event: Pull | Leave) -> None:
        """Have rank 0 learn of an event of a worker that carries no gradient."""
        server, take_s = self._servers[0], self._costs.server_message_s
        life = self._workers[event.worker].life
        self._network.send(
            self._ranks[event.worker], 0, 0, server.take, take_s, self._decide, event, life
        )

    # Rank 0

    def _decide(self, event: Pull | Push | Leave, life: int) -> None:
        self._lives[event.worker] = life
        portion = self._owed.pop(event.worker, None)
        if portion is not None:
            self._evaluations.report(event.worker, portion.version, portion.part, Sums(0.0, 0, 0))
        self._follow(event)
        choice = self._changes and self._changes.after(event, self._policy)
        if not choice:
            return
        assert isinstance(self._policy, Adaptive), "who else chooses"
        chosen = Chosen(self.clock.now_s, self._policy.version, choice)
        if choice.mode == self._policy.mode:
            self._course.stayed = chosen
        else:
            self._course.changes.append(chosen)
            self._course.stayed = None
            self._follow(Switch(choice.mode), choice)

    def _follow(self, event: Event, choice: Choice | None = None) -> None:
        """Do what the policy says to this."""
        if self._note is not None and not self._policy.drained:
            self._note(Happened(event, self.clock.now_s, choice))
        orders: list[Order] = []
        for effect in self._policy.handle(event):
            if isinstance(effect, SendWeights):
                orders.append((effect, self._lives[effect.worker]))
            else:
                orders.append((effect, 0))
                self._course.dropped += isinstance(effect, Drop)
        if orders:
            self._servers[0].follow(orders)

    def _performed(self, effect: Effect) -> None:
        course = self._course
        match effect:
            case Apply():
                course.lags.add(effect.lags)
                before, self._units = self._units, self._units + effect.units
                if self._eval_every:
                    self._evaluate_where_due(effect.version, before, self._units)
                if not self._reduces:
                    self._count(self._servers[0].now_s, effect.units // self._units_per_gradient)
            case SendWeights():
                portion = self._evaluations.next_for(effect.worker) if self._eval_every else None
                if portion is not None:
                    self._owed[effect.worker] = portion
                elif self._changes is not None:
                    self._changes.answered(effect.worker)
            case Drained():
                course.drained = True
                self.clock.stop(self._servers[0].now_s)

    def _evaluate_where_due(self, version: int, before: int, after: int) -> None:
        if self._job.due(self._eval_every, before, after):
            self._evaluations.open(version, self._workers)

    def _evaluation_s(self, worker: int) -> float | None:
        """Return the processor seconds of what a worker is to evaluate, None if that is nothing."""
        portion, task = self._owed.get(worker), self._job.task
        if portion is None:
            return None
        batches = task.validation_units / task.units_per_batch / portion.parts
        return batches * FORWARD * self._costs.mean_step_s

    def _summed(self) -> None:
        """All workers have made an update among themselves."""
        workers = len(self._workers)
        moved = 2 * (workers - 1) * self._size
        self._course.pushed_bytes += moved
        self._course.pulled_bytes += moved
        self._count(self.clock.now_s, workers)

    def _count(self, now_s: float, gradients: int) -> None:
        self._course.updates.append((now_s, self._course.gradients + gradients))

    def _answered(self, answer: SendWeights, life: int, arrives_s: float) -> None:
        self._workers[answer.worker].expect(arrives_s, life, answer)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for cycles of garbage, a tenth of the time: a run makes none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ignore(effect: Effect) -> None:
    """Only rank 0's part is measured."""
