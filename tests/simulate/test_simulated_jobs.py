"""Simulated jobs against closed forms: throughput, waits, lags, bytes and failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from psdp.modes import CANDIDATES
from psdp.simulate.costs import Costs
from psdp.simulate.course import Course
from psdp.simulate.scenario import Prediction, job_of, predict, quantile
from psdp.simulate.world import World

STEP_S = 0.1
FREE = Costs(step_s=(STEP_S,), latency_s=0.0, server_message_s=0.0, worker_message_s=0.0)
SIZE = 1 << 20
"""Parameters, of four bytes each."""


def simulated(workers: int, costs: Costs = FREE, **settings: Any) -> Prediction:
    settings = {"max_steps": 100, "seed": 1} | settings
    return predict(job_of(settings, workers, SIZE), costs)


def course(workers: int, costs: Costs = FREE, **settings: Any) -> Course:
    settings = {"max_steps": 100, "seed": 1} | settings
    return World(job_of(settings, workers, SIZE), costs).run()


def period_s(prediction: Prediction) -> float:
    return 1 / prediction.steps_per_s


TRANSFER_S = 0.02
"""Of a whole vector, at the speed below."""
LINK = {"link_mbps": 4 * SIZE / TRANSFER_S * 8 / 1e6}


# Equal workers


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_a_synchronous_step_is_a_step_and_an_exchange(workers: int) -> None:
    costs = Costs(
        step_s=(STEP_S,),
        latency_s=3e-3,
        worker_message_s=2e-3,
        server_message_s=0.0,
        apply_s=5e-3,
        average_s=1e-3,
    )
    average_s = 1e-3 * workers if workers > 1 else 0.0
    prediction = simulated(workers, costs)
    exchange_s = 2 * 2e-3 + 2 * 3e-3 + average_s + 5e-3
    assert period_s(prediction) == pytest.approx(STEP_S + exchange_s)
    assert prediction.tokens_per_s == pytest.approx(
        workers * 12 * 64 / (STEP_S + exchange_s)  # the default batch and block
    )
    # The first pull is all waiting too.
    assert prediction.waiting == pytest.approx(exchange_s / (STEP_S + exchange_s), abs=0.01)
    assert (prediction.lag_mean, prediction.max_clock_gap) == (0, 0)


def test_a_server_answers_one_after_the_other() -> None:
    costs = Costs(
        step_s=(STEP_S,), latency_s=0.0, worker_message_s=0.0, server_message_s=1e-3, apply_s=2e-3
    )
    # W answers; the last worker's step; its push alone, as those before it were taken meanwhile.
    assert period_s(simulated(16, costs)) == pytest.approx(16e-3 + STEP_S + 1e-3 + 2e-3)


def test_the_server_is_the_limit_of_async() -> None:
    costs = Costs(
        step_s=(STEP_S,), latency_s=0.0, worker_message_s=0.0, server_message_s=1e-3, apply_s=3e-3
    )
    below = simulated(10, costs, mode="async")
    assert period_s(below) == pytest.approx(STEP_S + 5e-3, rel=0.02)
    assert below.lag_mean == pytest.approx(9, abs=0.2), "one version of each other worker"
    beyond = simulated(60, costs, mode="async")
    assert beyond.steps_per_s * 60 == pytest.approx(1 / 5e-3, rel=0.02)


def test_local_steps_divide_the_bytes_and_the_exchanges() -> None:
    costs = Costs(step_s=(STEP_S,), latency_s=20e-3, worker_message_s=0.0, server_message_s=0.0)
    every = simulated(4, costs, max_steps=96)
    eighth = simulated(4, costs, max_steps=96, mode="local", local_steps=8)
    assert period_s(every) == pytest.approx(STEP_S + 40e-3)
    assert period_s(eighth) == pytest.approx(STEP_S + 40e-3 / 8)
    assert every.pushed_bytes_per_step == 4 * 4 * SIZE
    assert eighth.pushed_bytes_per_step == 4 * 4 * SIZE / 8
    assert every.pulled_bytes_per_step == 4 * 4 * SIZE
    assert eighth.pulled_bytes_per_step == 4 * 4 * SIZE / 8


def test_overlap_hides_the_shorter_of_step_and_exchange() -> None:
    costs = Costs(step_s=(STEP_S,), latency_s=20e-3, worker_message_s=0.0, server_message_s=0.0)
    assert period_s(simulated(4, costs, overlap=True)) == pytest.approx(STEP_S)
    slow = Costs(step_s=(STEP_S,), latency_s=0.2, worker_message_s=0.0, server_message_s=0.0)
    for mode in ("sync", "async"):
        prediction = simulated(4, slow, mode=mode, overlap=True)
        assert period_s(prediction) == pytest.approx(0.4, rel=0.01)
        assert prediction.computing == pytest.approx(1 / 4, abs=0.01)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_allreduce_is_the_slowest_step_a_ring_and_an_update(workers: int) -> None:
    costs = Costs(step_s=(STEP_S,), latency_s=1e-3, apply_s=5e-3)
    prediction = simulated(workers, costs, mode="allreduce", straggler="1:2", **LINK)
    ring_s = 2 * (workers - 1) * (TRANSFER_S / workers + 1e-3)
    assert period_s(prediction) == pytest.approx(2 * STEP_S + ring_s + 5e-3)
    each = 2 * 4 * SIZE * (workers - 1) / workers
    assert prediction.pushed_bytes_per_step == pytest.approx(workers * each)


# Unequal workers


def test_one_straggler_slows_sync_to_itself_and_async_by_its_share() -> None:
    slow = {"straggler": "5:4"}
    assert period_s(simulated(8, **slow)) == pytest.approx(4 * STEP_S)
    free = simulated(8, mode="async", **slow)
    assert free.steps_per_s * 8 == pytest.approx((7 + 1 / 4) / STEP_S, rel=0.02)


@pytest.mark.parametrize("staleness", [0, 1, 5])
def test_ssp_keeps_its_bound_and_falls_back_to_the_straggler(staleness: int) -> None:
    prediction = simulated(8, mode="ssp", staleness=staleness, straggler="5:4", max_steps=200)
    assert prediction.max_clock_gap == staleness
    assert period_s(prediction) == pytest.approx(4 * STEP_S, rel=0.03)


def test_backup_workers_leave_the_straggler_out_and_drop_what_it_sends() -> None:
    prediction = simulated(8, backup_workers=1, straggler="5:4", max_steps=200)
    assert period_s(prediction) == pytest.approx(STEP_S, rel=0.01)
    assert prediction.dropped == pytest.approx(200 / 4, abs=1)


def test_a_synchronous_step_takes_the_expected_maximum_of_jittered_ones() -> None:
    p, factor, workers = 0.1, 3.0, 6
    jitter = f"bernoulli:{p}:{factor:g}"
    sync = simulated(workers, jitter=jitter, max_steps=2000)
    slow = 1 - (1 - p) ** workers
    assert period_s(sync) == pytest.approx(STEP_S * (1 + (factor - 1) * slow), rel=0.03)
    free = simulated(workers, jitter=jitter, max_steps=2000, mode="async")
    assert period_s(free) == pytest.approx(STEP_S * (1 + (factor - 1) * p), rel=0.03)


def test_steps_are_drawn_from_their_sample() -> None:
    costs = Costs(step_s=(0.1, 0.3), latency_s=0.0, server_message_s=0.0, worker_message_s=0.0)
    prediction = simulated(2, costs, max_steps=2000)
    assert period_s(prediction) == pytest.approx(0.1 * 1 / 4 + 0.3 * 3 / 4, rel=0.03)


# Ports


@pytest.mark.parametrize("servers", [1, 2, 4])
@pytest.mark.parametrize("workers", [2, 8, 64])
def test_a_servers_port_carries_the_vectors_of_all_workers(workers: int, servers: int) -> None:
    # Of each server a K-th of every vector but the last leaves first; that one takes its worker's
    # port its whole time, as its push does.
    prediction = simulated(workers, servers=servers, **LINK)
    others_s = (workers - 1) * TRANSFER_S / servers
    assert period_s(prediction) == pytest.approx(STEP_S + others_s + 2 * TRANSFER_S)


@pytest.mark.parametrize("servers", [1, 2])
def test_pushes_in_bfloat16_take_half_their_bytes_and_time(servers: int) -> None:
    prediction = simulated(1, servers=servers, wire_dtype="bf16", **LINK)
    # The first server answers while the last shard is still on its way.
    exchange_s = (1 / 2 / servers + 1) * TRANSFER_S
    assert period_s(prediction) == pytest.approx(STEP_S + exchange_s)
    assert prediction.pushed_bytes_per_step == 2 * SIZE
    assert prediction.pulled_bytes_per_step == 4 * SIZE
    copied = replace(FREE, push_s_per_byte=1e-6, pull_s_per_byte=1e-6)
    assert period_s(simulated(1, copied, wire_dtype="bf16")) == pytest.approx(
        STEP_S + (2 + 4) * SIZE * 1e-6
    )


@pytest.mark.parametrize("servers", [1, 2])
def test_async_ends_where_the_servers_ports_are_full(servers: int) -> None:
    most = servers / TRANSFER_S
    full = int(most * (STEP_S + 2 * TRANSFER_S))
    prediction = simulated(3 * full, servers=servers, mode="async", **LINK)
    assert prediction.steps_per_s * 3 * full == pytest.approx(most, rel=0.02)
    few = full // 2
    prediction = simulated(few, servers=servers, mode="async", **LINK)
    # The first server answers while the last shard is still on its way.
    exchange_s = (1 + 1 / servers) * TRANSFER_S
    assert period_s(prediction) == pytest.approx(STEP_S + exchange_s, rel=0.03)


def test_servers_share_an_update_and_tell_each_other_their_norms() -> None:
    costs = Costs(
        step_s=(STEP_S,),
        latency_s=1e-3,
        worker_message_s=0.0,
        server_message_s=0.0,
        apply_s=8e-3,
        average_s=4e-3,
    )
    # Rank 0's word to the others, averages, norms, updates, answers, pushes.
    words_s, work_s = 2 * 1e-3, (2 * 4e-3 + 8e-3) / 4
    assert period_s(simulated(2, costs, servers=4)) == pytest.approx(
        STEP_S + 2 * 1e-3 + words_s + work_s
    )
    alone = simulated(2, costs, mode="async", servers=4)
    assert alone.steps_per_s > 0
    assert alone.lag_mean == pytest.approx(1, abs=0.05)


# Cores


def test_cores_that_are_too_few_are_shared() -> None:
    costs = Costs(
        step_s=(STEP_S,), latency_s=0.0, server_message_s=0.0, worker_message_s=0.0, cores=2
    )
    assert period_s(simulated(8, costs)) == pytest.approx(4 * STEP_S, rel=0.01)
    # All compute first, in 4 turns, then the last sleeps for 3 steps.
    sleeping = simulated(8, costs, jitter="uniform:4:4")
    assert period_s(sleeping) == pytest.approx((4 + 3) * STEP_S, rel=0.01)
    # Those that do not wait for one another fill the cores.
    free = simulated(8, costs, jitter="uniform:4:4", mode="async")
    assert free.steps_per_s * 8 == pytest.approx(2 / STEP_S, rel=0.05)


# Failures


def test_a_job_goes_on_with_those_that_are_left_and_does_its_budget() -> None:
    costs = Costs(step_s=(STEP_S,), mtbf_s=20.0)
    for mode in ({"mode": "sync"}, {"mode": "async"}, {"mode": "ssp", "staleness": 2}):
        result = course(10, costs, max_steps=40, **mode)
        assert result.drained
        assert result.gradients == 400
        assert 1 <= result.failures < 10


def test_workers_are_away_for_as_long_as_they_take_to_come_back() -> None:
    costs = Costs(step_s=(STEP_S,), latency_s=0.0, mtbf_s=6.0, restart_s=2.0)
    prediction = simulated(20, costs, max_steps=600, mode="async")
    assert prediction.drained
    assert prediction.away == pytest.approx(2 / (6 + 2), rel=0.1)
    # Of a failure's step, half is lost on average.
    alive = 1 - prediction.away
    lost = STEP_S / 2 / 6
    assert prediction.steps_per_s == pytest.approx(alive * (1 - lost) / STEP_S, rel=0.05)


def test_without_workers_a_job_does_not_end() -> None:
    result = course(3, Costs(step_s=(STEP_S,), mtbf_s=1.0))
    assert not result.drained
    assert result.failures == 3
    assert result.gradients < 300


def test_workers_that_never_finish_a_step_are_given_up() -> None:
    costs = Costs(step_s=(STEP_S,), mtbf_s=1e-5, restart_s=1e-5)
    result = course(2, costs, max_steps=2)
    assert not result.drained
    assert result.gradients == 0
    assert result.failures == 10 * (4 + 2) + 1


# Repetition


def test_the_same_seed_is_the_same_run_and_another_is_not() -> None:
    costs = Costs(step_s=(0.1, 0.11, 0.14), mtbf_s=30.0, restart_s=1.0)
    settings = {"mode": "ssp", "staleness": 2, "jitter": "exponential:0.5"}
    first, second = (course(5, costs, **settings) for _ in range(2))
    assert first == second
    assert course(5, costs, **settings, seed=2).updates != first.updates


def test_batches_that_are_dealt_out_are_the_policys_affair() -> None:
    result = course(4, mode="async", balance="dynamic", straggler="2:3")
    assert result.gradients == 400


def test_quantiles_of_counts() -> None:
    assert quantile({}, 0.95) == 0
    assert quantile({0: 94, 7: 5, 9: 1}, 0.95) == 7
    assert quantile({0: 95, 7: 4, 9: 1}, 0.95) == 0
    assert quantile({3: 1}, 0.95) == 3


# Handicaps in time


def test_a_straggler_for_some_of_its_steps_costs_these_alone() -> None:
    assert course(2, straggler="2:4@20-60").virtual_s == pytest.approx((100 + 3 * 40) * STEP_S)
    assert course(2, straggler="2:4@60-").virtual_s == pytest.approx((100 + 3 * 40) * STEP_S)
    assert course(2, straggler="none", jitter="none").virtual_s == pytest.approx(100 * STEP_S)


def test_a_straggler_for_some_seconds_slows_the_steps_that_begin_in_them() -> None:
    # From 2 s on ten steps of 0.4 s, and a hundred less these of 0.1 s.
    during = course(2, straggler="1:4@1.95s-5.95s").virtual_s
    assert during == pytest.approx(100 * STEP_S + 10 * 3 * STEP_S)


@pytest.mark.parametrize("mode", ["sync", "allreduce"])
def test_a_link_that_worsens_costs_what_it_is_worse(mode: str) -> None:
    """An exchange takes so much longer from half of the steps on."""
    free_s = course(2, mode=mode, **LINK).virtual_s
    period_s = free_s / 100
    half_s = free_s / 2 - STEP_S / 2
    worse_s = course(2, mode=mode, slow_link=f"5@{half_s:.4f}s-", **LINK).virtual_s
    exchange_s = period_s - STEP_S
    assert worse_s == pytest.approx(free_s + 50 * 4 * exchange_s, rel=0.01)


# A mode that chooses


@pytest.mark.parametrize(
    "settings", [{"straggler": "4:4"}, {"jitter": "bernoulli:0.1:4"}, LINK], ids=str
)
def test_a_mode_that_chooses_comes_to_what_it_has_forecast(settings: dict[str, Any]) -> None:
    long = settings | {"mode": "auto", "max_steps": 400}
    (change,) = course(4, replace(FREE, apply_s=1e-3), **long).changes
    forecast = {one.mode: one.gradients_per_s for one in change.choice.compared}
    chosen = course(4, replace(FREE, apply_s=1e-3), **long)
    done = [own for own in chosen.updates if own[0] > 2 * change.time_s]
    per_s = (done[-1][1] - done[0][1]) / (done[-1][0] - done[0][0])
    assert per_s == pytest.approx(forecast[change.choice.mode], rel=0.2)
    assert per_s > 1.3 * forecast["sync"]


@pytest.mark.parametrize("settings", [{}, LINK], ids=str)
def test_what_is_forecast_is_what_each_mode_does(settings: dict[str, Any]) -> None:
    (change, *_) = course(4, replace(FREE, apply_s=1e-3), mode="auto", **settings).changes
    for told in change.choice.compared:
        one = CANDIDATES[told.mode]
        own = {name: 16 for name in one.mode.settings if name == "local_steps"}
        merge = {} if one.merge is None else {"merge": one.merge}
        long = settings | own | merge | {"mode": one.mode.name, "max_steps": 400}
        made = simulated(4, replace(FREE, apply_s=1e-3), **long)
        assert 4 * made.steps_per_s == pytest.approx(told.gradients_per_s, rel=0.2), told


def test_failures_do_not_keep_a_mode_from_choosing() -> None:
    costs = replace(FREE, mtbf_s=20.0, restart_s=1.0)
    made = course(4, costs, mode="auto", straggler="4:4", max_steps=200)
    assert made.failures
    assert made.changes
    assert made.gradients == 800
