"""Whether MPI can read and write the memory of a GPU, which only a trial shows.

An MPI that cannot ends the process that hands it such memory, so the trial is another process: a
world of its own, which sends vectors from its GPU to itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module

import numpy as np

TIMEOUT_S = 30.0
OPENER = "psdp.backend.gpu.cupy_device:open_device"
"""Module and function that open a GPU, by its number among those of the host."""

SIZES = (64, 1 << 20)
"""Bytes: of a message that goes with its header, and of one that its receiver asks for."""

_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PMI2_", "PRTE_", "HYDRA_", "HYDI_", "MPI_")
_CHOICES = tuple(
    f"OMPI_MCA_{name}"
    for name in ("pml", "btl", "mtl", "accelerator", "opal_cuda", "mca_base_param_files")
)
"""What a launcher says of the job, and what a person says of how messages go."""

_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)


def why_not_aware(local_rank: int, timeout_s: float = TIMEOUT_S) -> str | None:
    """Return why vectors cannot go from GPU to GPU as MPI messages here; None if they can."""
    code = f"from psdp.startup.probe import main; main({OPENER!r}, {local_rank}, {timeout_s})"
    try:
        trial = subprocess.Popen(
            [sys.executable, "-c", code],
            env=alone(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return f"whether MPI takes GPU memory could not be tried ({error.strerror})"
    try:
        said, _ = trial.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(trial.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver
            trial.communicate(timeout=1)
        return f"MPI did not send from GPU memory within {timeout_s:g} s"
    if trial.returncode < 0:
        end = signal.Signals(-trial.returncode)
        why = "MPI is not CUDA-aware: " if end in _CRASHES else ""
        return f"{why}sending from GPU memory ended a trial by {end.name}"
    if trial.returncode:
        lines = said.strip().splitlines() or [f"status {trial.returncode}"]
        return f"sending from GPU memory by MPI failed in a trial ({lines[-1]})"
    return None


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is no rank of this job."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LAUNCHERS) or name.startswith(_CHOICES)
    }


def main(opener: str, local_rank: int, timeout_s: float) -> None:
    """Send vectors from a GPU to itself, in a process of its own, which outlives nobody by long.

    Raises:
        SystemExit: other bytes came.
    """
    signal.alarm(math.ceil(timeout_s) + 1)
    from psdp.transport.mpi import MpiWorld

    module, _, name = opener.partition(":")
    device, world = getattr(import_module(module), name)(local_rank), MpiWorld()
    assert world.size == 1, "the trial is no rank of the job"
    for size in SIZES:
        bytes_ = np.arange(size, dtype=np.uint32).view(np.uint8)[:size].copy()
        sent, received = device.empty((size,), np.uint8), device.zeros((size,), np.uint8)
        device.upload(bytes_, sent)
        device.synchronize()
        world.echo(sent, received)
        landed = np.zeros(size, np.uint8)
        device.download(received, landed)
        if not np.array_equal(landed, bytes_):
            sys.exit("other bytes came than were sent")
