"""What is simulated: settings of a job that need no ranks, and what came of it, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psdp.cast import check_world
from psdp.config import Config
from psdp.config.handicap import parse_jitter
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.language import Language
from psdp.params import ParamSpec, ParamTable
from psdp.records.metrics import percentile
from psdp.simulate.costs import Costs
from psdp.simulate.course import Course
from psdp.simulate.worker import State
from psdp.simulate.world import World

BYTE_VOCABULARY = 256

LEFT_OUT = {"eval_every": 0, "checkpoint_every": 0, "early_stop_patience": 0}
"""Evaluations and checkpoints are not simulated."""


@dataclass(frozen=True)
class Prediction:
    """What a simulated job came to. Shares are of the workers' time, and sum to 1 with ``away``.

    Attributes:
        speed_up: over one worker that needs no server and is no straggler, whatever the mode: how
            many steps are computed in the time of one; None where ``--jitter`` has no mean.
        drained: whether the budget was spent. If not, failures ended the run.
        virtual_s: how long it took.
        changes: of a mode that chooses, when it went over to which other, and why.
        stayed: the last time that it compared modes and stayed in the last one, if it did.
    """

    mode: str
    workers: int
    servers: int
    local_steps: int | None
    staleness: int | None
    steps_per_s: float
    tokens_per_s: float
    speed_up: float | None
    computing: float
    waiting: float
    away: float
    lag_mean: float
    lag_p95: int
    lag_max: int
    max_clock_gap: int
    pushed_bytes_per_step: float
    pulled_bytes_per_step: float
    dropped: int
    failures: int
    drained: bool
    virtual_s: float
    changes: list[dict[str, Any]]
    stayed: dict[str, Any] | None

    def record(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)


def job_of(settings: Mapping[str, Any], workers: int, parameters: int | None = None) -> Job:
    """Return the job of these settings.

    Args:
        settings: ``{field name: value}`` of those that are not the default.
        parameters: of the model, if it is not that of the settings.

    Raises:
        ConfigError: they contradict one another.
    """
    config = Config.from_flat({**settings, **LEFT_OUT}).resolved()
    task = Language(config, config.data.vocab_size or BYTE_VOCABULARY)
    if parameters is not None:
        task.table = ParamTable([ParamSpec("parameters", (parameters,), decay=True)])
    ranks = config.run.servers + workers
    check_world(config, ranks)
    job = Job(config, ranks, task)
    if not all(job.shards):
        raise ConfigError(
            f"--servers {config.run.servers} leaves servers without a parameter: there are "
            f"{task.table.size:,}, in blocks of {task.table.block_size:,}; lower it"
        )
    return job


def predict(job: Job, costs: Costs) -> Prediction:
    """Simulate a job."""
    return summarise(job, costs, World(job, costs).run())


def summarise(job: Job, costs: Costs, course: Course) -> Prediction:
    """Return the numbers of a course."""
    run = job.config.run
    gradients_per_s = course.gradients_per_s()
    tokens_per_s = gradients_per_s * job.units_per_gradient
    steps = course.gradients / job.gradients_per_step
    step_s = costs.mean_step_s * parse_jitter(run.jitter).mean
    return Prediction(
        mode=run.mode,
        workers=len(job.workers),
        servers=len(job.servers),
        local_steps=run.local_steps,
        staleness=run.staleness,
        steps_per_s=gradients_per_s / job.gradients_per_step,
        tokens_per_s=tokens_per_s,
        speed_up=gradients_per_s * step_s if step_s < math.inf else None,
        computing=course.share(State.COMPUTING),
        waiting=course.share(State.WAITING),
        away=course.share(State.AWAY),
        lag_mean=course.lags.mean(),
        lag_p95=quantile(course.lags.counts, 0.95),
        lag_max=max(course.lags.counts, default=0),
        max_clock_gap=course.max_clock_gap,
        pushed_bytes_per_step=course.pushed_bytes / steps if steps else 0.0,
        pulled_bytes_per_step=course.pulled_bytes / steps if steps else 0.0,
        dropped=course.dropped,
        failures=course.failures,
        drained=course.drained,
        virtual_s=course.virtual_s,
        changes=[each.record() for each in course.changes],
        stayed=None if course.stayed is None else course.stayed.record(),
    )


def quantile(counts: Mapping[int, int], part: float) -> int:
    """Return the least value that so large a part of all values does not exceed; 0 of none."""
    return percentile(counts, part) or 0
