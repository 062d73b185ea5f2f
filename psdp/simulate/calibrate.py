"""Costs fitted from a recorded run.

What can be read off a record is: how much processor time steps took, and what workers and server
used beyond them. The latency of a message is what is left: it is chosen so that the simulated run
is as fast as the real one was.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from psdp.errors import ConfigError, ReplayError
from psdp.job import Job
from psdp.modes import MODES, Pushed
from psdp.protocol import Push, Work
from psdp.records.events import events_file, read_record
from psdp.records.folder import CONFIG, SUMMARY
from psdp.simulate.costs import UPDATE_VECTORS, Costs
from psdp.simulate.scenario import job_of
from psdp.simulate.world import WARM_UP, World, rate

MOST_SAMPLES = 4096
"""Step times that are kept, evenly from the whole run."""

LONGEST_LATENCY_S = 1.0
HALVINGS = 12

IDLE_SHARE = 0.01
"""What a server uses of its core to look for messages."""


@dataclass(frozen=True)
class Calibration:
    """What a recorded run says.

    Attributes:
        costs: fitted.
        settings: of the run, ``{field name: value}``.
        parameters: of its model.
        is_language: whether that is one of language, which its settings describe.
        measured, fitted: gradients/s of the run, and of its simulation.
    """

    costs: Costs
    settings: dict[str, Any]
    workers: int
    parameters: int
    is_language: bool
    measured: float
    fitted: float

    def __str__(self) -> str:
        return (
            f"fitted from {len(self.costs.step_s)} steps of a run of {self.workers} worker(s): "
            f"{self.measured:.1f} gradients/s measured, {self.fitted:.1f} simulated"
        )


@dataclass(frozen=True)
class Recorded:
    """What a run that was made with ``--record`` left."""

    config: dict[str, Any]
    summary: dict[str, Any]
    pushes: list[tuple[Push, float]]
    """Each with the seconds at which rank 0 noted it."""

    @property
    def job(self) -> Job:
        return job_of(self.config["settings"], self.config["workers"], self.config["parameters"])

    def gradients_per_s(self) -> float:
        """Return the throughput after the warm-up."""
        updates, done = [], 0
        for push, time_s in self.pushes:
            done += push.work.steps
            updates.append((time_s, done))
        return rate(updates)


def calibrate(folder: Path, costs: Costs) -> Calibration:
    """Fit the costs from a run that was made with ``--record``.

    Args:
        costs: those that a record does not tell: cores, slices, failures.

    Raises:
        ConfigError: the folder holds no such run, or one that cannot be simulated.
    """
    run = read_run(folder)
    each = len(run.pushes) // run.config["workers"]
    if each < LEAST_PUSHES:
        raise ConfigError(
            f"--calibrate {folder}: a worker pushed {each} times; at least {LEAST_PUSHES} are "
            "needed, so record a run of more steps"
        )
    job, measured = run.job, run.gradients_per_s()
    costs = _fit_latency(job, _read_off(run, job, costs), measured)
    return Calibration(
        costs=costs,
        settings=run.config["settings"],
        workers=len(job.workers),
        parameters=job.table.size,
        is_language="task" not in run.config,
        measured=measured,
        fitted=World(job, costs).run().gradients_per_s(),
    )


def read_run(folder: Path) -> Recorded:
    """Return what is left of a recorded run.

    Raises:
        ConfigError: it is none.
    """
    config, summary = (_read_json(folder, name) for name in (CONFIG, SUMMARY))
    _check_holds(folder, CONFIG, config, _OF_CONFIG)
    _check_holds(folder, SUMMARY, summary, _OF_SUMMARY)
    _check_holds(folder, f"server_cpu_s of {SUMMARY}", summary["server_cpu_s"], {"0": float})
    _check_holds(folder, f"settings of {CONFIG}", config["settings"], {"mode": str})
    path = events_file(folder, 0)
    try:
        happened = read_record(path).happened
    except OSError as error:
        raise ConfigError(
            f"--calibrate {folder}: {path.name}: {error.strerror}; it takes the folder of a run "
            "that was made with --record, from its start"
        ) from error
    except ReplayError as error:
        raise ConfigError(f"--calibrate {folder}: {error}") from error
    name = config["settings"]["mode"]
    mode = MODES.get(name)
    if mode is None:
        raise ConfigError(f"--calibrate {folder}: there is no mode {name!r} in this psdp")
    if not mode.served:
        raise ConfigError(
            f"--calibrate {folder}: in --mode {mode} servers see no gradients, so its record says "
            "nothing of their costs; record a run of another mode"
        )
    if mode.chooses:
        raise ConfigError(
            f"--calibrate {folder}: in --mode {mode} a run is now in one mode and now in another, "
            "at other costs; record a run of one mode"
        )
    if "task" in config:  # of another unit, which stands for a token here
        per_batch = {"block_size": 1, "batch_size": config["units_per_batch"]}
        config["settings"] = {**config["settings"], **per_batch}
    pushes = [(it.event, it.time_s) for it in happened if isinstance(it.event, Push)]
    return Recorded(config, summary, pushes)


LEAST_PUSHES = 10
"""Of each worker, on average."""

_OF_CONFIG = {"settings": dict, "workers": int, "parameters": int}
_OF_SUMMARY = {
    "version": int,
    "wall_s": float,
    "apply_s": float,
    "server_cpu_s": dict,
    "pull_s": dict,
    "bytes_pulled": int,
}
"""What is read of a run's files, with its type."""


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / name).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"--calibrate {folder}: {name}: {error.strerror}; name the folder of a finished run"
        ) from error
    except ValueError as error:
        raise ConfigError(f"--calibrate {folder}: {name} is not JSON: {error}") from error
    return record


def _check_holds(folder: Path, name: str, record: Any, wanted: Mapping[str, type]) -> None:
    """
    Raises:
        ConfigError: a file of a run lacks what is needed of it.
    """
    for key, kind in wanted.items():
        value = record.get(key) if isinstance(record, dict) else None
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ConfigError(
                f"--calibrate {folder}: {name} has no {key}; name the folder of a run that this "
                "psdp recorded and finished"
            )


def _read_off(run: Recorded, job: Job, costs: Costs) -> Costs:
    """Return the costs that the record shows, all but the latency."""
    summary, pushes = run.summary, run.pushes
    gradients = sum(push.work.steps for push, _ in pushes)
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
    worker_s = fmean(_exchange_s([push for push, _ in warm], inner_s)) - size * pull_s_per_byte
    samples = [push.work.busy_s for push, _ in warm]
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
