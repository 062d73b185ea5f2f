"""Costs fitted from recorded runs.

What can be read off a record is: how much processor time steps took, and what workers and server
used beyond them. The latency of a message is what is left: it is chosen so that the simulated run
is as fast as the real one was.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from psdp.config import Config, flag_of
from psdp.errors import ConfigError
from psdp.intervals import LEVEL, widened
from psdp.job import Job
from psdp.modes import Pushed
from psdp.protocol import Push, Work
from psdp.simulate.costs import UPDATE_VECTORS, Costs
from psdp.simulate.course import WARM_UP
from psdp.simulate.recorded import Recorded, read_run
from psdp.simulate.world import World

MOST_SAMPLES = 4096
"""Step times that are kept, evenly from the whole run."""

_FITTED = (
    *("latency_s", "server_message_s", "worker_message_s"),
    *("pull_s_per_byte", "apply_s", "average_s"),
)
"""Costs that a run tells, besides the times of its steps."""

LEAST_PUSHES = 10
"""Of each worker, on average."""

LONGEST_LATENCY_S = 1.0
HALVINGS = 12

IDLE_SHARE = 0.01
"""What a server uses of its core to look for messages."""


SHAPE = {"n_layer", "n_head", "n_embd", "block_size", "batch_size", "grad_accum", "vocab_size"}
SHAPE |= {"bias", "position", "dtype", "activation", "mlp_width", "n_kv_head", "norm", "qk_norm"}
SHAPE |= {"value_embeddings", "tied_head", "logit_softcap", "rotary_dims", "parallel_residual"}
SHAPE |= {"parameters"}
"""Settings on which the time of a step depends, and the number of parameters where one says it."""


@dataclass(frozen=True)
class Fit:
    """How well the costs fit a run: gradients/s that were measured, and that are simulated."""

    workers: int
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """By how much of what was measured the simulated throughput is too high."""
        return self.simulated / self.measured - 1


@dataclass(frozen=True)
class Calibration:
    """What recorded runs say.

    Attributes:
        costs: fitted; of several runs, the mean of what each says, with the cores and hosts of the
            first.
        folders: of the runs.
        cores: of a host, and whence that is known.
        fits: of each run.
        settings: of the first run, ``{field name: value}``.
        workers: of that.
        parameters: of its model.
        is_language: whether that is one of language, which its settings describe.
    """

    costs: Costs
    folders: Sequence[Path]
    cores: str
    fits: Sequence[Fit]
    settings: dict[str, Any]
    workers: int
    parameters: int
    is_language: bool

    def __str__(self) -> str:
        runs = "; ".join(
            f"{fit.workers} worker(s), {fit.measured:.1f} gradients/s measured, "
            f"{fit.simulated:.1f} simulated"
            for fit in self.fits
        )
        errors = [fit.error for fit in self.fits]
        trust = "give several runs to see how far other jobs may be off"
        if self.error is not None:
            trust = f"so they are off by {min(errors):+.1%} to {max(errors):+.1%}, and speeds of "
            trust += f"other jobs known to +- {widened(0.0, self.error):.1%} ({LEVEL:.0%} interval)"
        return (
            f"fitted from {len(self.costs.step_s)} steps of {len(errors)} run(s) on {self.cores}: "
            f"{runs}; {trust}"
        )

    @property
    def error(self) -> float | None:
        """By which part of them the speeds of the runs are off, root mean square; None of a single
        run, which has any speed that its costs are fitted to."""
        if len(self.fits) < 2:
            return None
        return math.sqrt(fmean(fit.error**2 for fit in self.fits))

    def check_same_steps(self, settings: Mapping[str, Any]) -> None:
        """
        Args:
            settings: of a job that is to have these costs, where they are said or not the default.

        Raises:
            ConfigError: its steps take another time than those of the runs.
        """
        recorded = {**self.settings, "parameters": self.parameters}
        remedy = "give it the same value, or say --step-ms"
        _check_same_steps("here", settings, self.folders[0], recorded, remedy)

    def record(self) -> list[dict[str, Any]]:
        """Return how well the costs fit, for JSON."""
        return [asdict(fit) | {"error": fit.error} for fit in self.fits]


def calibrate(folders: Sequence[Path], costs: Costs) -> Calibration:
    """Fit the costs from runs that were made with ``--record``.

    Args:
        costs: those that a record does not tell: slices, failures; and cores, where these are not
            to be what it says.

    Raises:
        ConfigError: a folder holds no such run, or one that cannot be simulated; or they are of
            different steps.
    """
    runs = [read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        _check_enough(folder, run)
        _check_same_steps(
            f"in {folders[0]}",
            _steps_of(runs[0]),
            folder,
            _steps_of(run),
            "runs that are fitted together are to be of the same model and batches",
        )
    hosted = [replace(costs, hosts=run.hosts, cores=costs.cores or run.cores) for run in runs]
    measured = [run.gradients_per_s() for run in runs]
    own = [
        _fit_latency(run.job, _read_off(run, run.job, there), speed)
        for run, there, speed in zip(runs, hosted, measured, strict=True)
    ]
    fitted = _mean(own)
    fits = [
        Fit(
            len(run.job.workers),
            speed,
            _simulated(run.job, replace(fitted, hosts=there.hosts, cores=there.cores)),
        )
        for run, there, speed in zip(runs, hosted, measured, strict=True)
    ]
    first = runs[0]
    return Calibration(
        costs=fitted,
        folders=folders,
        cores=_cores(
            [there.cores for there in hosted], "recorded" if costs.cores is None else "said"
        ),
        fits=fits,
        settings=first.config["settings"],
        workers=len(first.job.workers),
        parameters=first.job.table.size,
        is_language="task" not in first.config,
    )


def _simulated(job: Job, costs: Costs) -> float:
    return World(job, costs).run().gradients_per_s()


def _cores(of_runs: Sequence[int | None], how: str) -> str:
    """Return of how many cores of a host each run was, and how that is known."""
    if None in of_runs:
        return "cores that are not recorded, taken as one for each rank (say --cores)"
    return f"{' and '.join(map(str, dict.fromkeys(of_runs)))} core(s) of a host, as {how}"


def _mean(several: Sequence[Costs]) -> Costs:
    """Return the mean of costs, with the steps of all."""
    samples = [step_s for costs in several for step_s in costs.step_s]
    step_s = tuple(samples[:: -(-len(samples) // MOST_SAMPLES)])
    means: dict[str, Any] = {
        name: fmean(getattr(costs, name) for costs in several) for name in _FITTED
    }
    return replace(several[0], step_s=step_s, **means)


def _check_enough(folder: Path, run: Recorded) -> None:
    """
    Raises:
        ConfigError: the run is too short.
    """
    each = len(run.pushes) // run.config["workers"]
    if each < LEAST_PUSHES:
        raise ConfigError(
            f"--calibrate {folder}: a worker pushed {each} times; at least {LEAST_PUSHES} are "
            "needed, so record a run of more steps"
        )


def _steps_of(run: Recorded) -> dict[str, Any]:
    """Return the settings of a run with what its steps depend on besides."""
    return {**run.config["settings"], "parameters": run.config["parameters"]}


def _check_same_steps(
    where: str,
    settings: Mapping[str, Any],
    folder: Path,
    recorded: Mapping[str, Any],
    remedy: str,
) -> None:
    """
    Raises:
        ConfigError: steps of some settings take another time than those of a recorded run, since
            they are not of the same shape.
    """
    usual = Config().flat()
    here, there = usual | dict(settings), usual | dict(recorded)
    for name in sorted(SHAPE):
        if name in here and here[name] != there[name]:
            raise ConfigError(
                f"--calibrate {folder}: {flag_of(name)} is {there[name]} there, and {here[name]} "
                f"{where}, where steps take another time; {remedy}"
            )


def _read_off(run: Recorded, job: Job, costs: Costs) -> Costs:
    """Return the costs that the record shows, all but the latency."""
    summary, pushes = run.summary, run.pushes
    gradients = sum(push.work.steps for push in pushes)
    mode = job.config.mode
    averages = mode.in_rounds and Pushed.GRADIENT in mode.pushes
    averaged = gradients if averages else 0
    # Averaging reads a vector for each gradient, where an update touches several.
    apply_s = summary["apply_s"] / (summary["version"] + averaged / UPDATE_VECTORS)
    server_s = summary["server_cpu_s"]["0"] - summary["apply_s"] - IDLE_SHARE * summary["wall_s"]
    pull_s_per_byte = sum(summary["pull_s"].values()) / summary["bytes_pulled"]
    size = summary["bytes_pulled"] / (len(pushes) + len(job.workers))
    inner_s = apply_s if mode.own_optimizer else 0.0
    # First steps touch their memory for the first time, and throughput does not count them either.
    warm = pushes[int(WARM_UP * len(pushes)) :]
    worker_s = fmean(_exchange_s(warm, inner_s)) - size * pull_s_per_byte
    samples = [push.work.busy_s for push in warm]
    return replace(
        costs,
        step_s=tuple(samples[:: -(-len(samples) // MOST_SAMPLES)]),
        server_message_s=max(0.0, server_s / len(pushes) / 2),
        worker_message_s=max(0.0, worker_s / 2),
        pull_s_per_byte=pull_s_per_byte,
        apply_s=apply_s,
        average_s=apply_s / UPDATE_VECTORS,
    )


def _exchange_s(pushes: list[Push], inner_s: float) -> list[float]:
    """Return the processor seconds that each worker used for an exchange, its steps apart."""
    by_worker: defaultdict[int, list[Work]] = defaultdict(list)
    for push in pushes:
        by_worker[push.worker].append(push.work)
    means = []
    for own in by_worker.values():
        if len(own) > 1:
            steps_s = sum((work.busy_s + inner_s) * work.steps for work in own[1:])
            all_s = own[-1].cpu_s - own[0].cpu_s
            means.append((all_s - steps_s) / (len(own) - 1))
    return means


def _fit_latency(job: Job, costs: Costs, measured: float) -> Costs:
    """Return the costs with the latency at which the simulated run is as fast as the real one."""
    low_s, high_s = 0.0, LONGEST_LATENCY_S
    if World(job, replace(costs, latency_s=low_s)).run().gradients_per_s() <= measured:
        return replace(costs, latency_s=low_s)
    for _ in range(HALVINGS):
        # By ratio, since latencies are between microseconds and a second.
        middle_s = (max(low_s, 1e-6) * high_s) ** 0.5
        if World(job, replace(costs, latency_s=middle_s)).run().gradients_per_s() > measured:
            low_s = middle_s
        else:
            high_s = middle_s
    return replace(costs, latency_s=(low_s + high_s) / 2)
