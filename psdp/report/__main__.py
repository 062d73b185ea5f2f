"""``python -m psdp.report RUN...``: compare runs; see the package."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from psdp.arguments import Parser
from psdp.errors import ConfigError
from psdp.report.baselines import SERVED
from psdp.report.files import write_report
from psdp.terminal import path_of, run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its short version; return the exit status."""

    def work() -> int:
        options = parse(argv)
        runs = [path_of(run, "RUN") for run in options.runs]
        out = path_of(options.out, "--out")
        print(write_report(runs, out, title="psdp runs", target=options.target))
        return 0

    return run_program("psdp.report", work)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: an unknown flag, or a value that cannot be.
        SystemExit: ``--help``.
    """
    parser = Parser(
        prog="python -m psdp.report",
        description="Compare runs: tables with means and intervals over seeds, plots, and a "
        "verdict in plain words. Runs that differ in their seed alone are taken together.",
        epilog="example: python -m psdp.report runs/first runs/second --out comparison",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, as --out named them")
    parser.add_argument(
        "--out", metavar="DIR", default="report", help="where the report goes (default report)"
    )
    parser.add_argument(
        "--target-loss",
        dest="target",
        type=float,
        metavar="X",
        help="validation loss whose time is compared (default 1 %% above the mean of what "
        f"{SERVED} ends with; without {SERVED} what the worst run ends with)",
    )
    options = parser.parse_args(argv)
    if options.target is not None and not (0 < options.target < math.inf):
        raise ConfigError(f"--target-loss must be finite and above 0, got {options.target}")
    return options


if __name__ == "__main__":
    sys.exit(main())
