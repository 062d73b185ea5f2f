"""Flags of a simulation's own: what is varied, and what everything costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from psdp.arguments import Parser, whole
from psdp.config import either, settings
from psdp.modes import MODES, ONLY_WITH
from psdp.simulate.costs import Costs

USUAL_STEPS = 50
"""Steps that are simulated, unless --max-steps says otherwise."""

VARIED = ("mode", "servers", "local_steps", "staleness")
"""Settings of which several values may be given."""

OF_SIZE = {field.name for topic, field in settings() if topic == "model"} | {"vocab_size"}
OF_SIZE -= {"block_size", "dropout", "init", "zero_init", "norm_eps", "logit_softcap"}
OF_SIZE -= {"rope_theta", "rotary_dims", "parallel_residual"}
"""A worker's settings that say how many parameters there are; the number of heads, since the width
is to be a multiple of it."""

MEANT = OF_SIZE | {
    *("mode", "local_steps", "merge", "staleness", "backup_workers", "overlap"),
    *("straggler", "jitter", "link_mbps", "slow_link"),
    *("servers", "max_steps", "block_size", "batch_size", "grad_accum"),
    *("seed", "dtype", "wire_dtype"),
}
"""Those that bear on how fast a job is. The others have no meaning here."""

COSTS: dict[str, tuple[float, str, str]] = {
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

_NAMED = {
    **{
        name: (flag.removeprefix("--").replace("-", "_"), unit)
        for name, (unit, flag, _) in COSTS.items()
    },
    **{name: (name, 1) for name in ("cores", "hosts")},
}
"""By field of the costs: the name of the flag, as a setting's, and its unit."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of what is the simulation's own."""
    parser = Parser(
        prog="python -m psdp.simulate",
        usage="%(prog)s [--workers W,...] [--mode MODE,...] [costs] [worker flags]",
        description="Predict how jobs go: the modes' own decisions under a virtual clock, with "
        "costs in place of work. Lists, separated by commas, make a row for every combination.",
        epilog="Of a job's flags, see python -m psdp.worker --help, those are taken that bear on "
        "how fast it is: the size of the model and of a batch, --max-steps (default "
        f"{USUAL_STEPS}), --link-mbps (of each rank's network port, both ways; 0: one host), "
        "--merge, --backup-workers, --overlap, --wire-dtype, --straggler, --jitter (slept, beside "
        "the processor time of a step) and --seed. Example: python -m psdp.simulate --workers "
        f"8,64,512 --mode {','.join(MODES)} --step-ms 50 --latency-us 20 --link-mbps 10000 "
        "--apply-ms 1 --jitter exponential:0.1",
    )
    grid = parser.add_argument_group("what is varied")
    counts = _list_of(whole_from(1))
    grid.add_argument("--workers", type=counts, metavar="W,...", help="default 4")
    grid.add_argument("--mode", type=_list_of(_mode), metavar="MODE,...", help=", ".join(MODES))
    grid.add_argument("--servers", type=counts, metavar="K,...", help="default 1")
    grid.add_argument("--local-steps", type=counts, metavar="H,...", help=_of_modes("local_steps"))
    grid.add_argument(
        "--staleness", type=_list_of(whole_from(0)), metavar="S,...", help=_of_modes("staleness")
    )
    costs = add_costs(parser, "and take the settings of the first; flags win over both")
    costs.add_argument("--parameters", type=whole_from(1), metavar="N", help="default: the model's")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser


def add_costs(
    parser: argparse.ArgumentParser, calibrated: str, left_out: Collection[str] = ()
) -> argparse._ArgumentGroup:
    """Add the flags of costs to a parser; return their group.

    Args:
        calibrated: what ``--calibrate`` does beside fitting costs.
        left_out: costs that have no flag there.
    """
    costs = parser.add_argument_group("costs")
    costs.add_argument(
        "--calibrate",
        nargs="+",
        metavar="RUN",
        help="fit the costs from these folders of runs of the same steps that were made with "
        f"--record, {calibrated}",
    )
    for name, (_, flag, text) in COSTS.items():
        if name not in left_out:
            costs.add_argument(flag, dest=name, type=_seconds, metavar="X", help=text)
    costs.add_argument(
        "--cores",
        type=whole_from(1),
        metavar="C",
        help="of a host, shared by its ranks (default: one for each rank)",
    )
    costs.add_argument(
        "--hosts",
        type=whole_from(1),
        metavar="H",
        help="filled with ranks one after the other (default 1)",
    )
    return costs


def costs_given(own: argparse.Namespace) -> dict[str, Any]:
    """Return the costs that were said, ``{field name: value}``."""
    said = {name: getattr(own, name, None) for name in _NAMED}
    return {name: value * _NAMED[name][1] for name, value in said.items() if value is not None}


def by_flag(costs: Costs) -> dict[str, float | None]:
    """Return costs by the names of their flags, in the units of these; of the times of steps the
    mean, and beside it their standard deviation."""
    values = {name: getattr(costs, name) for name in _NAMED} | {"step_s": costs.mean_step_s}
    found = {}
    for name, value in values.items():
        flag, unit = _NAMED[name]
        found[flag] = _in(unit, value)
        if name == "step_s":
            found["step_ms_std"] = _in(unit, float(np.std(costs.step_s)))
    return found


def _in(unit: float, value: float | None) -> float | None:
    # Where the unit is a flag's own, so is the number; else the last bits are those of a division.
    return value if value is None or unit == 1 else float(f"{value / unit:.12g}")


def _of_modes(setting: str) -> str:
    return f"of {either(ONLY_WITH[setting])}"


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        return list(dict.fromkeys(kind(entry) for entry in text.split(",")))

    return parse


def _mode(text: str) -> str:
    if text not in MODES:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(MODES)}, got '{text}'")
    return text


def whole_from(low: int) -> Callable[[str], int]:
    """Return what reads a whole number that is at least ``low``."""

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
