"""A launcher and an MPI that do not know one another: the cause is named."""

from __future__ import annotations

import pytest

from psdp.errors import ConfigError
from psdp.transport.launchers import Launch, check_not_alone, launch_of, warning_of

OPEN_MPI, MPICH = "Open MPI v5.0.11", "MPICH Version: 5.0.2"
SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
HYDRA = {"PMI_RANK": "0", "PMI_SIZE": "3"}
PRTE = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}


def refusal(library: str, environment: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        check_not_alone(1, library, environment)
    return str(refused.value)


def test_a_lone_rank_of_several_under_slurm_is_told_of_pmix_and_of_its_mpi() -> None:
    assert refusal(OPEN_MPI, SLURM) == (
        "this MPI sees one rank although Slurm was to start 2 (SLURM_NTASKS=2): mpi4py is of Open "
        "MPI v5.0.11, and was not started by a launcher that it knows; start with srun --mpi=pmix, "
        "or inside the allocation with python -m psdp.launch or that MPI's own mpirun"
    )


@pytest.mark.parametrize(
    ("library", "environment", "cause"),
    [
        (OPEN_MPI, HYDRA, "a launcher of MPICH's kind was to start 3 (PMI_SIZE=3)"),
        (MPICH, PRTE, "Open MPI's mpirun was to start 2 (OMPI_COMM_WORLD_SIZE=2)"),
        (OPEN_MPI, SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, "srun was to start 4"),
        (OPEN_MPI, {"FLUX_JOB_SIZE": "2"}, "Flux was to start 2"),
    ],
)
def test_a_lone_rank_of_another_launcher_names_both(
    library: str, environment: dict[str, str], cause: str
) -> None:
    told = refusal(library, environment)
    assert cause in told
    assert f"mpi4py is of {library}" in told


@pytest.mark.parametrize(
    ("size", "environment"),
    [
        (1, {}),
        (2, SLURM),
        (1, PRTE | {"OMPI_COMM_WORLD_SIZE": "1"}),
        (1, SLURM | PRTE | {"OMPI_COMM_WORLD_SIZE": "1"}),  # mpirun -n 1 inside an allocation
        (1, {"SLURM_NTASKS": "1"}),
        (1, {"SLURM_NTASKS": "several"}),
        (1, {"SLURM_NTASKS": "9" * 5000}),
    ],
)
def test_what_fits_together_is_not_complained_about(size: int, environment: dict[str, str]) -> None:
    check_not_alone(size, OPEN_MPI, environment)


def test_the_inmost_launcher_counts() -> None:
    assert launch_of(SLURM | PRTE) == Launch("Open MPI's mpirun", 2, "OMPI_COMM_WORLD_SIZE")


def test_an_mpi_that_ends_the_process_under_open_mpis_mpirun_is_named_before() -> None:
    warning = warning_of(MPICH, PRTE)
    assert warning is not None
    assert warning.startswith("mpi4py is of MPICH Version: 5.0.2, which Open MPI's mpirun started")
    assert warning_of(OPEN_MPI, PRTE) is None
    assert warning_of(MPICH, HYDRA) is None
    assert warning_of(OPEN_MPI, HYDRA) is None
