"""``python -m psdp.simulate``: how a job would go, with what costs, for each mode and size."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psdp.cli import Parser, given_settings, whole
from psdp.config import Config, either, flag_of
from psdp.config import settings as all_settings
from psdp.errors import ConfigError, PsdpError
from psdp.modes import ONLY_WITH
from psdp.simulate.calibrate import Calibration, calibrate
from psdp.simulate.costs import Costs, usual_apply_s, usual_average_s
from psdp.simulate.scenario import Prediction, job_of, predict, predict_alone
from psdp.simulate.table import table
from psdp.simulate.world import survives
from psdp.terminal import path_of, show_any_text

USUAL_STEPS = 50
"""Steps that are simulated, unless --max-steps says otherwise."""

MODES: tuple[str, ...] = tuple(
    mode
    for mode in next(f for _, f in all_settings() if f.name == "mode").metadata["choices"]
    if mode != "auto"  # it is one of the others at a time, by what is measured
)

PLACES = ("out", "resume", "replay")
"""Settings of a run that name folders; a simulation has none."""


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


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    show_any_text()
    try:
        plan = parse(sys.argv[1:] if argv is None else argv)
        print("\n".join(describe(plan)), flush=True)
        predictions = list(rows(plan))
        print(table(predictions))
        if plan.json is not None:
            _write(plan, predictions)
    except PsdpError as error:
        print(f"psdp.simulate: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def rows(plan: Plan) -> Iterator[Prediction]:
    """Simulate every combination, each as soon as the one before is done.

    Raises:
        ConfigError: a combination cannot be.
    """
    alone: dict[str, float] = {}
    for settings in combinations(plan.settings, plan.grid):
        for workers in plan.workers:
            job, costs = job_of(settings, workers, plan.parameters), plan.costs
            if costs.mtbf_s is not None and not survives(job):
                raise ConfigError(
                    f"--mtbf-s needs --servers 1 and another mode than allreduce, got --servers "
                    f"{len(job.servers)} --mode {job.config.run.mode}: such a job ends with the "
                    "first worker that it loses"
                )
            key = repr(settings)
            if key not in alone:
                alone[key] = predict_alone(settings, costs, plan.parameters)
            yield predict(job, costs, alone=alone[key])


def combinations(settings: dict[str, Any], grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the settings of each row. What has no meaning in a mode does not multiply its rows.

    Raises:
        ConfigError: a setting has a meaning in none of the modes.
    """
    modes = grid["mode"]
    for name in (grid.keys() | settings.keys()) & ONLY_WITH.keys():
        if not set(modes) & set(ONLY_WITH[name]):
            only = either([mode for mode in ONLY_WITH[name] if mode in MODES])
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


def describe(plan: Plan) -> list[str]:
    """Return lines that say what is simulated: the costs, and how well they fit."""
    costs, lines = plan.costs, []
    if plan.calibration is not None:
        fit = plan.calibration
        lines.append(
            f"fitted from {len(fit.costs.step_s)} steps of a run of {fit.workers} worker(s): "
            f"{fit.measured:.1f} gradients/s measured, {fit.fitted:.1f} simulated"
        )
    failures = ""
    if costs.mtbf_s is not None:
        back = "never" if costs.restart_s is None else f"after {costs.restart_s:g} s"
        failures = f"; a worker fails every {costs.mtbf_s:g} s and is back {back}"
    lines.append(
        f"{plan.size:,} parameters; step {1e3 * costs.mean_step_s:.4g} ms of a core, "
        f"{'unlimited' if costs.cores is None else costs.cores} cores; message "
        f"{1e6 * costs.latency_s:.4g} us, and {1e6 * costs.server_message_s:.4g} us of a server, "
        f"{1e6 * costs.worker_message_s:.4g} us of a worker; a push "
        f"{1e9 * costs.push_s_per_byte:.3g} ns/byte, a pull {1e9 * costs.pull_s_per_byte:.3g} "
        f"ns/byte; update {1e3 * costs.apply_s:.4g} ms, averaging {1e3 * costs.average_s:.4g} ms "
        f"per gradient{failures}"
    )
    return lines


def parse(argv: Sequence[str]) -> Plan:
    """Return what the command line asks for.

    Raises:
        ConfigError: a flag is unknown, or its value impossible.
        SystemExit: ``--help``.
    """
    own, flags = build_parser().parse_known_args(argv)
    settings = given_settings(flags)
    grid = {name: getattr(own, name) for name in _GRID if getattr(own, name) is not None}
    costs = {
        name: getattr(own, name) * unit
        for name, (unit, _, _) in _COSTS.items()
        if getattr(own, name) is not None
    }
    if own.cores is not None:
        costs["cores"] = own.cores
    if "restart_s" in costs and "mtbf_s" not in costs:
        raise ConfigError("--restart-s says when workers that failed are back: give --mtbf-s too")
    workers, parameters, calibration = own.workers or [4], own.parameters, None
    if own.calibrate is not None:
        known = {name: costs[name] for name in ("cores", "slice_s") if name in costs}
        calibration = calibrate(path_of(own.calibrate, "--calibrate"), Costs(**known))
        if "step_s" not in costs:
            _check_shape(settings, parameters)
        settings, grid = _of_run(calibration.settings, settings, grid)
        workers = own.workers or [calibration.workers]
        if not _SHAPE & settings.keys():
            parameters = parameters or calibration.parameters
    settings = {"max_steps": USUAL_STEPS} | settings
    grid = {"mode": ["sync"]} | grid
    first = next(combinations(settings, grid))
    size = job_of(first, workers[0], parameters).table.size
    return Plan(
        settings=settings,
        grid=grid,
        workers=workers,
        parameters=parameters,
        size=size,
        costs=_costs(costs, size, calibration),
        calibration=calibration,
        json=None if own.json is None else path_of(own.json, "--json"),
    )


def _check_shape(settings: Mapping[str, Any], parameters: int | None) -> None:
    """
    Raises:
        ConfigError: the steps of a recorded run say nothing about those of these settings.
    """
    other = [flag_of(name) for name in settings if name in _SHAPE]
    if parameters is not None:
        other.append("--parameters")
    if other:
        raise ConfigError(
            f"{other[0]} changes what a step takes, which --calibrate found for the model and the "
            "batches of its run; say --step-ms too, or drop it"
        )


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
        if name not in (*moot, *PLACES) and value != usual[name]
    }
    single = {name: [said.pop(name)] for name in _GRID if name in said}
    return said | settings, single | grid


def _costs(given: Mapping[str, Any], size: int, calibration: Calibration | None) -> Costs:
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


_SHAPE = {"n_layer", "n_head", "n_embd", "block_size", "batch_size", "grad_accum", "vocab_size"}
_SHAPE |= {"bias", "position", "dtype"}
"""Settings on which the time of a step depends."""

_GRID = ("mode", "servers", "local_steps", "staleness")

_COSTS: dict[str, tuple[float, str, str]] = {
    "step_s": (1e-3, "--step-ms", "processor time of a step (default 50)"),
    "latency_s": (1e-6, "--latency-us", "of a message (default 20)"),
    "server_message_s": (
        1e-6,
        "--server-message-us",
        "processor time of a server for a push, and again for its answer (default 20)",
    ),
    "worker_message_s": (
        1e-6,
        "--worker-message-us",
        "processor time of a worker for its push, and again for the answer (default 20)",
    ),
    "push_s_per_byte": (1e-9, "--push-ns-per-byte", "copying of a worker's push (default 0)"),
    "pull_s_per_byte": (1e-9, "--pull-ns-per-byte", "copying of a worker's pull (default 0)"),
    "apply_s": (1e-3, "--apply-ms", "an update of all parameters (default 2.8 ns each)"),
    "average_s": (
        1e-3,
        "--average-ms",
        "averaging, for each gradient of more than one (default a seventh of --apply-ms)",
    ),
    "slice_s": (1e-3, "--slice-ms", "turn of a rank on a core that others wait for (default 1.4)"),
    "mtbf_s": (1.0, "--mtbf-s", "mean seconds between two failures of a worker (default: none)"),
    "restart_s": (1.0, "--restart-s", "after which a worker that failed is back (default: never)"),
}
"""By field of the costs: the flag's unit in seconds, the flag, and what it says."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of what is the simulation's own."""
    parser = Parser(
        prog="python -m psdp.simulate",
        usage="%(prog)s [--workers W,...] [--mode MODE,...] [costs] [worker flags]",
        description="Predict how jobs go: the modes' own decisions under a virtual clock, with "
        "costs in place of work. Lists, separated by commas, make a row for every combination.",
        epilog="All other flags are those of a job, see python -m psdp.worker --help; those that "
        "matter are the size of the model and of a batch, --max-steps (default "
        f"{USUAL_STEPS}), --link-mbps (of each rank's network port, both ways; 0: one host), "
        "--merge, --backup-workers, --wire-dtype, --straggler, --jitter (slept, beside the "
        "processor time of a step) and --seed. Example: python -m psdp.simulate --workers "
        "8,64,512 --mode sync,ssp --staleness 4 --step-ms 50 --latency-us 20 --link-mbps 10000 "
        "--apply-ms 1 --jitter exponential:0.1",
        allow_abbrev=False,
    )
    grid = parser.add_argument_group("what is varied")
    whole = _list_of(_whole(1))
    grid.add_argument("--workers", type=whole, metavar="W,...", help="default 4")
    grid.add_argument("--mode", type=_list_of(_mode), metavar="MODE,...", help=", ".join(MODES))
    grid.add_argument("--servers", type=whole, metavar="K,...", help="default 1")
    grid.add_argument("--local-steps", type=whole, metavar="H,...", help="of local and easgd")
    grid.add_argument("--staleness", type=_list_of(_whole(0)), metavar="S,...", help="of ssp")
    costs = parser.add_argument_group("costs")
    costs.add_argument(
        "--calibrate",
        metavar="RUN",
        help="fit the costs from this folder of a run made with --record, and take its settings; "
        "flags win over both",
    )
    for name, (_, flag, text) in _COSTS.items():
        costs.add_argument(flag, dest=name, type=_seconds, metavar="X", help=text)
    costs.add_argument(
        "--cores", type=_whole(1), metavar="C", help="shared by all ranks (default: one each)"
    )
    costs.add_argument("--parameters", type=_whole(1), metavar="N", help="default: the model's")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        return [kind(entry) for entry in text.split(",")]

    return parse


def _mode(text: str) -> str:
    if text not in MODES:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(MODES)}, got '{text}'")
    return text


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or (number := whole(text)) < low:
            raise argparse.ArgumentTypeError(f"expected whole numbers from {low} on, got '{text}'")
        return number

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got '{text}'")
    return value


def _write(plan: Plan, predictions: Sequence[Prediction]) -> None:
    assert plan.json is not None
    record = {
        "costs": plan.costs.record(),
        "settings": plan.settings,
        "predictions": [prediction.record() for prediction in predictions],
    }
    try:
        plan.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {plan.json}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
