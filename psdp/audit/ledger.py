"""What a run's events come to, counted by other means than the policy that decided on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from psdp.audit.data import Uses
from psdp.audit.findings import Contradiction, expect
from psdp.job import Job
from psdp.modes import CANDIDATES
from psdp.protocol import Apply, Push, SendWeights
from psdp.records.events import NewTerm


@dataclass(slots=True)
class Grant:
    """What a worker was told to compute, and from which version on at least."""

    clock: int
    batches: range
    version: int


@dataclass(frozen=True)
class Used:
    """A push that has gone into an update: that one, and who made it."""

    version: int
    worker: int
    rank: int
    push: Push


@dataclass
class Tally:
    """Counts of what became of grants.

    Attributes:
        dropped: by worker, since the last term began.
        lost: ranks that held a shard.
    """

    granted: int = 0
    pushed: int = 0
    begun_again: int = 0
    returned: int = 0
    void: int = 0
    dropped: Counter[int] = field(default_factory=Counter)
    moves: list[tuple[int, int, int]] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


class Clocks:
    """Clocks of live workers, and the least of them."""

    def __init__(self, clocks: Mapping[int, int]) -> None:
        self.of = dict(clocks)
        self._counts = Counter(self.of.values())
        self._least = min(self.of.values(), default=0)

    @property
    def least(self) -> int:
        while self._least not in self._counts and self._counts:
            self._least += 1
        return self._least if self._counts else 0

    def set(self, worker: int, clock: int) -> None:
        """A worker has this clock now; it may be a new one."""
        if worker in self.of:
            self._uncount(self.of[worker])
        self.of[worker] = clock
        self._counts[clock] += 1
        self._least = min(self._least, clock)

    def remove(self, worker: int) -> None:
        self._uncount(self.of.pop(worker))

    def _uncount(self, clock: int) -> None:
        self._counts[clock] -= 1
        if not self._counts[clock]:
            del self._counts[clock]


class Ledger:
    """Counts grants, pushes, updates and batches of one start, and sees that they add up.

    Args:
        version, units, clocks, batches: that it goes on from, in this mode.
        noted: called with each push that goes into an update.

    Attributes:
        version, units: decided so far.
        clocks: gradients of each worker in the weights.
        accepted: of each live worker, those that count, whether they are in the weights or not.
        uses: batches in the weights.
        lags: of gradients, by how many versions.
        widest: the most clocks that a worker was ahead of the slowest when it was told to go on.
        mode: that the run is in; of one that chooses, the present candidate.
    """

    def __init__(
        self,
        job: Job,
        *,
        version: int,
        units: int,
        clocks: Mapping[int, int],
        batches: Iterable[tuple[int, int]],
        mode: str,
        noted: Callable[[Used], None] | None = None,
    ) -> None:
        self.job = job
        self.mode = mode
        self.version, self.units = version, units
        self.clocks = {worker: clocks.get(worker, 0) for worker in job.workers}
        self.accepted = dict(self.clocks)
        self.uses = Uses(job, self.clocks, batches)
        self.lags: Counter[int] = Counter()
        self.tally = Tally()
        self.widest = 0
        self.ending = False
        self._noted = noted
        # Of what is asked for with every event.
        self._workers, self._deals, self._budget = job.workers, job.deals, job.gradients
        self._overlaps = job.config.run.overlap
        self._bound, self._in_rounds = self.bound, in_rounds(job, mode)
        self._total = sum(self.clocks.values())
        self._phase = Clocks(dict.fromkeys(job.workers, 0) if job.mode.chooses else self.clocks)
        self._based: dict[int, int] = {}
        """Of each worker, the version that it last computed on."""
        self._grants: dict[int, Grant] = {}
        self._pending: dict[int, Push] = {}
        self._hosts = {worker: job.hosting().host(worker) for worker in job.workers}

    @property
    def open(self) -> Mapping[int, Grant]:
        """Grants that nothing has come of."""
        return self._grants

    @property
    def left(self) -> int:
        """Gradients of the budget that nobody has pushed."""
        return self._budget - self._total

    @property
    def bound(self) -> int | None:
        """How many clocks a worker may be ahead of the slowest in the present mode; None: any."""
        now = _now(self.job, self.mode)
        return now.config.run.staleness if now.mode.has("staleness") else None

    # What happens

    def pulled(self, worker: int) -> None:
        """A worker asks; it may be one that had left."""
        if worker not in self.accepted:
            self.accepted[worker] = min(self.accepted.values(), default=0)
            self._phase.set(worker, self._phase.least)

    def granted(self, told: SendWeights) -> None:
        """A worker was told to go on.

        Raises:
            Contradiction: not so.
        """
        worker, batches = told.worker, range(told.batch, told.batch + told.steps)
        grant = self._grants.get(worker)
        if grant is not None:
            if (told.clock, batches) != (grant.clock, grant.batches):
                raise Contradiction(f"worker {worker} is told other things while it computes")
            grant.version = told.version
            return
        clock = self.accepted.get(worker)
        if told.clock != clock or not (self._deals or told.batch == clock):
            raise Contradiction(
                f"worker {worker} is told to compute gradient {told.clock} of batch {told.batch}, "
                f"the next one is {clock}"
            )
        ahead = self._phase.of[worker] - self._phase.least
        if ahead > self.widest:
            self.widest = ahead
        if self._bound is not None and ahead > self._bound:
            raise Contradiction(
                f"worker {worker} goes on {ahead} clocks ahead of the slowest, {self._bound} are "
                "allowed"
            )
        self._grants[worker] = Grant(clock, batches, told.version)
        self.tally.granted += 1

    def pushed(self, push: Push, *, dropped: bool) -> None:
        """A worker pushed what it was told to compute, in time or too late.

        Raises:
            Contradiction: it was told to compute something else, or nothing.
        """
        worker, work = push.worker, push.work
        grant = self._grants.pop(worker, None)
        if grant is None:
            raise Contradiction(f"worker {worker} pushed what it was not asked for")
        if work.clock != grant.clock or work.steps != len(grant.batches):
            raise Contradiction(
                f"worker {worker} pushed gradient {work.clock} and {work.steps - 1} more, was "
                f"asked for {grant.clock} and {len(grant.batches) - 1} more"
            )
        # A gradient that is computed ahead is on the weights of the answer before.
        least = self._based.get(worker, 0) if self._overlaps else grant.version
        if not least <= work.version <= self.version:
            raise Contradiction(
                f"worker {worker} pushed a gradient on version {work.version}, was given one from "
                f"{least} to {self.version}"
            )
        self._based[worker] = work.version
        self.tally.pushed += 1
        if dropped:
            self.tally.dropped[worker] += 1
            return
        if work.steps > self.left:
            raise Contradiction(f"worker {worker} pushed more than the budget has left")
        self._total += work.steps
        self.accepted[worker] += work.steps
        self._phase.set(worker, self._phase.of[worker] + work.steps)
        self._pending[worker] = push

    def moved(self, worker: int, rank: int) -> None:
        """Another rank computes for a worker: what it had in hand is begun again there."""
        before = self._hosts[worker]
        assert before is not None
        self.tally.moves.append((worker, before, rank))
        self._hosts[worker] = rank
        self.tally.begun_again += worker in self._grants

    def left_by(self, worker: int) -> None:
        """A worker is gone, and what it was to compute is others'."""
        expect(worker in self.accepted, f"worker {worker} leaves, which has left")
        del self.accepted[worker]
        self._phase.remove(worker)
        self.tally.returned += self._grants.pop(worker, None) is not None

    def switches(self, mode: str) -> None:
        """The run is to go over to another mode once nothing is out."""
        self.tally.modes.append(mode)
        self.ending = True

    def begins(self, mode: str) -> None:
        """Another mode begins: nothing is out, and clocks count from here.

        Raises:
            Contradiction: something is out.
        """
        expect(not self._grants and not self._pending, "the mode changes while gradients are out")
        self.mode = mode
        self._bound, self._in_rounds = self.bound, in_rounds(self.job, mode)
        self._phase = Clocks(dict.fromkeys(self.accepted, 0))
        self.ending = False

    def begins_term(self, term: NewTerm) -> None:
        """What is under way is void, and the run goes on from what is in the weights.

        Raises:
            Contradiction: it had gone over to other modes by then.
        """
        tally, modes = self.tally, self.tally.modes
        told = [*term.modes]
        expect(told[: len(modes)] == modes, f"modes were {told} by then, in the events {modes}")
        tally.modes, tally.void = told, tally.void + len(self._grants)
        tally.lost += term.lost
        tally.dropped.clear()
        self._grants.clear()
        self._pending.clear()
        self._based.clear()
        self.accepted, self._total = dict(self.clocks), sum(self.clocks.values())
        self.begins(mode_at_first(self.job))
        if not self.job.mode.chooses:
            self._phase = Clocks(self.clocks)

    def applied(self, apply: Apply) -> float:
        """An update is made; return the mean loss of its gradients.

        Raises:
            Contradiction: it is not of what was pushed, or not whole.
        """
        if apply.version != self.version + 1:
            raise Contradiction(f"version {apply.version} comes after version {self.version}")
        workers = [self._workers[slot] for slot in apply.slots]
        loss: float = 0
        for worker, weight, lag in zip(workers, apply.weights, apply.lags, strict=True):
            push = self._pending.pop(worker, None)
            if push is None:
                raise Contradiction(f"version {apply.version} is of nothing of worker {worker}")
            work = push.work
            if lag != self.version - work.version or work.clock != self.clocks[worker]:
                raise Contradiction(
                    f"version {apply.version} has gradient {work.clock} of worker {worker} with a "
                    f"lag of {lag}; its next one is {self.clocks[worker]}, on version "
                    f"{work.version}"
                )
            self.uses.add(push.slot, work.batches)
            self.clocks[worker] = work.clock + work.steps
            self.units += work.units
            self.lags[lag] += 1
            loss += weight * work.loss
            if self._noted is not None:
                rank = self._hosts[worker]
                assert rank is not None
                self._noted(Used(apply.version, worker, rank, push))
        if not math.isclose(sum(apply.weights), 1.0):
            raise Contradiction("the weights of a mean do not sum to 1")
        self.version = apply.version
        if self._in_rounds:
            self._check_round(set(workers))
        return loss

    def _check_round(self, workers: set[int]) -> None:
        """See that a round has a gradient of every worker, but for backups, and for what the budget
        has no gradient left for."""
        job, version = self.job, self.version
        if job.config.run.backup_workers:
            gone = len(job.workers) - len(self.accepted)
            enough = len(workers) + gone >= job.gradients_per_step
            expect(
                enough or self.left == 0 or not self._grants,
                f"version {version} is of {len(workers)} gradients, a round of "
                f"{job.gradients_per_step}",
            )
            return
        missing = sorted(self._grants.keys() & self.accepted.keys())
        expect(not missing, f"version {version} does not wait for worker {missing[:1]}")
        missing = sorted(self.accepted.keys() - workers)
        whole = not missing or self.left == 0 or self.ending
        expect(whole, f"version {version} has no gradient of worker {missing[:1]}")


def mode_at_first(job: Job) -> str:
    """Return the mode that a job begins in."""
    return next(iter(CANDIDATES)) if job.mode.chooses else job.mode.name


def in_rounds(job: Job, mode: str) -> bool:
    """Say whether an update waits for every worker, in a job that is in this mode now."""
    return _now(job, mode).config.in_rounds


def _now(job: Job, mode: str) -> Job:
    return job.within(CANDIDATES[mode]) if job.mode.chooses and mode in CANDIDATES else job
