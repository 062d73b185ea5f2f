"""The facts of one job that every rank derives alike: who serves, who works, and the budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from psdp.cast import Cast
from psdp.config.handicap import AT_FULL_SPEED
from psdp.modes import Candidate, Mode, Pushed
from psdp.optim import OPTIMIZERS, Optimizer
from psdp.params import ParamTable, Part
from psdp.protocol import Hosting
from psdp.task import Share, Task
from psdp.wire import Codec, make_codec


@dataclass(frozen=True)
class Job(Cast):
    """One job: its ranks, and what they train on."""

    task: Task

    @property
    def table(self) -> ParamTable:
        """The parameters."""
        return self.task.table

    @property
    def units_name(self) -> str:
        """What the budget is counted in, several of them."""
        return f"{self.task.unit}s"

    @property
    def mode(self) -> Mode:
        """The row of the mode."""
        return self.config.mode

    @property
    def pushes(self) -> tuple[Pushed, ...]:
        """What its workers push, be it now this and now that."""
        return self.mode.pushes_with(self.config.run.merge)

    def within(self, candidate: Candidate) -> Job:
        """Return this job, whose mode chooses, as it is while the mode is one of the candidates."""
        config = self.config
        run = replace(config.run, mode=candidate.mode.name, merge=candidate.merge)
        optim = replace(config.optim, **candidate.optim)
        return replace(self, config=replace(config, run=run, optim=optim))

    def at_full_speed(self) -> Job:
        """Return this job with nothing that slows it down on purpose."""
        run = replace(self.config.run, **AT_FULL_SPEED)
        return replace(self, config=replace(self.config, run=run))

    def hosting(self) -> Hosting:
        """Return which rank computes for which worker at the start of this term."""
        hosting = Hosting(self.workers, self.worker_ranks, len(self.spares))
        for worker, rank in self.term.moved:
            hosting.move(worker, rank)
        return hosting

    @cached_property
    def parts(self) -> list[Part]:
        """The part of the flat vector that each server holds."""
        return self.table.parts(len(self.servers), self._rule.needs_whole)

    @cached_property
    def whole(self) -> Part:
        """All of the flat vector, as a server would see it that holds all."""
        return self.table.parts(1, self._rule.needs_whole)[0]

    @property
    def shards(self) -> list[range]:
        """The span of the flat vector that each server holds."""
        return [part.span for part in self.parts]

    @property
    def _rule(self) -> type[Optimizer]:
        return OPTIMIZERS[self.config.optim.optimizer]

    @cached_property
    def codec(self) -> Codec:
        """How what workers push is put on the wire."""
        return make_codec(self.config.run.wire_dtype, self.config.run.dtype)

    @cached_property
    def payloads(self) -> list[range]:
        """The place of each server's part among the items of what a worker pushes."""
        bounds = [self.codec.bound(len(shard)) for shard in self.shards]
        return [range(sum(bounds[:k]), sum(bounds[: k + 1])) for k in range(len(bounds))]

    def boxes(self, count: int) -> list[range]:
        """Return the places of what so many workers of one rank push, among the items that it
        shares; each begins where a line of a cache does."""
        items, line = self.payloads[-1].stop, 64
        stride = -(-items // line) * line
        return [range(n * stride, n * stride + items) for n in range(count)]

    def boxes_of(self, rank: int) -> list[range]:
        """Return these places of a rank that computes, at the start."""
        return self.boxes(len(self.hosted(rank)))

    def hosted(self, rank: int) -> tuple[int, ...]:
        """Return the workers for which a rank computes at the start."""
        return self.hosting().hosted(rank)

    @property
    def units_per_gradient(self) -> int:
        return self.task.units_per_batch * self.config.run.grad_accum

    @property
    def gradients_per_step(self) -> int:
        """Gradients of one step: one of every worker that is no backup."""
        return len(self.workers) - self.config.run.backup_workers

    @property
    def units_per_step(self) -> int:
        """Units of one step."""
        return self.units_per_gradient * self.gradients_per_step

    @property
    def gradients(self) -> int:
        """The budget, in gradients."""
        return self.config.run.max_steps * self.gradients_per_step

    @property
    def units(self) -> int:
        """The budget, in units."""
        return self.gradients * self.units_per_gradient

    def step_of(self, units: int) -> int:
        """Return how many whole steps are done after so many units."""
        return units // self.units_per_step

    def due(self, every: int, before: int, after: int) -> bool:
        """Say whether an update from ``before`` to ``after`` units ends a step that is a multiple
        of ``every``."""
        return every > 0 and self.step_of(after) // every > self.step_of(before) // every

    def samples_at(self, units: int) -> bool:
        """Say whether a text is made of the weights that are evaluated after so many units: those
        of every so many steps, and the last."""
        run, step = self.config.run, self.step_of(units)
        if not run.sample_every:
            return False
        return step // run.eval_every % (run.sample_every // run.eval_every) == 0 or (
            units >= self.units
        )

    @property
    def reduces(self) -> bool:
        """Whether the workers reduce gradients among themselves; the server keeps their state."""
        return not self.mode.served

    @property
    def bears_losses(self) -> bool:
        """Whether others can do the work of a worker's rank that is lost, where the MPI lets
        them."""
        return self.mode.survives_loss and self.config.run.replay is None

    @property
    def begins_anywhere(self) -> bool:
        """Whether it can be taken up at any version as if nothing had happened: all that workers do
        begins with the weights of that version, and nothing else is remembered."""
        run = self.config.run
        remembers = run.overlap or run.backup_workers or self.codec.memory_bytes(self.table.size)
        return self.mode.pushes == (Pushed.GRADIENT,) and self.config.in_rounds and not remembers

    @property
    def answers_at_once(self) -> bool:
        """Whether answers wait for nobody who stands by: a round that is lost with its answer is
        computed again, and comes out the same. The next push waits then."""
        return self.begins_anywhere and not self.deals

    @property
    def keeps_inner(self) -> bool:
        """Whether checkpoints hold what each worker has for itself."""
        return self.mode.has("keep_inner") and self.config.run.keep_inner

    @property
    def max_failures(self) -> int:
        """How many ranks may fail; the job ends with the next one."""
        given = self.config.run.max_failures
        return max(3, len(self.worker_ranks) // 2) if given is None else given

    @property
    def elastic_rate(self) -> float:
        """How far server and worker move towards one another in elastic averaging."""
        rate = self.config.optim.elastic_rate
        return 0.9 / len(self.workers) if rate is None else rate

    def share(self, worker: int) -> Share:
        """Return what a worker reads of the training data."""
        # Where rank 0 deals batches out, every worker may get any.
        number, workers = (0, 1) if self.deals else (self.slot_of(worker), len(self.workers))
        return Share(self.config.run.seed, number, workers)

    def slot_of(self, worker: int) -> int:
        """Return the slot in which servers keep what a worker pushes."""
        return self.workers.index(worker)

    @property
    def deals(self) -> bool:
        """Whether rank 0 deals the batches out."""
        return self.config.run.balance == "dynamic"
