"""What a run records, told to trackers of experiments as it is written: TensorBoard, Weights &
Biases, or a class of one's own."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from psdp.errors import ConfigError

Record = Mapping[str, Any]
"""A line of metrics.jsonl."""

WITHOUT = frozenset({"kind", "version", "time_s"})
"""What of a record says which one it is."""


class Tracker(Protocol):
    """Hears what a run records, on the rank that leads it, between two updates. What it raises is
    told once, and never ends the run: it hears nothing more then."""

    def begin(self, run: Path, config: Record) -> None:
        """A start of a run begins, or another rank leads it from now on.

        Args:
            run: its folder.
            config: what config.json says.
        """

    def record(self, step: int, record: Record) -> None:
        """Something was recorded, when so many steps were whole: see metrics.jsonl in docs/runs.md
        for what ``record["kind"]`` may be, and what it has."""

    def end(self, summary: Record) -> None:
        """The run ends, or this start of it; what summary.json says."""


class TensorBoard:
    """Event files below the run folder, in ``tensorboard``, by tensorboardX.

    Numbers of train and eval records are scalars by their names; all other records are texts, and
    a sample is that which it has.
    """

    def __init__(self) -> None:
        self._library = _needed("tensorboardX", "tensorboard")
        self._writer: Any = None

    def begin(self, run: Path, config: Record) -> None:
        self._writer = self._library.SummaryWriter(str(run / "tensorboard"))
        self._writer.add_text("config", _as_text(config), 0)

    def record(self, step: int, record: Record) -> None:
        kind = record["kind"]
        for name, value in numbers(record) if kind in ("train", "eval") else ():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        if kind not in ("train", "eval"):
            text = f"```\n{record['text']}\n```" if kind == "sample" else _as_text(record)
            self._writer.add_text(kind, text, step)

    def end(self, summary: Record) -> None:
        self._writer.add_text("summary", _as_text(summary), summary["steps"])
        self._writer.close()


class WandB:
    """A run of Weights & Biases, called as the run folder is; WANDB_MODE=offline keeps it there."""

    def __init__(self) -> None:
        self._library = _needed("wandb", "wandb")
        self._run: Any = None

    def begin(self, run: Path, config: Record) -> None:
        project = os.environ.get("WANDB_PROJECT", "psdp")
        own = {"dir": str(run), "name": run.name, "config": dict(config)}
        self._run = self._library.init(project=project, **own)

    def record(self, step: int, record: Record) -> None:
        kind = record["kind"]
        told: dict[str, Any] = {f"{kind}/{name}": value for name, value in numbers(record)}
        if kind == "sample":
            told["sample"] = record["text"]
        self._run.log(told, step=step)

    def end(self, summary: Record) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
"""By the names that ``--track`` has for them."""


class Tracking:
    """All trackers of a run.

    Args:
        names: as ``--track`` has them: of :data:`TRACKERS`, or ``MODULE:CLASS``.
        step_of: returns the steps that were whole when something was recorded.
        say: tells of a tracker that fails.

    Raises:
        ConfigError: there is no such tracker, or what it needs is not installed.
    """

    def __init__(
        self, names: Sequence[str], step_of: Callable[[Record], int], say: Callable[[str], object]
    ) -> None:
        self._trackers = {name: make_tracker(name) for name in names}
        self._step_of = step_of
        self._say = say

    def begin(self, run: Path, config: Record) -> None:
        """Have all of them begin."""
        self._each(lambda tracker: tracker.begin(run, config))

    def record(self, record: Record) -> None:
        """Tell all of them of a record."""
        self._each(lambda tracker: tracker.record(self._step_of(record), record))

    def end(self, summary: Record) -> None:
        """Have all of them end."""
        self._each(lambda tracker: tracker.end(summary))
        self._trackers.clear()

    def _each(self, tell: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:
                del self._trackers[name]
                self._say(
                    f"--track {name} has failed ({type(error).__name__}: {error}); the "
                    "run goes on without it"
                )


def make_tracker(name: str) -> Tracker:
    """Return a tracker by its name.

    Raises:
        ConfigError: there is none, or what it needs is not installed.
    """
    if name in TRACKERS:
        return TRACKERS[name]()
    module, _, cls = name.partition(":")
    if not module or not cls.isidentifier():
        raise ConfigError(
            f"--track {name}: expected {', '.join(TRACKERS)} or MODULE:CLASS, such as mine:Tracker"
        )
    try:
        made: Tracker = getattr(importlib.import_module(module), cls)()
    except Exception as error:
        raise ConfigError(
            f"--track {name}: it cannot be made ({type(error).__name__}: {error})"
        ) from error
    missing = [call for call in ("begin", "record", "end") if not callable(getattr(made, call, 0))]
    if missing:
        raise ConfigError(f"--track {name}: it has no {', '.join(missing)}; see psdp.Tracker")
    return made


def numbers(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record by name, but those that say which one it is."""
    for name, value in record.items():
        if name not in WITHOUT and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _needed(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--track {extra} needs {module}: pip install 'psdp[{extra}]'") from error


def _as_text(record: Record) -> str:
    """Return a record as Markdown."""
    return f"```\n{json.dumps(record, indent=1, default=str)}\n```"
