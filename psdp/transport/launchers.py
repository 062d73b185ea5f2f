"""What started this process, as its environment tells, where that and MPI do not fit together.

A launcher and an MPI that do not know one another start N jobs of one rank, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psdp.errors import ConfigError

_SIZES = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpirun",
    "PMI_SIZE": "a launcher of MPICH's kind",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's launcher",
    "FLUX_JOB_SIZE": "Flux",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "SLURM_NTASKS": "Slurm",
}
"""Variables in which launchers say how many ranks they start, the inmost of nested ones first."""


@dataclass(frozen=True)
class Launch:
    """Who started how many ranks; ``variable`` says so."""

    launcher: str
    ranks: int
    variable: str


def launch_of(environment: Mapping[str, str]) -> Launch | None:
    """Return what a process's environment tells of its launcher; None if it tells nothing."""
    for variable, launcher in _SIZES.items():
        text = environment.get(variable, "")
        if text.isdecimal() and len(text) < 10:
            return Launch(launcher, int(text), variable)
    return None


def check_not_alone(size: int, library: str, environment: Mapping[str, str]) -> None:
    """See that a rank that is alone was meant to be.

    Args:
        size: ranks that MPI sees.
        library: name and version of the MPI.

    Raises:
        ConfigError: the launcher started several.
    """
    launch = launch_of(environment)
    if size > 1 or launch is None or launch.ranks < 2:
        return
    ways = "python -m psdp.launch or that MPI's own mpirun"
    if any(name.startswith("SLURM_") for name in environment):
        ways = f"srun --mpi=pmix, or inside the allocation with {ways}"
    raise ConfigError(
        f"this MPI sees one rank although {launch.launcher} was to start {launch.ranks} "
        f"({launch.variable}={launch.ranks}): mpi4py is of {library}, and was not started by a "
        f"launcher that it knows; start with {ways}"
    )


def warning_of(library: str, environment: Mapping[str, str]) -> str | None:
    """Return what to say before MPI is initialised, where it may end the process at once."""
    launch = launch_of(environment)
    if launch is None or launch.variable != "OMPI_COMM_WORLD_SIZE" or "Open MPI" in library:
        return None
    return (
        f"mpi4py is of {library}, which {launch.launcher} started; should it end here, start with "
        "python -m psdp.launch or that MPI's own mpirun"
    )


def survives_failures(environment: Mapping[str, str]) -> bool:
    """Say whether this job goes on when a rank is lost: Open MPI's ``mpirun --with-ft ulfm``."""
    return environment.get("OMPI_MCA_mpi_ft_enable") == "1"
