"""The facts of one job: roles, the budget, what is due when, and the policy of its mode."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.config import Config
from psdp.errors import ConfigError
from psdp.job import Job, check_world
from psdp.nn.transformer import parameter_table
from psdp.protocol import Asynchronous, Pull, SendWeights, StaleBounded, Synchronous

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8}


def job(world_size: int = 3, **settings: Any) -> Job:
    config = Config.from_flat(SMALL | settings).resolved()
    return Job(config, world_size, parameter_table(config.model, 10))


def test_the_first_ranks_serve_and_the_others_work() -> None:
    assert (list(job(5, servers=2).servers), list(job(5, servers=2).workers)) == ([0, 1], [2, 3, 4])


def test_the_shards_of_the_servers_are_the_whole_vector() -> None:
    split = job(5, servers=2)
    assert [index for shard in split.shards for index in shard] == list(range(split.table.size))
    assert len(split.shards) == 2


def test_the_budget_is_counted_in_tokens_and_pushes() -> None:
    counted = job(4, max_steps=10, batch_size=3, grad_accum=2)
    assert counted.tokens_per_push == 3 * 2 * 8
    assert counted.tokens_per_step == 3 * counted.tokens_per_push
    assert counted.pushes == 30
    assert counted.pushes * counted.tokens_per_push == 10 * counted.tokens_per_step


@pytest.mark.parametrize(
    ("mode", "versions", "steps"),
    [
        ("sync", [0, 1, 2, 7], [0, 1, 2, 7]),
        ("async", [0, 1, 2, 3, 4, 6], [0, 0, 0, 1, 1, 2]),
        ("ssp", [0, 1, 3, 4], [0, 0, 1, 1]),
    ],
)
def test_a_version_has_so_many_whole_steps_behind_it(
    mode: str, versions: list[int], steps: list[int]
) -> None:
    assert [job(4, mode=mode).step_of(version) for version in versions] == steps


@pytest.mark.parametrize(
    ("mode", "every", "due"),
    [
        ("sync", 2, [0, 2, 4, 6]),
        ("async", 2, [0, 6]),
        ("ssp", 1, [0, 3, 6]),
        ("sync", 0, []),
        ("async", 0, []),
    ],
)
def test_what_is_due_every_so_many_steps_is_due_at_these_versions(
    mode: str, every: int, due: list[int]
) -> None:
    assert [version for version in range(8) if job(4, mode=mode).due(every, version)] == due


@given(st.sampled_from(["sync", "async", "ssp"]), st.integers(1, 5), st.integers(1, 20))
def test_a_due_version_ends_a_step_that_is_a_multiple(mode: str, workers: int, every: int) -> None:
    counted = job(workers + 1, mode=mode)
    dues = [version for version in range(1, 300) if counted.due(every, version)]
    assert [counted.step_of(version) for version in dues] == [
        every * number for number in range(1, len(dues) + 1)
    ]


@pytest.mark.parametrize(
    ("mode", "kind"), [("sync", Synchronous), ("async", Asynchronous), ("ssp", StaleBounded)]
)
def test_the_mode_decides_the_policy(mode: str, kind: type) -> None:
    policy = job(4, mode=mode).policy(0, {1: 0, 2: 0, 3: 0})
    assert type(policy) is kind


def test_the_staleness_and_the_clocks_of_a_resumed_run_reach_the_policy() -> None:
    clocks = {1: 2, 2: 3}
    strict, slack = job(3, mode="ssp", staleness=0), job(3, mode="ssp", staleness=1)
    assert strict.policy(5, clocks).handle(Pull(2)) == [], "it is a clock ahead of worker 1"
    assert slack.policy(5, clocks).handle(Pull(2)) == [SendWeights(2, version=5, clock=3)]


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
