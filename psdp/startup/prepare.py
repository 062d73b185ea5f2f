"""The start of a rank: all agree on the settings; then those that have a part make it, and a spare
rank, which has none yet, loads nothing that it does not need to wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psdp.cast import Cast
from psdp.errors import ConfigError
from psdp.startup.choosing import ChooseCheckpoint
from psdp.startup.origin import ChooseOrigin
from psdp.startup.program import LANGUAGE, Program
from psdp.startup.ready import Ready, Told, Waiting, folder_of
from psdp.startup.settings import AgreeOnSettings, Location
from psdp.startup.step import Step, take
from psdp.transport.world import World

if TYPE_CHECKING:
    from psdp.checkpoint import Manifest
    from psdp.records.lock import RunLock


@dataclass(frozen=True)
class Facts:
    """What rank 0 tells those that have no part."""

    told: Told | None


@dataclass(frozen=True)
class TakePart(Step[Ready | None, Facts, Told]):
    """Make this rank's part, if it has one; a spare rank waits for those that do, and learns what
    it would need to take part later.

    Args:
        locations: of every rank.
        lock: rank 0's, of a run that goes on in its own folder.
    """

    world: World
    cast: Cast
    manifest: Manifest | None
    locations: Sequence[Location]
    program: Program
    lock: RunLock | None

    facts = Facts

    def act(self) -> tuple[Ready | None, Facts]:
        if self.world.rank in self.cast.spares:
            return None, Facts(None)
        ready, told = self.build(self.world.among(self.cast.taking_part))
        return ready, Facts(told if self.world.rank == 0 else None)

    def build(self, world: World) -> tuple[Ready, Told]:
        """Make this rank's part in the world of all that have one."""
        from psdp.startup.building import build

        settled = self.cast.config, self.manifest, self.locations, self.program
        return build(world, *settled, self.lock)

    def agree(self, facts: Mapping[int, Facts]) -> Told:
        told = facts[0].told
        assert told is not None
        return told


def prepare(
    world: World,
    given: Mapping[str, Any],
    refused: ConfigError | None,
    program: Program = LANGUAGE,
) -> Ready | Waiting:
    """Agree with all other ranks on the job; return what this rank needs for its loop.

    Args:
        given: settings of this rank's command line.
        refused: why the command line could not be read, to be told once.
        program: what is trained.

    Raises:
        StartRefused: something is wrong on some rank; rank 0 has said what.
    """
    readable = {} if refused else given
    lock, checkpoint = take(world, ChooseCheckpoint(world.rank, readable))
    try:
        _, origin = take(world, ChooseOrigin(world.rank, readable))
        agreeing = AgreeOnSettings(world, given, checkpoint, origin, refused, program.command)
        (config, manifest), locations = take(world, agreeing)
        cast = Cast(config, world.size)
        taking = TakePart(world, cast, manifest, locations, program, lock)
        if not cast.spares:
            return taking.build(world)[0]
        ready, told = take(world, taking)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    if ready is not None:
        return ready
    folder = folder_of(cast, world.rank, Path(told.folder), told.token)
    return Waiting(cast, world.rank, manifest, locations, program, told, folder)
