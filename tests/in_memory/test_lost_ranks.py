"""Ranks that die anywhere, in any mode, with others that stand by or without: every gradient of the
budget counts once, records have no line twice, and sync ends with the bits of a run in which
nothing was lost. Where too many die, the job ends, and what it has saved goes on.

A seed draws the job, who dies and when, and who has a turn next (``in_turns``): one that fails does
so each time, and says all it needs to::

    PSDP_SEEDS=4711-4712 python -m pytest tests/in_memory/test_lost_ranks.py
"""

from __future__ import annotations

import inspect
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from in_turns import Turns
from jobs import Training, before_gradient, die_at, train
from losses import check, die_at_message, told

from psdp.checkpoint import find_checkpoint
from psdp.errors import CheckpointError, PeerLost
from psdp.servers.ending import Ending


def seeds(usual: int = 60) -> range:
    """Return those of ``PSDP_SEEDS``: so many, or from the first to before the last; a campaign has
    thousands."""
    first, _, last = os.environ.get("PSDP_SEEDS", str(usual)).rpartition("-")
    return range(int(first or 0), int(last))


EXACT: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "sync", "grad_clip": 0.1, "dropout": 0.1},
]
MODES: list[dict[str, Any]] = [
    *EXACT,
    {"mode": "async"},
    {"mode": "ssp", "staleness": 1},
    {"mode": "sync", "balance": "dynamic"},
    *EXACT,
    {"mode": "local", "local_steps": 2},
    {"mode": "easgd", "local_steps": 2},
    {"mode": "async", "lag_compensation": "dc-asgd", "overlap": False},
    {"mode": "local", "merge": "async", "local_steps": 2},
    {"mode": "async", "overlap": True},
    {"mode": "auto"},
]
OFTEN = {"eval_every": 2, "checkpoint_every": 2}


@dataclass(frozen=True)
class Scenario:
    """A job, and what becomes of it.

    Attributes:
        mode: its settings that say how it is trained.
        virtual: workers, of which its ranks compute for one or several.
        ranks: that work.
        servers: shards.
        deaths: of ranks, and which of its messages each does not send any more.
        slow: of each rank that works, the most seconds that it takes for a gradient.
    """

    mode: dict[str, Any]
    virtual: int
    ranks: int
    servers: int
    standby: bool
    transport: str
    deaths: dict[int, int]
    slow: list[float]

    @property
    def settings(self) -> dict[str, Any]:
        how = {"servers": self.servers, "standby": self.standby, "transport": self.transport}
        own = {"workers": self.ranks, "virtual_workers": self.virtual}
        return {**own, **how, "max_failures": len(self.deaths), **OFTEN, **self.mode}

    @property
    def bearable(self) -> bool:
        """Whether enough ranks are left if all of these die: one that computes, though spare ones
        may have come to hold the shards of those that die."""
        ranks = {*range(self.servers, self.servers + self.ranks)}
        holding = self.deaths.keys() - ranks if self.standby else set()
        lasting = not any(self.deaths.keys() >= {*group} for group in self.holders)
        return lasting and len(ranks - self.deaths.keys()) > len(holding)

    @property
    def holders(self) -> list[tuple[int, ...]]:
        """Of each shard, the ranks that hold it."""
        stand_by = range(self.servers + self.ranks, 2 * self.servers + self.ranks)
        if not self.standby:
            return [(server,) for server in range(self.servers)]
        return list(zip(range(self.servers), stand_by, strict=True))


def drawn(seed: int) -> Scenario:
    """Return what a seed stands for."""
    dice = random.Random(seed)
    scenario = Scenario(
        mode=MODES[seed % len(MODES)],
        virtual=dice.randint(1, 5),
        ranks=dice.randint(1, 4),
        servers=dice.choice([1, 1, 2, 2, 3]),
        standby=dice.random() < 0.6,
        transport=dice.choice(["auto", "messages"]),
        deaths={},
        slow=[dice.choice([2e-3, 2e-3, 2e-2]) for _ in range(4)],
    )
    every = range(scenario.servers * (1 + scenario.standby) + scenario.ranks)
    rash = dice.random() < 0.1
    for rank in dice.sample(every, dice.randint(1, len(every) - 1)):
        scenario.deaths[rank] = dice.randrange(1, dice.choice([30, 60, 200]))
        if not (scenario.bearable or rash):
            del scenario.deaths[rank]
    return scenario


@cache
def undisturbed(mode: int, virtual: int) -> tuple[Any, ...]:
    """Return what one rank tells that computes for all workers, and one server."""
    with tempfile.TemporaryDirectory() as folder:
        return told(train(Path(folder) / "run", virtual_workers=virtual, **OFTEN, **EXACT[mode]))


@pytest.mark.parametrize("seed", seeds())
def test_nothing_is_lost_or_counted_twice_whoever_dies(tmp_path: Path, seed: int) -> None:
    scenario = drawn(seed)
    print(scenario)
    with Turns(seed):
        run = played(tmp_path / "run", scenario, random.Random(seed))
    if run is None:
        return
    check(run)
    if scenario.mode in EXACT:
        assert told(run) == undisturbed(EXACT.index(scenario.mode), scenario.virtual)


def test_the_clocks_of_jobs_in_memory_are_those_of_the_turns() -> None:
    """Where one of them is real, a deadline is never over, or always."""
    now = inspect.signature(Ending).parameters["now"].default
    with Turns(1):
        assert now() < 1


def test_one_seed_is_one_run(tmp_path: Path) -> None:
    said = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        with Turns(5) as turns:
            run = played(folder, drawn(2), random.Random(5))
        assert run is not None
        times = [record["time_s"] for record in run.metrics("train")]
        said.append((run.weights_sha256, times, turns.count))
    assert said[0] == said[1]


def played(folder: Path, scenario: Scenario, dice: random.Random) -> Training | None:
    """Return the run of a scenario, or the rest of it from its last checkpoint, if it has one.

    Raises:
        PeerLost: it ended, and need not have.
    """

    def prepare(run: Training) -> None:
        for rank, message in scenario.deaths.items():
            die_at_message(run, rank, message)
        for number, most_s in zip(range(len(run.job.computing)), scenario.slow, strict=False):
            wait = lambda _, most_s=most_s: time.sleep(dice.random() * most_s)  # noqa: E731
            before_gradient(run.worker(number), wait)

    try:
        return train(folder, prepare=prepare, **scenario.settings)
    except PeerLost:
        if scenario.bearable:
            raise
    try:
        find_checkpoint(folder)
    except CheckpointError:
        return None
    return train(folder, resume=folder, **scenario.settings)


def test_a_job_whose_ranks_fail_again_and_again_ends_saved(tmp_path: Path) -> None:
    def two_die(run: Training) -> None:
        for number in (0, 1):
            die_at(run.worker(number), 2)

    allows = r"2 ranks have failed, --max-failures 1 allows no more; the last was rank [12] \("
    with pytest.raises(PeerLost, match=allows):
        train(tmp_path / "run", prepare=two_die, workers=4, max_failures=1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["stopped_by"], summary["failures"]) == ("failures", 2)
    assert find_checkpoint(tmp_path / "run").name.startswith(f"step-{summary['steps']:06d}")
