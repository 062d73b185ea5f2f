"""The step with which a job begins: its task is made, by all ranks or by those with its data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from psdp.job import Job
from psdp.startup.step import Facts, Step


class Beginning(Step[Job | None, Facts, Mapping[int, Facts]]):
    """Make the job on this rank, or leave that until others have told of their task; all agree on
    the facts of each."""

    @abstractmethod
    def told_of(self, facts: Mapping[int, Facts]) -> Job:
        """Return the job, of whose task others have told this: a rank without it trains nothing.

        Raises:
            ConfigError: a library that the task needs is not installed.
        """
