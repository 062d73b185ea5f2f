"""Spare ranks come to stand by where a shard has a single holder left: who leads may be lost again
and again, each time with the bits of a run in which nothing was lost."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from in_turns import Turns
from jobs import Training, train
from losses import check, told
from test_lost_ranks import MODES, seeds
from test_recorded_takeovers import proved

from psdp.errors import PeerLost
from psdp.transport import messages as m


def die_in_term(run: Training, rank: int, term: int, number: int, kind: Any = object) -> None:
    """Let a rank die instead of sending its message of a kind of this number, from 1, of those that
    it sends in this term or a later one."""
    endpoint = run.ranks[rank].endpoint
    send, sent = endpoint.send, 0

    def sending(peer: int, message: m.Message, *more: Any) -> Any:
        nonlocal sent
        sent += endpoint.term >= term and isinstance(message, kind)
        if sent == number:
            endpoint.die()
        return send(peer, message, *more)

    endpoint.send = sending  # type: ignore[method-assign]


def slow(run: Training, dice: random.Random) -> None:
    """Let gradients take a while, in whatever term: a spare rank looks up 20 times a second."""
    for number in range(len(run.job.computing)):
        model = run.worker(number).replica.model
        add_gradient = model.add_gradient

        def slowly(*what: Any, add_gradient: Any = add_gradient) -> None:
            time.sleep(dice.random() * 2e-2)
            add_gradient(*what)

        model.add_gradient = slowly  # type: ignore[method-assign]


def joins(run: Training) -> list[tuple[int, int]]:
    return [(record["shard"], record["rank"]) for record in run.metrics("join")]


@pytest.mark.parametrize("servers", [1, 2])
def test_who_leads_may_be_lost_again_and_again(tmp_path: Path, servers: int) -> None:
    standby = servers + 4

    def prepare(run: Training) -> None:
        slow(run, random.Random(1))
        die_in_term(run, 0, 0, 40)
        die_in_term(run, standby, 2, 40)
        die_in_term(run, servers + 2, 4, 40)

    common = {"workers": 2, "servers": servers, "max_steps": 150, "log_every": 3, "eval_every": 10}
    settings = common | {"workers": 4, "spares": 2, "standby": True, "checkpoint_every": 5}
    with Turns(servers):
        run = train(tmp_path / "run", prepare=prepare, **settings)
    check(run)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert joins(run) == [(0, servers + 2), (0, servers + 3)]
    assert run.summary["joins"] == 2
    takeovers = [(record["from"], record["to"]) for record in run.metrics("takeover")]
    assert takeovers == [(0, standby), (standby, servers + 2), (servers + 2, servers + 3)]


def test_an_error_costs_a_rank_that_has_joined(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        slow(run, random.Random(1))
        die_in_term(run, 0, 0, 40)
        endpoint = run.ranks[3].endpoint  # the first spare one
        send = endpoint.send

        def sending(peer: int, message: m.Message, *more: Any) -> Any:
            if isinstance(message, m.Follows):
                raise MemoryError("no room here")
            return send(peer, message, *more)

        endpoint.send = sending  # type: ignore[method-assign]

    common = {"workers": 2, "max_steps": 150, "log_every": 3, "eval_every": 10}
    settings = common | {"workers": 4, "spares": 2, "standby": True, "checkpoint_every": 5}
    with Turns(1):
        run = train(tmp_path / "run", prepare=prepare, **settings)
    check(run)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert joins(run) == [(0, 3), (0, 4)]


@pytest.mark.parametrize("heard", [0, 1])
def test_who_leads_may_be_lost_before_all_have_heard_of_who_has_joined(
    tmp_path: Path, heard: int
) -> None:
    def prepare(run: Training) -> None:
        slow(run, random.Random(1))
        die_in_term(run, 4, 0, 40)
        die_in_term(run, 0, 2, heard + 1, m.Begin)

    common = {"workers": 2, "max_steps": 60, "log_every": 3, "eval_every": 10}
    with Turns(1):
        settings = common | {"workers": 3, "spares": 1, "standby": True}
        run = train(tmp_path / "run", prepare=prepare, **settings)
    check(run)
    assert run.last_job.holders == ((3,),)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))


@pytest.mark.parametrize("servers", [1, 2])
def test_a_shard_that_no_spare_rank_has_come_to_hold_is_lost(tmp_path: Path, servers: int) -> None:
    def prepare(run: Training) -> None:
        for rank in (servers - 1, run.job.world_size - 1):
            die_in_term(run, rank, 0, 20)

    settings = {"workers": 4, "spares": 2, "servers": servers, "standby": True}
    with Turns(1), pytest.raises(PeerLost, match=r"server rank \d is gone \(killed\)"):
        train(tmp_path / "run", prepare=prepare, **settings)


Victim = tuple[int, int, int]
"""A shard, which of its holders, and at which message it dies."""


def die_one_after_the_other(run: Training, victims: list[Victim], doomed: Collection[int]) -> None:
    """Let one rank die that holds a shard, whenever all shards have two holders again, but for
    these, which die anyhow."""
    dead = {*doomed}

    def watch(rank: int) -> None:
        endpoint = run.ranks[rank].endpoint
        send, sent = endpoint.send, Counter[int]()

        def sending(peer: int, message: m.Message, *more: Any) -> Any:
            job = run.ranks[rank].role.job
            full = all(len(of) == 2 for of in job.holders) and dead.isdisjoint(job.holding)
            full = full and job.term.number == endpoint.term
            if victims and full and rank in job.holding:
                shard, place, number = victims[0]
                sent[job.term.number] += 1
                if job.holders[shard][place] == rank and sent[job.term.number] >= number:
                    del victims[0]
                    dead.add(rank)
                    endpoint.die()
            return send(peer, message, *more)

        endpoint.send = sending  # type: ignore[method-assign]

    for rank in run.job.holding + run.job.spares:
        watch(rank)


@pytest.mark.parametrize("seed", seeds(len(MODES)))
def test_a_run_goes_on_whoever_dies_as_long_as_there_are_spares(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    mode = MODES[seed % len(MODES)]
    servers, ranks, spares = dice.choice([1, 2]), dice.randint(1, 2), dice.randint(1, 3)
    common = {"workers": ranks, "servers": servers, "max_steps": 60, "virtual_workers": 2}
    common |= {"eval_every": dice.choice([3, 20]), "log_every": dice.choice([1, 4]), **mode}
    settings = common | {"workers": ranks + spares, "spares": spares, "standby": True}
    settings |= {"checkpoint_every": dice.choice([2, 15]), "max_failures": 9, "record": True}
    victims = [
        (dice.randrange(servers), dice.randrange(2), dice.randrange(1, 60))
        for _ in range(dice.randint(1, spares + 1))
    ]
    early = dice.random() < 0.3

    def prepare(run: Training) -> None:
        slow(run, dice)
        # A spare dies as it is about to stand by, or when it has begun to.
        doomed = run.job.spares[:early]
        die_one_after_the_other(run, victims, doomed)
        for rank in doomed:
            die_in_term(run, rank, 0, dice.randint(1, 12))

    with Turns(seed):
        run = train(tmp_path / "run", prepare=prepare, **settings)
    check(run)
    if mode["mode"] == "sync" and mode.get("balance") != "dynamic":
        assert told(run) == told(train(tmp_path / "undisturbed", **common))
    proved(run.folder, recompute=1)
    with Turns(seed + 1):
        alone = {"standby": False, "record": False, "replay": str(run.folder)}
        again = train(tmp_path / "again", **settings | alone)
    assert again.weights_sha256 == run.weights_sha256
