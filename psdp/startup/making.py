"""The step that makes a task of a user's own, and sees that all ranks have made the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from psdp.backend import make_backend
from psdp.config import Config
from psdp.errors import ConfigError, DataError
from psdp.job import Job
from psdp.params import ParamTable
from psdp.startup.beginning import Beginning
from psdp.task import NumpyTask, Step, Task

MEASURES = ("perplexity", "accuracy", "bits_per_byte")
TAKEN = ("steps", "workers", "servers", "modes")
"""Names of a summary, which no unit can have."""


@dataclass(frozen=True)
class TaskMade:
    """What one rank tells of its task.

    Attributes:
        parameters: each in words.
        batch: a digest of the first batch of the first worker, as this rank makes it; None of who
            makes none, or one that has none.
        loss: of that batch with the first weights, as a :class:`NumpyTask` finds it.
    """

    name: str
    identity: str
    parameters: tuple[str, ...]
    unit: str
    units_per_batch: int
    validation_units: int
    batch: str | None
    loss: float | None


@dataclass(frozen=True)
class MakeTask(Beginning[TaskMade]):
    """Make the task on this rank, and see that it is one."""

    make: Callable[[Config], Task]
    config: Config
    rank: int
    world_size: int

    facts = TaskMade

    def act(self) -> tuple[Job, TaskMade]:
        task = self.make(self.config)
        check_task(task, self.config)
        job = Job(self.config, self.world_size, task)
        told = TaskMade(
            name=task.called(),
            identity=_json_of(task),
            parameters=tuple(f"'{spec.name}' of shape {spec.shape}" for spec in task.table.specs),
            unit=task.unit,
            units_per_batch=task.units_per_batch,
            validation_units=task.validation_units,
            batch=self._first_batch(job) if self.rank in job.worker_ranks else None,
            loss=self._first_loss(job) if self.rank in job.worker_ranks else None,
        )
        return job, told

    def agree(self, facts: Mapping[int, TaskMade]) -> Mapping[int, TaskMade]:
        for rank, told in facts.items():
            for field in fields(TaskMade):
                own, first = getattr(told, field.name), getattr(facts[0], field.name)
                if own != first and field.name not in ("batch", "loss"):
                    raise DataError(
                        f"rank {rank} made another task than rank 0: {_differ(field.name, own)}, "
                        f"not {_differ(field.name, first)}; a task must follow from the settings "
                        "alone, on every rank"
                    )
        workers = {rank: told for rank, told in facts.items() if told.batch or told.loss}
        first_rank = min(workers, default=0)
        for rank, told in workers.items():
            first = workers[first_rank]
            if told.batch != first.batch:
                raise DataError(
                    f"rank {rank} makes another first batch of worker 0 than rank {first_rank}; a "
                    f"batch must follow from its share and its number alone: {_SEED}"
                )
            if not _alike(told.loss, first.loss):
                raise DataError(
                    f"rank {rank} finds a loss of {told.loss:.6g} where rank {first_rank} finds "
                    f"{first.loss:.6g}, with the same weights on the same batch; every rank must "
                    "have the same data: seed what is drawn"
                )
        return facts

    def told_of(self, facts: Mapping[int, TaskMade]) -> Job:
        raise AssertionError("every rank makes it")

    def _first_batch(self, job: Job) -> str | None:
        """See that a batch is the same when it is asked for again, and that of its own worker
        there is one; return the digest of the first of all."""
        first = job.share(job.workers[0])
        for own in map(job.share, job.hosted(self.rank)):
            before = digest_of(job.task.batch(own, 0))
            job.task.batch(own, 1)
            if digest_of(job.task.batch(own, 0)) != before:
                raise DataError(
                    "batch 0 is another one when it is asked for again; a batch must follow from "
                    f"its share and its number alone: {_SEED}"
                )
        return digest_of(job.task.batch(first, 0))

    def _first_loss(self, job: Job) -> float | None:
        """Return the loss with the first weights on the first batch of all; what is wrong with its
        gradient is told now."""
        task, run = job.task, self.config.run
        if not isinstance(task, NumpyTask):
            return None
        weights = task.initial(run.seed, run.dtype)
        backend = make_backend("cpu", run.dtype, kernels="numpy")
        model = task.model(backend, weights, np.zeros_like(weights))
        first = job.share(job.workers[0])
        with np.errstate(all="ignore"):  # as in training
            model.add_gradient(task.batch(first, 0), Step())
        return float(model.loss[0])


def _alike(a: float | None, b: float | None) -> bool:
    """Say whether two losses are the same but for rounding; one that is no number is told of
    later."""
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return True
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6)


_SEED = "draw with numpy.random.default_rng([share.seed, share.worker, number]), keep no state"


def check_task(task: Any, config: Config) -> None:
    """
    Raises:
        ConfigError: it is none that can be trained, or not with these settings.
    """

    def expect(good: bool, what: str, got: Any) -> None:
        if not good:
            raise ConfigError(f"{type(task).__name__}: expected {what}, got {got!r:.80}")

    expect(Task in type(task).__mro__, "a psdp.Task", task)
    table, per_batch, unit = (
        getattr(task, name, None) for name in ("table", "units_per_batch", "unit")
    )
    expect(isinstance(table, ParamTable), "table to be a psdp.ParamTable", table)
    servers = config.run.servers
    expect(
        task.table.size >= servers, f"at least {servers} parameters, one a server", task.table.size
    )
    expect(
        isinstance(per_batch, int) and per_batch > 0,
        "units_per_batch to be a whole number above 0",
        per_batch,
    )
    for name in ("validation_units", "validation_split_units", "validation_bytes"):
        expect(
            isinstance(getattr(task, name), int),
            f"{name} to be a whole number",
            getattr(task, name),
        )
    good = isinstance(unit, str) and unit.isidentifier() and f"{unit}s" not in TAKEN
    expect(good, "unit to be a word such as 'sample'", unit)
    expect(set(task.measures) <= set(MEASURES), f"measures of {MEASURES}", task.measures)
    expect(
        "bits_per_byte" not in task.measures or task.validation_bytes > 0,
        "validation_bytes above 0, for the measure bits_per_byte",
        task.validation_bytes,
    )
    _check_validation(task)
    if config.run.sample_every and type(task).sample is Task.sample:
        raise ConfigError(
            f"--sample-every {config.run.sample_every} needs texts, and {task.called()} makes "
            "none: it has no sample(backend, weights, rng)"
        )
    if config.run.early_stop_patience and not task.validation_units:
        raise ConfigError(
            f"--early-stop-patience {config.run.early_stop_patience} needs evaluations, and "
            f"{task.called()} has none: its validation_units is 0"
        )


def _check_validation(task: Task) -> None:
    """
    Raises:
        ConfigError: the task does not say that it has evaluations, or how.
    """
    some = next(iter(task.validation(0, 1)), None) is not None
    if some != (task.validation_units > 0):
        what = "yields batches" if some else "yields none"
        raise ConfigError(
            f"{task.called()}: validation(0, 1) {what}, and validation_units is "
            f"{task.validation_units}; it is how many {task.unit}s an evaluation counts"
        )
    if some and getattr(type(task), "losses", None) is NumpyTask.losses:
        raise ConfigError(f"{task.called()} has validation batches, and no losses(weights, batch)")


def _json_of(task: Task) -> str:
    """
    Raises:
        ConfigError: the task's identity is no plain JSON.
    """
    identity = task.identity()
    try:
        text = json.dumps(identity, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{task.called()}: identity() is no plain JSON: {error}") from error
    if not isinstance(identity, Mapping) or json.loads(text) != dict(identity):
        raise ConfigError(
            f"{task.called()}: identity() is no plain JSON: expected a dict of text, numbers and "
            f"lists, got {identity!r:.80}"
        )
    return text


def _differ(name: str, value: Any) -> str:
    return f"{name} {', '.join(value)}" if isinstance(value, tuple) else f"{name} {value}"


def digest_of(batch: Any) -> str | None:
    """Return a digest of what a batch holds; None where it holds what has none."""
    digest = hashlib.sha256()
    try:
        _feed(digest.update, batch)
    except (TypeError, ValueError):
        return None
    return digest.hexdigest()


def _feed(update: Callable[[bytes], object], part: Any) -> None:
    """
    Raises:
        TypeError, ValueError: it holds what cannot be compared.
    """
    match part:
        case None | bool() | int() | float() | str() | bytes():
            update(repr(part).encode())
        case tuple() | list():
            update(f"[{len(part)}".encode())
            for inner in part:
                _feed(update, inner)
        case dict():
            _feed(update, sorted(part.items()))
        case slice():
            _feed(update, (part.start, part.stop, part.step))
        case _ if is_dataclass(part) and not isinstance(part, type):
            _feed(update, asdict(part))
        case _:
            array = np.ascontiguousarray(part)
            if array.dtype.hasobject:
                raise TypeError(f"no digest of {type(part)}")
            update(f"{array.dtype}{array.shape}".encode())
            update(array.tobytes())
