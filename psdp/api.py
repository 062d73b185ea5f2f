"""Training a task of one's own: what ``import psdp`` offers to a program that every rank runs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from psdp.checkpoint import read_manifest, read_named
from psdp.cli import CommandLine, given_settings
from psdp.config import OF_LANGUAGE, Config, settings
from psdp.errors import ConfigError
from psdp.generation.model import chosen_checkpoint
from psdp.line import open_line
from psdp.params import Array
from psdp.task import Task


def run(
    task: Task | Callable[[Config], Task], argv: Sequence[str] | None = None, **defaults: Any
) -> Path | None:
    """Train a task as a rank of an MPI job, with the flags of ``python -m psdp.worker``; return the
    run folder on rank 0, None on the others.

    Every rank calls this once, made alike::

        mpirun -n 3 python mine.py --mode ssp --lr 0.1

    Args:
        task: to train, or what makes it of the settings, such as its class; only then does it know
            the ``--batch-size``, which is a flag only then.
        argv: the flags; those of the command line if they are left out.
        defaults: of settings, by the names of their flags with underscores.

    Raises:
        SystemExit: it did not come to its end; its status says why, and rank 0 has told.
    """
    launcher = open_line(os.environ)
    line = command_line(task, defaults)
    ended: list[Path] = []
    given: dict[str, Any] = {}
    refused: ConfigError | None = None
    try:
        given = given_settings(sys.argv[1:] if argv is None else argv, line)
    except ConfigError as error:
        refused = error
    try:
        from psdp.mpi_rank import live
        from psdp.startup.making import MakeTask
        from psdp.startup.program import Program
    except ConfigError as error:
        print(f"psdp: {error}", file=sys.stderr)
        launcher.ended(error.exit_code)
        raise SystemExit(error.exit_code) from None

    def make(config: Config) -> Task:
        return task(config) if callable(task) else task

    program = Program(
        line.program,
        lambda config, rank, size: MakeTask(make, config, rank, size),
        line.settings,
        ended.append,
    )
    status = live(given, refused, launcher, program)
    if status:
        raise SystemExit(status)
    return ended[0] if ended else None


def command_line(task: Task | Callable[[Config], Task], defaults: dict[str, Any]) -> CommandLine:
    """Return what a program that trains this task takes."""
    hidden = OF_LANGUAGE | (set() if callable(task) else {"batch_size"})
    script = f"python {sys.argv[0]}"
    units = f"{getattr(task, 'unit', Task.unit)}s"
    about = sys.modules["__main__"].__doc__ or "Train a task with an MPI parameter server."
    return CommandLine(
        program=script,
        description=f"{about.strip().split(chr(10) * 2)[0].rstrip('.')}.",
        example=f"mpirun -n 3 {script} --max-steps 2000 --out runs/mine",
        settings=frozenset(field.name for _, field in settings()) - hidden,
        defaults=defaults,
        helps={
            "batch_size": f"{units} a worker takes per step",
            "max_steps": f"budget; in {units}: max-steps x workers x those of a batch x grad-accum",
            "balance": "static: each worker has its share of the batches; dynamic: the server "
            "deals them out one by one, so that fast workers take more",
            "seed": "of the weights and the order of the data",
        },
    )


def load(path: str | Path, *, best: bool = False, raw: bool = False) -> dict[str, Array]:
    """Return the weights of a checkpoint by the names of the parameters, each in its shape: their
    average, where the run has kept one (``--ema``).

    Args:
        path: a run folder, of which the latest that is whole is taken, the folder of one, or the
            URL of copies, as ``--checkpoint-to`` has it.
        best: of the run folder, the one with the lowest validation loss instead.
        raw: the weights themselves, whether or not there is an average.

    Raises:
        CheckpointError: there is none, or it is damaged.

    Warns:
        UserWarning: a later one of the run folder is not whole, and was passed over.
    """
    tell = partial(warnings.warn, stacklevel=6)
    with chosen_checkpoint(path, best=best, tell=tell) as folder:
        return read_named(read_manifest(folder), raw=raw)
