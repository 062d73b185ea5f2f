"""``python -m psdp.audit RUN``: prove what a run folder holds, or say what contradicts it."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Iterable, Sequence

from psdp.arguments import Parser
from psdp.audit.auditing import Audit
from psdp.errors import ConfigError
from psdp.terminal import path_of, run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is found; return the exit status: 1 if something is contradicted."""

    def work() -> int:
        options = parse(argv)
        audit = Audit(path_of(options.run, "RUN"))
        uses = None if options.uses is None else path_of(options.uses, "--uses")
        findings = audit.check() if uses is None else audit.write_uses(uses)
        if options.recompute:
            audit.recompute(options.recompute, options.seed)
        told: Iterable[str] = map(str, findings.all)
        if options.json:
            told = [json.dumps([finding.record() for finding in findings.all], indent=2)]
        print("\n".join(told))
        return int(findings.contradicted)

    return run_program("psdp.audit", work)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: an unknown flag, or a value that cannot be.
        SystemExit: ``--help``.
    """
    parser = Parser(
        prog="python -m psdp.audit",
        description="Prove what a run folder says of its run, or say what contradicts it, and "
        "where: each window used once, each grant answered, versions and clocks without gaps. "
        "Exits with 1 if anything is contradicted.",
        epilog="example: python -m psdp.audit runs/mine",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, as --out named it")
    parser.add_argument("--json", action="store_true", help="print a JSON array of all findings")
    parser.add_argument(
        "--recompute",
        type=int,
        default=0,
        metavar="K",
        help="compute K updates again, from the nearest checkpoint before each from which that is "
        "possible, and compare every bit",
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="chooses these updates (default: by chance)"
    )
    parser.add_argument(
        "--uses",
        metavar="FILE",
        help="write a table (CSV) of which window was used by which worker and rank, in which "
        "update",
    )
    options = parser.parse_args(argv)
    if options.recompute < 0:
        raise ConfigError(f"--recompute must be at least 0, got {options.recompute}")
    if options.seed is None:
        options.seed = secrets.randbelow(1 << 32)
    return options


if __name__ == "__main__":
    sys.exit(main())
