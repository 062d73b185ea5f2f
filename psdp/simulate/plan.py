"""What a command line of ``psdp.simulate`` asks for: which jobs, at what costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psdp.cli import given_settings
from psdp.config import Config, either, flag_of, with_preset
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.modes import MODES, ONLY_WITH
from psdp.simulate.calibrate import SHAPE, Calibration, calibrate
from psdp.simulate.costs import Costs, usual_apply_s, usual_average_s
from psdp.simulate.options import (
    MEANT,
    OF_SIZE,
    USUAL_STEPS,
    VARIED,
    build_parser,
    costs_given,
)
from psdp.simulate.scenario import job_of
from psdp.simulate.world import survives
from psdp.terminal import path_of


@dataclass(frozen=True)
class Plan:
    """What the command line asks for.

    Attributes:
        settings: of the job, as far as they are the same in every row.
        parameters: of the model, if they are not to be those of the settings.
        size: the number of parameters.
        grid: values of each setting of which every combination is a row.
    """

    settings: dict[str, Any]
    grid: dict[str, list[Any]]
    workers: list[int]
    parameters: int | None
    size: int
    costs: Costs
    calibration: Calibration | None
    json: Path | None

    def jobs(self) -> Iterator[Job]:
        """Yield the job of each row.

        Raises:
            ConfigError: a combination cannot be.
        """
        for settings in combinations(self.settings, self.grid):
            for workers in self.workers:
                job = job_of(settings, workers, self.parameters)
                if self.costs.mtbf_s is not None and not survives(job):
                    ends = either([mode.name for mode in MODES.values() if not mode.survives_loss])
                    raise ConfigError(
                        f"--mtbf-s needs --servers 1 and another mode than {ends}, got --servers "
                        f"{len(job.servers)} --mode {job.config.run.mode}: such a job ends with "
                        "the first worker that it loses"
                    )
                yield job


def combinations(settings: dict[str, Any], grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the settings of each row. What has no meaning in a mode does not multiply its rows.

    Raises:
        ConfigError: a setting has a meaning in none of the modes.
    """
    modes = grid["mode"]
    for name in (grid.keys() | settings.keys()) & ONLY_WITH.keys():
        if not set(modes) & set(ONLY_WITH[name]):
            only = either(ONLY_WITH[name])
            raise ConfigError(
                f"{flag_of(name)} has a meaning with --mode {only} only, got {','.join(modes)}"
            )
    for mode in modes:

        def meant(name: str, mode: str = mode) -> bool:
            return mode in ONLY_WITH.get(name, MODES)

        common = {name: value for name, value in settings.items() if meant(name)}
        varied = {name: values for name, values in grid.items() if name != "mode" and meant(name)}
        for values in itertools.product(*varied.values()):
            yield common | {"mode": mode} | dict(zip(varied, values, strict=True))


def parse(argv: Sequence[str]) -> Plan:
    """Return what the command line asks for, all of which can be.

    Raises:
        ConfigError: a flag is unknown, means nothing here, or its value is impossible.
        SystemExit: ``--help``.
    """
    own, flags = build_parser().parse_known_args(argv)
    settings = given_settings(flags)
    moot = [flag_of(name) for name in settings if name not in MEANT]
    if moot:
        raise ConfigError(f"in a simulation {', '.join(moot)} would change nothing; drop it")
    sizes = [flag_of(name) for name in settings if name in OF_SIZE]
    if own.parameters is not None and sizes:
        raise ConfigError(
            f"beside --parameters {own.parameters}, {', '.join(sizes)} would change nothing; drop "
            "one of the two"
        )
    grid = {name: getattr(own, name) for name in VARIED if getattr(own, name) is not None}
    costs = costs_given(own)
    if "restart_s" in costs and "mtbf_s" not in costs:
        raise ConfigError("--restart-s says when workers that failed are back: give --mtbf-s too")
    workers, parameters, calibration = own.workers or [4], own.parameters, None
    if own.calibrate is not None:
        calibration = calibrated(own.calibrate, costs)
        if "step_s" not in costs:
            said = with_preset(settings)
            said |= {} if parameters is None else {"parameters": parameters}
            calibration.check_same_steps({**calibration.settings, **said})
        settings, grid = _of_run(calibration.settings, settings, grid)
        workers = own.workers or [calibration.workers]
        if not (calibration.is_language and SHAPE & settings.keys()):
            parameters = parameters or calibration.parameters
    settings = {"max_steps": USUAL_STEPS} | settings
    grid = {"mode": [Config().run.mode]} | grid
    first = next(combinations(settings, grid))
    size = job_of(first, workers[0], parameters).table.size
    plan = Plan(
        settings=settings,
        grid=grid,
        workers=workers,
        parameters=parameters,
        size=size,
        costs=costs_of(costs, size, calibration),
        calibration=calibration,
        json=None if own.json is None else path_of(own.json, "--json"),
    )
    for _ in plan.jobs():
        pass  # before the first of them takes its minutes
    if plan.json is not None:
        _see_if_writable(plan.json)
    return plan


def _see_if_writable(path: Path) -> None:
    """
    Raises:
        ConfigError: the results could not be written there.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}") from error


def _of_run(
    recorded: Mapping[str, Any], settings: dict[str, Any], grid: dict[str, list[Any]]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the settings and the grid that add to those of a recorded run what was said.

    Where other modes are asked for, what only the run's own mode had a use for is left out.
    """
    moot, usual = (ONLY_WITH if "mode" in grid else {}), Config().flat()
    said = {
        name: value
        for name, value in recorded.items()
        if name in MEANT and name not in moot and value != usual[name]
    }
    single = {name: [said.pop(name)] for name in VARIED if name in said}
    return said | with_preset(settings), single | grid


def calibrated(folders: Sequence[str], given: Mapping[str, Any]) -> Calibration:
    """Return what recorded runs say of costs.

    Args:
        given: costs that were said.

    Raises:
        ConfigError: one is no such run, or they are of different steps.
    """
    known = {name: given[name] for name in ("cores", "slice_s") if name in given}
    return calibrate([path_of(folder, "--calibrate") for folder in folders], Costs(**known))


def costs_of(given: Mapping[str, Any], size: int, calibration: Calibration | None) -> Costs:
    """Return the costs: as given, else as calibrated, else as usual for so many parameters."""
    if calibration is None:
        apply_s = given.get("apply_s", usual_apply_s(size))
        costs = Costs(apply_s=apply_s, average_s=usual_average_s(apply_s))
    else:
        costs, scale = calibration.costs, size / calibration.parameters
        costs = replace(costs, apply_s=costs.apply_s * scale, average_s=costs.average_s * scale)
    if "step_s" in given:
        given = {**given, "step_s": (given["step_s"],)}
    return replace(costs, **given)
