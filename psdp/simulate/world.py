"""One job under the virtual clock: the policy of its mode, its servers and workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from psdp.config.handicap import parse_jitter, parse_stragglers
from psdp.job import Job
from psdp.policies import make_policy
from psdp.protocol import (
    Apply,
    Drained,
    Drop,
    Effect,
    Evaluations,
    Leave,
    Portion,
    Pull,
    Push,
    SendWeights,
    Sums,
    Work,
)
from psdp.records.events import Happened, NewTerm
from psdp.simulate.changes import Changes
from psdp.simulate.clock import Action, Clock, Cores, Network, Ring
from psdp.simulate.costs import Costs
from psdp.simulate.course import Course
from psdp.simulate.server import Group, Server
from psdp.simulate.worker import State, Worker
from psdp.transport.link import LinkSpeed
from psdp.workers.handicap import Handicap

_STREAM = 0x6661696C
"""Tells the times of failures from other random numbers of the same seed."""

FAILURES = 10
"""A job that sees so many times more failures than it has gradients and workers never ends."""

FORWARD = 1 / 3
"""Of a step, the part that is a forward pass, which is all that an evaluation does."""

Note = Callable[[Happened], None]


def _unnoted(happened: Happened) -> None:
    pass


def survives(job: Job) -> bool:
    """Say whether a job goes on when it loses a worker."""
    return len(job.servers) == 1 and job.mode.survives_loss


class World:
    """A job's ranks, with costs in place of work.

    Args:
        job: resolved settings and the sizes of things. Failures need one server, and not allreduce:
            other jobs end with the first worker that they lose.
        note: called with what rank 0 decides on, at its virtual time.
    """

    def __init__(self, job: Job, costs: Costs, note: Note = _unnoted) -> None:
        assert costs.mtbf_s is None or survives(job)
        run = job.config.run
        servers = len(job.servers)
        self._note = note
        self._evaluations = Evaluations()
        self._owed: dict[int, Portion] = {}
        """Of each worker, what its latest answer has it evaluate."""
        self._units = 0
        item_bytes = np.dtype(run.dtype).itemsize
        self._pushed_bytes = [job.codec.bound_bytes(len(shard)) for shard in job.shards]
        self._job, self._costs = job, costs
        self._policy = make_policy(job, 0, {})
        self._ranks = dict(zip(job.workers, job.worker_ranks, strict=True))
        self._slots = {worker: job.slot_of(worker) for worker in job.workers}
        self._lives = dict.fromkeys(job.workers, 0)
        """The life of each worker that rank 0 knows of."""
        self._course = Course()
        self._clock = Clock()
        self._changes = Changes(job, costs, self._clock) if job.mode.chooses else None
        speed = LinkSpeed.of(run)
        network = Network(self._clock, job.world_size, costs.latency_s, speed)
        self._cores = [Cores(self._clock, costs.cores, costs.slice_s) for _ in range(costs.hosts)]
        self._network = network
        group = Group(network)
        self._shard_bytes = [len(shard) * item_bytes for shard in job.shards]
        self._size = job.table.size * item_bytes
        self._servers = [
            Server(
                rank,
                servers,
                self._shard_bytes[rank],
                costs,
                self._cores_of(rank),
                network,
                group,
                job.hosting(),
                performed=self._performed if rank == 0 else _ignore,
                answer=self._answered,
            )
            for rank in job.servers
        ]
        group.servers = self._servers
        workers = len(job.workers)
        hops = 2 * (workers - 1)

        def summed_s(begin_s: float) -> float:
            return speed.through_s(begin_s + hops * costs.latency_s, hops * self._size / workers)

        ring = Ring(self._clock, workers, summed_s, self._summed)
        self._workers = self._make_workers(ring)

    def _make_workers(self, ring: Ring) -> dict[int, Worker]:
        job, costs, run = self._job, self._costs, self._job.config.run
        stragglers, jitter = parse_stragglers(run.straggler), parse_jitter(run.jitter)
        return {
            worker: Worker(
                self._clock,
                self._cores_of(self._rank_of(worker)),
                costs,
                steps=costs.steps(number, run.seed),
                handicap=Handicap(
                    self._rank_of(worker), number, run.seed, stragglers=stragglers, jitter=jitter
                ),
                shards=len(job.servers),
                push_size=sum(self._pushed_bytes),
                pull_size=self._size,
                inner_s=costs.apply_s,
                overlaps=run.overlap,
                push=self._push,
                evaluation_s=partial(self._evaluation_s, worker),
                evaluated=partial(self._pull, worker),
                reduce=ring.join if job.reduces else None,
            )
            for number, worker in enumerate(job.workers)
        }

    def run(self) -> Course:
        """Let the job go from its start to its end."""
        self._evaluate_where_due(0, -1, 0)
        for number, worker in enumerate(self._workers):
            self._pull(worker)
            if self._costs.mtbf_s is not None:
                seed = self._job.config.run.seed
                self._schedule_failure(worker, np.random.default_rng([seed, number, _STREAM]))
        self._clock.run()
        course = self._course
        for own in self._workers.values():
            own.enter(State.AWAY)
            for state, spent_s in own.spent_s.items():
                course.spent_s[state] += spent_s
            course.pulled_bytes += own.pulls * self._size
        course.max_clock_gap = max(self._policy.clock_gaps, default=0)
        course.virtual_s = self._clock.now_s
        return course

    def _cores_of(self, rank: int) -> Cores:
        """Return those of a rank's host."""
        return self._cores[rank * len(self._cores) // self._job.world_size]

    # Workers to servers

    def _rank_of(self, worker: int) -> int:
        """Return the rank of a worker: each has its own."""
        return self._ranks[worker]

    def _pull(self, worker: int) -> None:
        self._to_leader(Pull(worker))

    def _push(self, answer: SendWeights, version: int, step_s: float) -> None:
        worker = answer.worker
        slot, life = self._slots[worker], self._workers[worker].life
        work = Work(
            clock=answer.clock,
            version=version,
            units=answer.steps * self._job.units_per_gradient,
            batch=answer.batch,
            steps=answer.steps,
            step_s=step_s,
        )
        push = Push(worker, slot, work)
        sent = not self._job.reduces  # else the servers have no use for it
        self._course.pushed_bytes += sum(self._pushed_bytes) * sent
        for server in self._servers:
            size = self._pushed_bytes[server.rank] * sent
            arrive = partial(self._arrive, server, push, life)
            self._network.send(self._rank_of(worker), server.rank, size, arrive)

    def _arrive(self, server: Server, push: Push, life: int) -> None:
        if life != self._workers[push.worker].life:
            return

        def taken() -> None:
            server.land(push.slot)
            if server.rank == 0:
                self._decide(push, life)

        server.take(self._costs.server_message_s, taken)

    def _to_leader(self, event: Pull | Leave) -> None:
        """Have rank 0 learn of an event of a worker that carries no gradient."""
        decide = partial(self._decide, event, self._workers[event.worker].life)
        take = partial(self._servers[0].take, self._costs.server_message_s, decide)
        self._network.send(self._rank_of(event.worker), 0, 0, take)

    # Rank 0

    def _decide(self, event: Pull | Push | Leave, life: int) -> None:
        self._lives[event.worker] = life
        portion = self._owed.pop(event.worker, None)
        if portion is not None:
            self._evaluations.report(event.worker, portion.version, portion.part, Sums(0.0, 0, 0))
        self._follow(Happened(event, self._clock.now_s))
        change = self._changes and self._changes.after(event, self._policy)
        if change:
            self._course.changes.append(change)
            self._follow(change)

    def _follow(self, happened: Happened) -> None:
        """Do what the policy says to this."""
        assert not isinstance(happened.event, NewTerm), "no server is lost here"
        if not self._policy.drained:
            self._note(happened)
        effects = self._policy.handle(happened.event)
        self._course.dropped += sum(isinstance(effect, Drop) for effect in effects)
        self._servers[0].follow([(effect, self._life_of(effect)) for effect in effects])

    def _life_of(self, effect: Effect) -> int:
        return self._lives[effect.worker] if isinstance(effect, SendWeights) else 0

    def _performed(self, effect: Effect) -> None:
        course = self._course
        match effect:
            case Apply(units=units, lags=lags, version=version):
                course.lags.add(lags)
                before, self._units = self._units, self._units + units
                self._evaluate_where_due(version, before, self._units)
                if not self._job.reduces:
                    self._count(units // self._job.units_per_gradient)
            case SendWeights(worker=worker):
                portion = self._evaluations.next_for(worker)
                if portion is not None:
                    self._owed[worker] = portion
                elif self._changes is not None:
                    self._changes.answered(worker)
            case Drained():
                course.drained = True
                self._clock.stop()

    def _evaluate_where_due(self, version: int, before: int, after: int) -> None:
        if self._job.task.validation_units and self._job.due(
            self._job.config.run.eval_every, before, after
        ):
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
        self._count(workers)

    def _count(self, gradients: int) -> None:
        done = self._course.gradients + gradients
        self._course.updates.append((self._clock.now_s, done))

    def _answered(self, answer: SendWeights, life: int) -> Action:
        return partial(self._workers[answer.worker].arrive, life, answer)

    # Failures

    def _schedule_failure(self, worker: int, rng: np.random.Generator) -> None:
        assert self._costs.mtbf_s is not None
        self._clock.after(rng.exponential(self._costs.mtbf_s), partial(self._fail, worker, rng))

    def _fail(self, worker: int, rng: np.random.Generator) -> None:
        self._course.failures += 1
        if self._course.failures > FAILURES * (self._job.gradients + len(self._workers)):
            self._clock.stop()
        self._workers[worker].fail()
        self._to_leader(Leave(worker))
        if self._costs.restart_s is not None:
            self._clock.after(self._costs.restart_s, partial(self._come_back, worker, rng))

    def _come_back(self, worker: int, rng: np.random.Generator) -> None:
        self._workers[worker].enter(State.WAITING)
        self._pull(worker)
        self._schedule_failure(worker, rng)


def _ignore(effect: Effect) -> None:
    """Only rank 0's part is measured."""
