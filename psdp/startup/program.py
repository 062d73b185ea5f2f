"""What a job trains, as its start needs to know it: a command, and the step that makes the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.config import Config
from psdp.job import Job
from psdp.startup.beginning import Beginning

Begin = Callable[[Config, int, int], Beginning[Any]]
"""Returns the step that makes the job, of settings, a rank, and the number of ranks."""


def _read_corpus(config: Config, rank: int, world_size: int) -> Beginning[Any]:
    from psdp.startup.corpus import ReadCorpus  # a spare rank does without, until it is called

    return ReadCorpus(config, rank, world_size)


def _nothing(run: Path) -> None:
    pass


def _no_more(job: Job) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Program:
    """What a person started.

    Attributes:
        command: as a launcher is given it, for errors to show.
        begin: makes the job.
        settings: that have a meaning in it; None: all.
        finished: called on rank 0 with the run folder, when the run has come to its end.
        more: returns what config.json says beside what it says of every job.
    """

    command: str = "python -m psdp.worker"
    begin: Begin = _read_corpus
    settings: frozenset[str] | None = None
    finished: Callable[[Path], None] = _nothing
    more: Callable[[Job], Mapping[str, Any]] = _no_more

    def kept(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return those of these settings that have a meaning in it."""
        names = self.settings
        return {name: v for name, v in values.items() if names is None or name in names}


LANGUAGE = Program()
"""Training on a text."""
