"""The step that begins: the settings, equal on all ranks, and where each rank runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psdp.backend.threads import fair_share, node_cores
from psdp.cast import Cast, check_world
from psdp.checkpoint import Manifest
from psdp.config import Config, DataConfig, flag_of
from psdp.cores import cpu_quota, own_cores, processor_name
from psdp.errors import ConfigError
from psdp.memory import memory_bytes
from psdp.modes import Pushed
from psdp.optim import OPTIMIZERS
from psdp.startup.resume import settle
from psdp.startup.step import Step
from psdp.transport.launchers import check_not_alone
from psdp.transport.world import World

PER_RANK = frozenset({"threads", "device", "kernels", "corpus", "val_corpus"})
"""Settings that may differ between ranks: hosts may differ, and the corpus is compared by hash."""


@dataclass(frozen=True)
class Settled:
    """What one rank tells: its settings, its host with the processor and the memory there, the
    cores that it may use, and how many of them its container may keep busy; None if all."""

    settings: dict[str, Any]
    host: str
    processor: str
    memory_bytes: int
    cores: tuple[int, ...]
    cpu_quota: float | None


@dataclass(frozen=True)
class Location:
    """Where a rank runs: its host, its number among the ranks there, and its threads; the processor
    of the host, and the cores' worth of time and the memory that its ranks have there together."""

    host: str
    local_rank: int
    threads: int
    processor: str
    cores: float
    memory_bytes: int


@dataclass(frozen=True)
class AgreeOnSettings(Step[tuple[Config, Manifest | None], Settled, list[Location]]):
    """Read the settings, those of the checkpoint to go on from if there is one; compare them;
    locate all ranks.

    Args:
        given: of this rank's command line.
        checkpoint: that rank 0 chose.
        origin: what it says of the weights that a new run begins with.
        refused: why the command line could not be read.
        command: that starts a rank.
    """

    world: World
    given: Mapping[str, Any]
    checkpoint: Path | None
    origin: Mapping[str, Any] | None
    refused: ConfigError | None
    command: str

    facts = Settled

    def act(self) -> tuple[tuple[Config, Manifest | None], Settled]:
        if self.refused is not None:
            raise self.refused
        check_not_alone(self.world.size, self.world.library, os.environ)
        config, manifest = settle(self.given, self.checkpoint, self.origin)
        if self.given.get("tokenizer") == DataConfig.tokenizer:
            from psdp.data.corpus import check_bytes_said  # which few say

            check_bytes_said(config.data.corpus)
        check_world(config, self.world.size, self.command)
        at = self.world.host, processor_name(), memory_bytes(), tuple(own_cores()), cpu_quota()
        return (config, manifest), Settled(config.flat(), *at)

    def agree(self, facts: Mapping[int, Settled]) -> list[Location]:
        told = list(facts.values())
        same_settings([fact.settings for fact in told])
        cast = Cast(Config.from_flat(told[0].settings), len(told))
        located = [locate(told, rank, cast.spares) for rank in range(len(told))]
        return lend_cores(cast, located) if servers_are_waited_for(cast.config) else located


def servers_are_waited_for(config: Config) -> bool:
    """Say whether all workers wait while servers make an update that takes many cores."""
    waits = config.mode.pushes == (Pushed.GRADIENT,) and config.in_rounds
    multiplies = OPTIMIZERS[config.optim.optimizer].multiplies
    return multiplies and waits and not (config.run.overlap or config.run.threads)


def lend_cores(cast: Cast, located: Sequence[Location]) -> list[Location]:
    """Return where ranks run, of whom those that hold a shard have the cores of all others on their
    host, among them."""
    holders = Counter(located[rank].host for rank in cast.holding)
    return [
        replace(at, threads=max(at.threads, int(at.cores / holders[at.host])))
        if rank in cast.holding
        else at
        for rank, at in enumerate(located)
    ]


def same_settings(settings: Sequence[Mapping[str, Any]]) -> None:
    """
    Raises:
        ConfigError: a rank was started with other settings than rank 0.
    """
    for rank, other in enumerate(settings):
        for name, value in settings[0].items():
            if name not in PER_RANK and other[name] != value:
                raise ConfigError(
                    f"rank {rank} was started with {flag_of(name)} {other[name]}, rank 0 with "
                    f"{value}; start every rank with the same settings"
                )


def locate(facts: Sequence[Settled], rank: int, spares: Container[int] = ()) -> Location:
    """Return where a rank runs; its threads are ``--threads``, or its fair share of the host's
    cores.

    Args:
        spares: ranks that wait, and leave their share to others.
    """
    own = facts[rank]
    ranks = [other for other, fact in enumerate(facts) if fact.host == own.host]
    cores = [facts[other].cores for other in ranks if other == rank or other not in spares]
    threads = fair_share(own.cores, cores, own.cpu_quota)
    return Location(
        own.host,
        ranks.index(rank),
        own.settings["threads"] or threads,
        own.processor,
        node_cores(cores, own.cpu_quota),
        own.memory_bytes,
    )
