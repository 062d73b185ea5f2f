"""Ranks that hold a shard die anywhere, in any mode, where others stand by: every gradient of the
budget counts once, records have no line twice, and sync ends with the bits of a run in which
nothing was lost."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from jobs import Training, before_gradient, train

from psdp.checkpoint import find_checkpoint, read_manifest, read_weights
from psdp.errors import ConfigError, PeerLost
from psdp.servers.ending import Ending
from psdp.transport import messages as m
from psdp.transport.in_memory import Killed

SEEDS = int(os.environ.get("PSDP_SEEDS", "24"))
"""A campaign has thousands."""

MODES: list[dict[str, Any]] = [
    {"mode": "sync", "grad_clip": 0.1, "dropout": 0.1},
    {"mode": "async"},
    {"mode": "sync"},
    {"mode": "ssp", "staleness": 1},
    {"mode": "sync", "balance": "dynamic"},
    {"mode": "local", "local_steps": 2},
    {"mode": "sync", "transport": "messages"},
    {"mode": "easgd", "local_steps": 2},
    {"mode": "async", "lag_compensation": "dc-asgd", "overlap": False},
    {"mode": "local", "merge": "async", "local_steps": 2},
    {"mode": "async", "overlap": True},
    {"mode": "auto"},
]


@pytest.fixture(autouse=True)
def _the_dead_save_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is told that its rank is dead ends as if by SIGKILL."""
    end = Ending.end

    def ending(self: Ending, error: BaseException) -> NoReturn:
        if isinstance(error, Killed):
            raise error
        end(self, error)

    monkeypatch.setattr(Ending, "end", ending)


def die_at_message(run: Training, rank: int, number: int) -> None:
    """Let a rank die instead of sending its message of this number, from 1."""
    endpoint = run.ranks[rank].endpoint
    send, sent = endpoint.send, 0

    def sending(peer: int, message: m.Message, *more: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == number:
            endpoint.die()
        return send(peer, message, *more)

    endpoint.send = sending  # type: ignore[method-assign]


def die_with(run: Training, rank: int, kind: type[Any], number: int = 1) -> None:
    """Let a rank die instead of sending its message of a kind of this number, from 1."""
    endpoint = run.ranks[rank].endpoint
    send, sent = endpoint.send, 0

    def sending(peer: int, message: m.Message, *more: Any) -> Any:
        nonlocal sent
        sent += isinstance(message, kind)
        if sent == number and isinstance(message, kind):
            endpoint.die()
        return send(peer, message, *more)

    endpoint.send = sending  # type: ignore[method-assign]


def versions(run: Training, kind: str) -> list[int]:
    return [record["version"] for record in run.metrics(kind)]


def check(run: Training) -> None:
    """See that a run is whole: its budget, its records, and its last checkpoint."""
    assert run.summary["stopped_by"] == "budget"
    count = {kind: len(run.metrics(kind)) for kind in ("failure", "move", "takeover", "standby")}
    assert run.summary["moves"] == count["move"]
    assert run.summary["takeovers"] == count["takeover"]
    assert run.summary["failures"] == count["failure"] + count["takeover"] + count["standby"]
    changes = [{"version": of["version"], "mode": of["mode"]} for of in run.metrics("mode")]
    assert run.summary["modes"] == changes
    assert sum(run.progress.clocks.values()) == run.job.gradients
    assert len({serving.progress.version for serving in run.servers}) == 1
    for kind in ("train", "eval"):
        assert versions(run, kind) == sorted(set(versions(run, kind)))
    kept = read_manifest(find_checkpoint(run.folder))
    np.testing.assert_array_equal(read_weights(kept), run.weights)


def check_alike(run: Training, other: Training) -> None:
    """See that two runs have the same weights and records."""
    assert run.weights_sha256 == other.weights_sha256
    assert run.summary["weights_sha256"] == other.summary["weights_sha256"]
    for kind, said in (("train", "loss"), ("train", "grad_norm"), ("eval", "val_loss")):
        told = [[record[said] for record in each.metrics(kind)] for each in (run, other)]
        assert told[0] == told[1]


def victims(dice: random.Random, servers: int, ranks: int) -> list[int]:
    """Return ranks that may die together: of each shard one at most, and not all that work."""
    standbys = servers + ranks
    lost = [dice.choice([0, standbys])]
    if servers == 2:
        other = dice.choice([1, standbys + 1])
        lost = dice.choice([lost, [other], [*lost, other]])
    return [*lost, servers] if ranks > 1 and dice.random() < 0.3 else lost


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_goes_on_whoever_dies(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    mode = MODES[seed % len(MODES)]
    servers, ranks = dice.choice([1, 2]), dice.randint(1, 3)
    common = {"workers": ranks, "servers": servers, "eval_every": 2, "checkpoint_every": 2}
    common |= {"virtual_workers": dice.randint(1, 3), **mode}
    ends = {rank: dice.randrange(1, 60) for rank in victims(dice, servers, ranks)}

    def prepare(run: Training) -> None:
        for rank, number in ends.items():
            die_at_message(run, rank, number)
        for number in range(ranks):  # who is fast lets the others come so far
            before_gradient(run.worker(number), lambda _count: time.sleep(dice.random() * 2e-3))

    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    check(run)
    if mode["mode"] == "sync" and mode.get("balance") != "dynamic":
        check_alike(run, train(tmp_path / "undisturbed", **common))


WHERE: Mapping[str, tuple[type[Any], int]] = {
    "before an update is told": (m.Include, 4),
    "while an update is told": (m.ApplyMean, 3),
    "before an answer": (m.Answer, 5),
    "before a copy is let go": (m.DropSnapshot, 1),
    "before it asks for the last checkpoint": (m.SaveSnapshot, 3),
    "at the end": (m.Over, 1),
    "while it says that the run is over": (m.Finish, 2),
}


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(("kind", "number"), WHERE.values(), ids=WHERE)
def test_rank_0_may_die_anywhere(
    tmp_path: Path, kind: type[Any], number: int, servers: int
) -> None:
    common = {"workers": 2, "servers": servers, "eval_every": 1, "checkpoint_every": 2}
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, kind, number),
        standby=True,
        **common,
    )
    check(run)
    check_alike(run, train(tmp_path / "undisturbed", **common))
    dead = run.network.is_dead(0)
    assert run.summary["takeovers"] == dead
    taken = [(record["from"], record["to"]) for record in run.metrics("takeover")]
    assert taken == ([(0, servers + 2)] if dead else [])


@pytest.mark.parametrize("rank", [1, 5])
def test_another_may_die_while_a_term_begins(tmp_path: Path, rank: int) -> None:
    def prepare(run: Training) -> None:
        die_at_message(run, 0, 30)
        die_with(run, rank, m.Halted)

    common = {"workers": 2, "servers": 2}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    check_alike(run, train(tmp_path / "undisturbed", **common))
    assert run.last_job.term.lost == {0, rank}


def test_who_leads_may_die_while_a_term_begins(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        die_at_message(run, 1, 30)
        die_with(run, 0, m.Close)

    common = {"workers": 2, "servers": 2}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    check_alike(run, train(tmp_path / "undisturbed", **common))
    assert run.last_job.servers == (4, 5)


def test_the_second_loss_of_a_shard_ends_the_job_with_its_last_checkpoint(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        die_with(run, 0, m.Answer, 16)
        die_with(run, 3, m.Answer, 20)
        before_gradient(run.worker(0), lambda _count: time.sleep(0.02))  # for the disk to follow

    common = {"workers": 2, "max_steps": 30, "checkpoint_every": 1}
    with pytest.raises(PeerLost, match="rank 3 is gone"):
        train(tmp_path, prepare=prepare, standby=True, **common)
    assert read_manifest(find_checkpoint(tmp_path)).state["version"] > 0


def test_early_stopping_is_not_forgotten(tmp_path: Path) -> None:
    common = {"workers": 2, "max_steps": 40, "eval_every": 1, "early_stop_patience": 2, "lr": 0.5}
    undisturbed = train(tmp_path / "undisturbed", **common)
    assert undisturbed.summary["stopped_by"] == "early_stop"
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, m.DropSnapshot, 1),
        standby=True,
        **common,
    )
    assert run.summary["stopped_by"] == "early_stop"
    check_alike(run, undisturbed)


def test_a_run_that_was_taken_over_can_be_resumed(tmp_path: Path) -> None:
    common = {"workers": 2, "lr_schedule": "constant", "checkpoint_every": 2}
    train(
        tmp_path / "run",
        prepare=lambda run: die_at_message(run, 0, 25),
        standby=True,
        **common,
    )
    out = str(tmp_path / "run")
    rest = train(tmp_path / "run", workers=2, resume=tmp_path / "run", max_steps=9, out=out)
    other = train(tmp_path / "other", **common | {"max_steps": 9})
    assert rest.weights_sha256 == other.weights_sha256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "allreduce"}, "--standby True has a meaning with --mode"),
        ({"record": True}, "--standby does not go with --record"),
        ({"server_device": "gpu"}, "--standby does not go with --server-device gpu"),
    ],
)
def test_what_it_cannot_go_with_is_refused(
    tmp_path: Path, settings: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tmp_path, standby=True, **settings)


def test_too_few_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 of the job's 4 ranks hold a shard; start at least 5"):
        train(tmp_path, workers=0, servers=2, standby=True)
