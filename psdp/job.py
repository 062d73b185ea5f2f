"""The facts of one job that every rank derives alike: who serves, who works, and the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from psdp.config import Config
from psdp.errors import ConfigError
from psdp.params import ParamTable
from psdp.protocol import Asynchronous, Policy, StaleBounded, Synchronous


@dataclass(frozen=True)
class Job:
    """One job: resolved settings, the number of ranks, and the table of parameters."""

    config: Config
    world_size: int
    table: ParamTable

    @property
    def servers(self) -> range:
        """Ranks that hold a shard; rank 0 also leads the run."""
        return range(self.config.run.servers)

    @property
    def workers(self) -> range:
        """Ranks that compute gradients."""
        return range(self.config.run.servers, self.world_size)

    @cached_property
    def shards(self) -> list[range]:
        """The range of the flat vector that each server holds."""
        return self.table.shards(len(self.servers))

    @property
    def tokens_per_push(self) -> int:
        run = self.config.run
        return run.batch_size * run.grad_accum * self.config.model.block_size

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step: a push of every worker."""
        return self.tokens_per_push * len(self.workers)

    @property
    def pushes(self) -> int:
        """The budget, in pushes."""
        return self.config.run.max_steps * len(self.workers)

    @property
    def tokens(self) -> int:
        """The budget, in tokens."""
        return self.pushes * self.tokens_per_push

    @property
    def versions_per_step(self) -> int:
        """Updates in one step: sync averages a step's gradients into one."""
        return 1 if self.config.run.mode == "sync" else len(self.workers)

    def step_of(self, version: int) -> int:
        """Return how many whole steps are done at this version."""
        return version // self.versions_per_step

    def due(self, every: int, version: int) -> bool:
        """Say whether something done every so many steps is due at this version."""
        return every > 0 and version % (every * self.versions_per_step) == 0

    def policy(self, version: int, clocks: Mapping[int, int]) -> Policy:
        """Return the mode's policy, to go on from a version with these gradients accepted."""
        rest = max(0, self.pushes - sum(clocks.values()))
        match self.config.run.mode:
            case "sync":
                return Synchronous(self.workers, rest, version=version, clocks=clocks)
            case "async":
                return Asynchronous(self.workers, rest, version=version, clocks=clocks)
            case _:
                staleness = self.config.run.staleness
                assert staleness is not None, "settings are resolved"
                return StaleBounded(
                    self.workers, rest, staleness=staleness, version=version, clocks=clocks
                )


def check_world(config: Config, world_size: int) -> None:
    """See that there are ranks for the servers and at least one worker.

    Raises:
        ConfigError: there are not; the text shows a command that would do.
    """
    servers = config.run.servers
    if world_size == 1:
        raise ConfigError(
            f"one rank cannot be server and worker: start {servers} server(s) and at least one "
            f"worker with an MPI launcher, for instance\n"
            f"    mpirun -n {servers + 2} python -m psdp.worker\n"
            f"or python -m psdp.launch -n {servers + 2}, which finds the launcher"
        )
    if servers >= world_size:
        raise ConfigError(
            f"--servers {servers} leaves no rank to work: the job has {world_size} ranks; start "
            f"at least {servers + 1}, or lower --servers to {world_size - 1} at most"
        )
