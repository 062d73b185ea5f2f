"""Who does what in a job: which of its ranks hold the shards, work, or wait, in the present term.
What they train is not known here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from psdp.config import Config
from psdp.config.handicap import parse_stragglers
from psdp.errors import ConfigError, PeerLost


@dataclass(frozen=True)
class Term:
    """Who holds what, until the next of these ranks is lost.

    Attributes:
        number: from 0.
        lost: ranks that held a shard.
        joined: (shard, rank) of each that was spare at the start, and has come to hold a shard.
        moved: (worker, rank) of each worker for which another rank computes than at the start.
    """

    number: int = 0
    lost: frozenset[int] = frozenset()
    joined: tuple[tuple[int, int], ...] = ()
    moved: tuple[tuple[int, int], ...] = ()


Of = TypeVar("Of", bound="Cast")
"""A job, or as much of one as a spare rank knows."""


@dataclass(frozen=True)
class Cast:
    """The ranks of a job: first those that serve at its start, then those that compute, those that
    are spare, and those that stand by.

    Attributes:
        config: resolved settings.
        world_size: how many ranks there are.
        term: of the job.
    """

    config: Config
    world_size: int
    term: Term = field(default=Term(), kw_only=True)

    @property
    def stands_by(self) -> bool:
        """Whether each shard is held twice at the start."""
        return self.config.run.standby

    @cached_property
    def holders(self) -> tuple[tuple[int, ...], ...]:
        """By shard, the ranks that hold it; the first of them serves it, the other stands by.

        Raises:
            PeerLost: all that held a shard are lost.
        """
        count = self.config.run.servers
        # Launchers fill host after host: the last ranks are on another one, if there are several.
        beside = range(self.world_size - count, self.world_size) if self.stands_by else ()
        holders = [list(ranks) for ranks in zip(range(count), *filter(None, [beside]), strict=True)]
        for shard, rank in self.term.joined:
            holders[shard].append(rank)
        left = tuple(tuple(r for r in ranks if r not in self.term.lost) for ranks in holders)
        if () in left:
            raise PeerLost(
                f"shard {left.index(())} of {count} is lost: no rank that held it is there any more"
            )
        return left

    @cached_property
    def holding(self) -> tuple[int, ...]:
        """All ranks that hold a shard, those that serve first."""
        return (*self.servers, *self.standbys)

    @cached_property
    def standbys(self) -> tuple[int, ...]:
        """All ranks that stand by for a server."""
        return tuple(rank for ranks in self.holders for rank in ranks[1:])

    def standby_of(self, rank: int) -> int | None:
        """Return the rank that stands by for a server, if one does."""
        same = self.holders[self.shard_of(rank)]
        return same[1] if len(same) > 1 and same[0] == rank else None

    @property
    def servers(self) -> tuple[int, ...]:
        """By shard, the rank that serves it."""
        return tuple(ranks[0] for ranks in self.holders)

    @property
    def leader(self) -> int:
        """The server that leads the run: that of the first shard."""
        return self.servers[0]

    def shard_of(self, rank: int) -> int:
        """Return the number of the shard that a rank holds."""
        return next(shard for shard, ranks in enumerate(self.holders) if rank in ranks)

    def joined_by(self: Of, shard: int, rank: int) -> Of:
        """Return this job with a rank that holds a shard too."""
        joined = (*self.term.joined, (shard, rank))
        return replace(self, term=replace(self.term, joined=joined))

    def without(self: Of, lost: Iterable[int]) -> Of:
        """Return this job without some ranks that hold a shard.

        Raises:
            PeerLost: no rank that held some shard is left.
        """
        gone = self.term.lost | ({*lost} & {*self.holding})
        job = replace(self, term=replace(self.term, lost=gone))
        assert job.holders, "which raises"
        return job

    @cached_property
    def computing(self) -> range:
        """Ranks that compute at the start, each for some worker."""
        run, size = self.config.run, self.world_size
        end = size - _standbys(self.config) - count_spares(self.config, size)
        return range(run.servers, end)

    @cached_property
    def spares(self) -> tuple[int, ...]:
        """Ranks that wait at the start, but those that have come to hold a shard."""
        first, joined = self.computing.stop, {rank for _, rank in self.term.joined}
        waiting = range(first, first + count_spares(self.config, self.world_size))
        return tuple(rank for rank in waiting if rank not in joined)

    @cached_property
    def worker_ranks(self) -> tuple[int, ...]:
        """Ranks that compute gradients, or wait to."""
        return (*self.computing, *self.spares)

    @property
    def taking_part(self) -> tuple[int, ...]:
        """All ranks that are not spare."""
        return tuple(rank for rank in range(self.world_size) if rank not in self.spares)

    @cached_property
    def workers(self) -> range:
        """The workers' numbers. With one server and as many ranks that work, worker n is rank n."""
        return range(1, (self.config.run.virtual_workers or len(self.computing)) + 1)


def _standbys(config: Config) -> int:
    return config.run.servers if config.run.standby else 0


def count_spares(config: Config, world_size: int) -> int:
    """Return how many of so many ranks wait: as ``--spares`` says, or those beyond the workers."""
    run = config.run
    if run.spares is not None:
        return run.spares
    ranks = world_size - run.servers - _standbys(config)
    return max(0, ranks - (run.virtual_workers or ranks))


def check_world(config: Config, world_size: int, command: str = "python -m psdp.worker") -> None:
    """See that there are ranks for the servers and at least one worker.

    Args:
        command: that starts a rank.

    Raises:
        ConfigError: there are not; the text shows a command that would do.
    """
    servers = config.run.servers
    holding = servers + _standbys(config)
    if world_size == 1:
        own = command.removeprefix("python ").removeprefix("-m psdp.worker")
        raise ConfigError(
            f"one rank cannot be server and worker: start {servers} server(s) and at least one "
            f"worker with an MPI launcher, for instance\n"
            f"    mpirun -n {holding + 2} {command}\n"
            f"or {' '.join(filter(None, ('python -m psdp.launch -n', str(holding + 2), own)))}, "
            "which finds the launcher"
        )
    if config.run.standby and holding >= world_size:
        raise ConfigError(
            f"--servers {servers} --standby leaves no rank to work: {holding} of the job's "
            f"{world_size} ranks hold a shard; start at least {holding + 1}"
        )
    if servers >= world_size:
        raise ConfigError(
            f"--servers {servers} leaves no rank to work: the job has {world_size} ranks; start "
            f"at least {servers + 1}, or lower --servers to {world_size - 1} at most"
        )
    computing = _check_spares(config, world_size)
    workers = config.run.virtual_workers or computing
    if config.run.backup_workers >= workers:
        raise ConfigError(
            f"--backup-workers {config.run.backup_workers} leaves no gradient to wait for: the job "
            f"has {workers} worker(s); lower it to {workers - 1} at most, or start more ranks"
        )
    known = range(servers, world_size - holding + servers)
    for rank in parse_stragglers(config.run.straggler):
        if rank not in known:
            raise ConfigError(
                f"--straggler names rank {rank}, which is no worker: this job's workers are ranks "
                f"{known.start} to {known.stop - 1}"
            )


def _check_spares(config: Config, world_size: int) -> int:
    """Return how many ranks compute.

    Raises:
        ConfigError: others cannot wait, or not so many.
    """
    run, spares = config.run, count_spares(config, world_size)
    holding = run.servers + _standbys(config)
    computing = world_size - holding - spares
    if computing < 1:
        what = "hold a shard" if run.standby else "serve"
        raise ConfigError(
            f"--spares {spares} leaves no rank to compute: the job has {world_size} ranks, of "
            f"which {holding} {what}; start at least {holding + spares + 1}"
        )
    if run.virtual_workers is not None and computing > run.virtual_workers:
        raise ConfigError(
            f"--spares {spares} leaves {computing} ranks to compute for {run.virtual_workers} "
            f"worker(s): drop it, or let {spares + computing - run.virtual_workers} wait"
        )
    if spares and run.transport == "shared":
        raise ConfigError(
            f"--transport shared does not go with {spares} spare rank(s), which exchange MPI "
            "messages when they are called; drop the flag, or start no rank beyond the workers"
        )
    return computing
