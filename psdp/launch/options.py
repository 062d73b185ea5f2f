"""The launcher's own command line: how many ranks of what, where, and how often."""

from __future__ import annotations

import argparse
import codecs
import math
from dataclasses import dataclass
from pathlib import Path

from psdp.arguments import Parser, whole
from psdp.errors import ConfigError
from psdp.terminal import path_of

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

LEASE_S = 30.0
"""For which a rank may be silent, unless the command line says otherwise."""


@dataclass(frozen=True)
class Job:
    """What to start: ``python program flags`` on ``ranks`` ranks.

    Attributes:
        program: ``-m`` and a module, or a script.
        shown_only: nothing is started, the command is shown.
        restarts: how often it may be started again after a failure.
        crowded: hosts are to take more ranks than they have slots.
        survives: it is to go on when a rank dies; None: where the MPI can.
        lease_s: for which a rank may give no sign of life; 0: for ever.
    """

    ranks: int
    hostfile: str | None
    program: tuple[str, ...]
    flags: tuple[str, ...]
    shown_only: bool = False
    restarts: int = 0
    crowded: bool = False
    survives: bool | None = None
    lease_s: float = LEASE_S


def parse(argv: list[str]) -> Job:
    """Return the job that the command line asks for; what is not launch's own is the worker's.

    Raises:
        ConfigError: the number of ranks is missing or too low, or the hostfile cannot be used.
        SystemExit: ``--help`` or ``--version``.
    """
    own, flags = _parser().parse_known_args(argv)
    if own.n is None:
        raise ConfigError("-n is missing; -n 3 starts one server and two workers")
    if own.n < 2:
        raise ConfigError(f"-n must be at least 2, a server and a worker, got {own.n}")
    if own.restarts < 0:
        raise ConfigError(f"--restarts must be at least 0, got {own.restarts}")
    if not (own.lease_s == 0 or 1 <= own.lease_s < math.inf):
        raise ConfigError(f"--lease-s must be at least 1, or 0 for never, got {own.lease_s:g}")
    hostfile = None if own.hostfile is None else readable_hostfile(own.hostfile)
    program: tuple[str, ...] = ("-m", own.module)
    if flags and flags[0].endswith(".py"):
        program = (flags.pop(0),)
    survives = None if own.with_ft is None else own.with_ft == "ulfm"
    return Job(
        own.n,
        hostfile,
        program,
        tuple(flags),
        shown_only=own.dry_run,
        restarts=own.restarts,
        survives=survives,
        lease_s=own.lease_s,
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m psdp.launch",
        usage="%(prog)s -n N [--hostfile FILE] [--restarts R] [--with-ft ulfm|none] [--lease-s S] "
        "[--dry-run] [SCRIPT.py] [flags]",
        description="Start psdp with the mpirun of this Python and the options that this host "
        "needs. Prints the whole command first (not with --quiet).",
        epilog="All other flags go to the worker (see python -m psdp.worker --help), or to a "
        "script of your own that is named before them.",
    )
    parser.add_argument(
        *("-n", "-np", "--n", "--np"),
        dest="n",
        type=whole,
        metavar="N",
        help="ranks: the servers and the workers",
    )
    parser.add_argument("--hostfile", metavar="FILE", help="hosts to use; see hostfile.example")
    parser.add_argument("--dry-run", action="store_true", help="show the command, start nothing")
    parser.add_argument(
        "--restarts",
        type=whole,
        default=0,
        metavar="N",
        help="after a failure, start again from the newest whole checkpoint, with the hosts that "
        "are left, at most N times (default 0)",
    )
    parser.add_argument(
        "--with-ft",
        choices=("ulfm", "none"),
        help="ulfm: go on when a rank that works dies, as Open MPI 5 and later can; none: end then "
        "(default: ulfm where the MPI has it)",
    )
    parser.add_argument(
        "--lease-s",
        type=float,
        default=LEASE_S,
        metavar="S",
        help=f"take a rank for dead that gives no sign of life for so many seconds: stopped, or "
        f"host or network down (default {LEASE_S:g}; 0: never)",
    )
    parser.add_argument("--module", default="psdp.worker", help=argparse.SUPPRESS)
    return parser


def readable_hostfile(text: str) -> str:
    """Return the path of a hostfile that launchers can read.

    Raises:
        ConfigError: it does not exist, cannot be read, or is written as other systems do it.
    """
    path = path_of(text, "--hostfile")
    if not path.is_file():
        raise ConfigError(f"--hostfile {path} does not exist")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--hostfile {path}: {error.strerror}") from error
    if b"\r" in content or content.startswith(_BYTE_ORDER_MARKS):
        raise ConfigError(
            f"--hostfile {path} has a byte-order mark or line ends that launchers take for a part "
            "of a host's name; save it as UTF-8 without a mark, with Unix line ends (dos2unix)"
        )
    return str(path)


def hosts_in(hostfile: str) -> list[str]:
    """Return the hosts that a hostfile names, each once."""
    lines = Path(hostfile).read_text("utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(filter(None, map(host_in, lines))))


def host_in(line: str) -> str | None:
    """Return the host that a line of a hostfile names: ``host slots=2``, or ``host:2``."""
    words = line.partition("#")[0].split()
    return words[0].partition(":")[0] if words else None
