"""Ranks on whose work nothing bears run ahead of the clock: nobody may see that they did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from psdp.records.events import Happened
from psdp.simulate.costs import Costs
from psdp.simulate.scenario import Prediction, job_of, summarise
from psdp.simulate.world import World

SAMPLE = Costs(step_s=(0.04, 0.05, 0.07), latency_s=3e-4, apply_s=2e-3, average_s=1e-4)
EVEN = Costs(step_s=(0.05,), apply_s=1e-3)
FREE = Costs(step_s=(0.05,), latency_s=0.0, server_message_s=0.0, worker_message_s=0.0)
NEVER_S = 1e300
"""Who may fail follows the clock, even if the failure does not come while the job lasts."""


def lived(costs: Costs, settings: dict[str, Any]) -> tuple[Prediction, list[Happened]]:
    """Return what a job came to, and what happened in it."""
    seen: list[Happened] = []
    job = job_of({"max_steps": 15, "seed": 3} | settings, 9, 100_000)
    return summarise(job, costs, World(job, costs, seen.append).run()), seen


@pytest.mark.parametrize("costs", [SAMPLE, EVEN, FREE], ids=["sample", "even", "free"])
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "sync"},
        {"mode": "sync", "jitter": "exponential:0.3"},
        {"mode": "sync", "backup_workers": 2, "jitter": "exponential:0.5"},
        {"mode": "async"},
        {"mode": "async", "jitter": "exponential:0.3", "link_mbps": 1000},
        {"mode": "ssp", "staleness": 1, "straggler": "2:3@2-6"},
        {"mode": "local", "local_steps": 4, "straggler": "2:3", "balance": "dynamic"},
        {"mode": "local", "merge": "async", "jitter": "uniform:1:2"},
        {"mode": "easgd", "slow_link": "10@0.2s-0.4s", "link_mbps": 1000},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_job_is_the_same_event_by_event_and_ahead_of_the_clock(
    costs: Costs, settings: dict[str, Any]
) -> None:
    assert lived(costs, settings) == lived(replace(costs, mtbf_s=NEVER_S), settings)


@pytest.mark.parametrize("workers", [8, 64, 256])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_gradient_is_three_events_of_the_clock_however_many_workers(
    mode: str, workers: int
) -> None:
    """It leaves its worker, arrives, and is taken; before that each worker's pull does."""
    settings = {"mode": mode, "max_steps": 10, "jitter": "exponential:0.1"}
    world = World(job_of(settings, workers, 100_000), SAMPLE)
    assert world.run().gradients == 10 * workers
    assert world.clock.asked == 3 * 10 * workers + 2 * workers
