"""The facts of one job: roles, the budget, what is due when, and the policy of its mode."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.cast import check_world
from psdp.config import Config
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.language import Language
from psdp.policies import make_policy
from psdp.protocol import Asynchronous, Lockstep, Pull, SendWeights, StaleBounded, Synchronous

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8}


def job(world_size: int = 3, **settings: Any) -> Job:
    config = Config.from_flat(SMALL | settings).resolved()
    return Job(config, world_size, Language(config, 10))


def test_the_first_ranks_serve_and_the_others_work() -> None:
    two = job(5, servers=2)
    assert (list(two.servers), list(two.worker_ranks)) == ([0, 1], [2, 3, 4])
    assert [two.hosted(rank) for rank in two.worker_ranks] == [(1,), (2,), (3,)]


def test_workers_are_shared_out_evenly_and_ranks_beyond_them_are_spare() -> None:
    for ranks, hosted in (
        (1, [(1, 2, 3, 4)]),
        (3, [(1, 2), (3,), (4,)]),
        (6, [(1,), (2,), (3,), (4,), (), ()]),
    ):
        few = job(1 + ranks, virtual_workers=4)
        assert [few.hosted(rank) for rank in few.worker_ranks] == hosted
        assert few.gradients_per_step == 4
        assert [*few.computing] == [rank for rank in few.worker_ranks if few.hosted(rank)]


def test_the_last_ranks_are_spare_if_so_many_are_to_be() -> None:
    six = job(6, spares=1)
    assert (len(six.workers), [*six.computing], [*six.spares]) == (4, [1, 2, 3, 4], [5])
    few = job(6, spares=2, virtual_workers=5)
    assert [few.hosted(rank) for rank in few.worker_ranks] == [(1, 2), (3, 4), (5,), (), ()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spares": 4}, "--spares 4 leaves no rank to compute: the job has 5 ranks, .* at least 6"),
        (
            {"spares": 1, "virtual_workers": 2},
            "--spares 1 leaves 3 ranks to compute for 2 worker.*: drop it, or let 2 wait",
        ),
        ({"spares": 1, "transport": "shared"}, "--transport shared does not go with 1 spare rank"),
        ({"virtual_workers": 3, "transport": "shared"}, "does not go with 1 spare rank"),
    ],
)
def test_spares_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_world(Config.from_flat(settings), 5)


def test_spares_have_no_use_where_a_loss_ends_the_run() -> None:
    with pytest.raises(ConfigError, match="--spares 1 has no use with --mode allreduce"):
        job(5, spares=1, mode="allreduce")


def test_the_shards_of_the_servers_are_the_whole_vector() -> None:
    split = job(5, servers=2)
    assert [index for shard in split.shards for index in shard] == list(range(split.table.size))
    assert len(split.shards) == 2


def test_the_budget_is_counted_in_tokens_and_pushes() -> None:
    counted = job(4, max_steps=10, batch_size=3, grad_accum=2)
    assert counted.units_per_gradient == 3 * 2 * 8
    assert counted.units_per_step == 3 * counted.units_per_gradient
    assert counted.gradients == 30
    assert counted.gradients * counted.units_per_gradient == 10 * counted.units_per_step


def test_a_step_of_sync_is_without_its_backup_workers() -> None:
    counted = job(5, max_steps=10, backup_workers=1)
    assert counted.units_per_step == 3 * counted.units_per_gradient
    assert counted.gradients == 30


def test_steps_are_whole_ones_of_so_many_tokens() -> None:
    counted = job(4)
    step = counted.units_per_step
    assert [counted.step_of(tokens) for tokens in (0, step - 1, step, 7 * step)] == [0, 0, 1, 7]


def test_a_new_run_is_where_everything_is_due() -> None:
    assert job().due(5, -1, 0)
    assert not job().due(0, -1, 0)


@given(st.lists(st.integers(1, 400), max_size=40), st.integers(1, 5))
def test_whatever_updates_bring_a_multiple_of_steps_is_due_once(
    updates: list[int], every: int
) -> None:
    counted, tokens, dues = job(3, batch_size=1), 0, 0
    for update in updates:
        dues += counted.due(every, tokens, tokens + update)
        tokens += update
    assert dues <= counted.step_of(tokens) // every
    small = all(update <= every * counted.units_per_step for update in updates)
    assert not small or dues == counted.step_of(tokens) // every


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"mode": "sync"}, Synchronous),
        ({"mode": "async"}, Asynchronous),
        ({"mode": "ssp"}, StaleBounded),
        ({"mode": "local"}, Synchronous),
        ({"mode": "local", "merge": "async"}, Asynchronous),
        ({"mode": "easgd"}, Asynchronous),
        ({"mode": "allreduce"}, Lockstep),
    ],
)
def test_the_mode_decides_the_policy(settings: dict[str, Any], kind: type) -> None:
    policy = make_policy(job(4, **settings), 0, {1: 0, 2: 0, 3: 0})
    assert type(policy) is kind


def test_the_staleness_and_the_clocks_of_a_resumed_run_reach_the_policy() -> None:
    clocks = {1: 2, 2: 3}
    strict, slack = job(3, mode="ssp", staleness=0), job(3, mode="ssp", staleness=1)
    assert make_policy(strict, 5, clocks).handle(Pull(2)) == [], "it is a clock ahead of worker 1"
    assert make_policy(slack, 5, clocks).handle(Pull(2)) == [
        SendWeights(2, version=5, clock=3, batch=3)
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backup_workers": 2},
            "--backup-workers 2 leaves no gradient .* 2 worker.* lower it to 1",
        ),
        ({"straggler": "0:2"}, "--straggler names rank 0, .* ranks 1 to 2"),
        ({"straggler": "2:2,3:2"}, "--straggler names rank 3"),
    ],
)
def test_what_this_world_cannot_have_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_world(Config.from_flat(settings), 3)


@pytest.mark.parametrize(("servers", "world_size"), [(1, 2), (1, 9), (3, 4), (8, 64)])
def test_a_server_and_a_worker_are_a_world(servers: int, world_size: int) -> None:
    check_world(Config.from_flat({"servers": servers}), world_size)


@pytest.mark.parametrize(
    ("servers", "world_size", "message"),
    [
        (1, 1, "one rank cannot be server and worker: .* mpirun -n 3 python -m psdp.worker"),
        (2, 1, "start 2 server.* mpirun -n 4 python -m psdp.worker"),
        (
            2,
            2,
            "--servers 2 leaves no rank to work: the job has 2 ranks; start at least 3, or .* 1",
        ),
        (9, 4, "start at least 10, or lower --servers to 3 at most"),
    ],
)
def test_a_world_without_a_worker_is_refused(servers: int, world_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        check_world(Config.from_flat({"servers": servers}), world_size)
