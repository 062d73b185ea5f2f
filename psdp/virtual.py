"""``python -m psdp.virtual``: train as a cluster would that one does not have.

First the job is simulated (:mod:`psdp.simulate`): that tells what happens at rank 0, and when. Then
all its ranks live in this process, as threads, and what they do counts in that order. So the loss
is that of a job on such a cluster, over the cluster's own seconds, and the run folder holds a
record, which a real job of as many ranks replays to the same bits.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psdp.arguments import Parser
from psdp.cli import given_settings
from psdp.config import Config, either, flag_of
from psdp.errors import ConfigError, PsdpError
from psdp.job import Job
from psdp.line import Line
from psdp.modes import MODES
from psdp.rank import Signals, live_in
from psdp.records.changes import Stayed
from psdp.records.events import Happened
from psdp.records.folder import VIRTUAL
from psdp.records.replay import Script
from psdp.simulate.calibrate import Calibration
from psdp.simulate.options import add_costs, by_flag, costs_given, whole_from
from psdp.simulate.plan import calibrated, costs_of
from psdp.simulate.world import World
from psdp.startup.program import LANGUAGE
from psdp.terminal import show_any_text
from psdp.transport.in_memory_world import InMemoryWorlds

LONGEST_S = 1e8
"""How long such a job may take here."""

FAILURES = "mtbf_s", "restart_s"
"""Costs that have no place here: all workers stay to the end."""

WITHOUT = {
    "resume": "it begins at the beginning",
    "replay": "a simulation says what happens when",
    "standby": "no rank is lost",
    "spares": "no rank is lost",
    "max_failures": "no rank is lost",
    "checkpoint_to": "it is on one machine",
    "early_stop_patience": "a simulation says when it ends, and knows no loss",
    "device": "it computes on cores",
    "server_device": "it computes on cores",
    "transport": "its ranks are threads",
}
"""Settings of a job that cannot be here, and why."""


@dataclass(frozen=True)
class Cluster:
    """What everything takes where a virtual job is.

    Attributes:
        said: costs that were said, by field.
        calibration: what recorded runs say of the others.
    """

    said: Mapping[str, Any]
    calibration: Calibration | None = None

    def record(self, parameters: int) -> dict[str, Any]:
        """Return the costs of a job of so many parameters, for config.json, and which runs they are
        fitted from, and by which part they are off there."""
        costs: dict[str, Any] = by_flag(costs_of(self.said, parameters, self.calibration))
        costs = {name: value for name, value in costs.items() if name not in FAILURES}
        if self.calibration is not None:
            costs["calibrate"] = [str(folder) for folder in self.calibration.folders]
            costs["calibrate_error"] = self.calibration.error
        return costs

    def script(self, job: Job) -> Script:
        """Return what happens in a job, and when, in virtual seconds; say at what costs."""
        costs = costs_of(self.said, job.table.size, self.calibration)
        if self.calibration is not None:
            print(self.calibration, file=sys.stderr)
        print(f"virtual time: {costs}", file=sys.stderr, flush=True)
        happened: list[Happened] = []
        stayed = World(job, costs, happened.append).run().stayed
        return Script(
            happened,
            "the simulation",
            range(1, len(happened) + 1),
            None if stayed is None else Stayed(stayed.version, stayed.choice),
        )


@dataclass(frozen=True)
class Plan:
    """What a command line asks for: a job of these settings on a cluster."""

    given: dict[str, Any]
    workers: int
    cluster: Cluster

    @property
    def ranks(self) -> int:
        return Config.from_flat(self.given).run.servers + self.workers


def parse(argv: Sequence[str]) -> Plan:
    """Return what a command line asks for.

    Raises:
        ConfigError: a flag is unknown, or its value impossible here.
        SystemExit: ``--help``.
    """
    own, flags = build_parser().parse_known_args(argv)
    given, costs = given_settings(flags), costs_given(own)
    check(given, own.workers)
    calibration = None
    if own.calibrate is not None:
        calibration = calibrated(own.calibrate, costs)
        if "step_s" not in costs:
            calibration.check_same_steps(given)
    return Plan(given | {"record": True}, own.workers, Cluster(costs, calibration))


def check(given: Mapping[str, Any], workers: int) -> None:
    """
    Raises:
        ConfigError: no virtual job of so many workers can have these settings.
    """
    for name, why in WITHOUT.items():
        if name in given:
            raise ConfigError(f"{flag_of(name)} does not go with a virtual job: {why}; drop it")
    virtual = given.get("virtual_workers")
    if virtual not in (None, workers):
        raise ConfigError(
            f"--virtual-workers {virtual} does not go with a virtual job of {workers} worker(s), "
            f"each of which has a rank of its own; drop it, or say --workers {virtual}"
        )
    mode = MODES[Config.from_flat(given).run.mode]
    if not mode.served:
        known = [one.name for one in MODES.values() if one.served]
        raise ConfigError(f"a virtual job needs --mode {either(known)}, got {mode.name}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of what is a virtual job's own."""
    mode = next(one for one in MODES.values() if one.chooses)
    parser = Parser(
        prog="python -m psdp.virtual",
        usage="%(prog)s --workers W [costs] [worker flags]",
        description="Train as a cluster would: true gradients, computed by threads of this "
        "process, in the order and at the times of a simulation. The run folder holds a record, "
        "which a real job of as many ranks replays to the same bits.",
        epilog="All other flags are those of a job, see python -m psdp.worker --help; "
        "--straggler, --jitter and --link-mbps slow virtual time only. Example: "
        f"python -m psdp.virtual --workers 32 --mode {mode} --step-ms 50 --link-mbps 1000 "
        "--jitter exponential:0.2 --max-steps 200",
    )
    parser.add_argument("--workers", type=whole_from(1), metavar="W", required=True)
    add_costs(parser, "and whose model and batches are those of this job", left_out=FAILURES)
    return parser


def live(
    given: Mapping[str, Any],
    ranks: int,
    cluster: Cluster,
    asked: Callable[[], str | None] = lambda: None,
) -> int:
    """Run a job on threads of this process; return its exit status.

    Args:
        given: its settings.
        asked: returns the name of a signal by which somebody asked it to end, or None.
    """
    gc.collect()  # the files of an earlier job, whose ranks refer to one another
    worlds = InMemoryWorlds([VIRTUAL] * ranks)
    program = replace(LANGUAGE, more=lambda job: {"costs": cluster.record(job.table.size)})
    ends = worlds.run(
        lambda world: live_in(world, given, None, asked, Line(), program, cluster.script), LONGEST_S
    )
    if worlds.status is not None:
        return worlds.status
    return next((end for end in ends if isinstance(end, int) and end), 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit status."""
    show_any_text()
    try:
        plan = parse(sys.argv[1:] if argv is None else argv)
    except PsdpError as error:
        print(f"psdp.virtual: {error}", file=sys.stderr)
        return error.exit_code
    return live(plan.given, plan.ranks, plan.cluster, Signals(Line()))


if __name__ == "__main__":
    sys.exit(main())
