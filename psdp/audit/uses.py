"""Which window of the corpus was used by whom, in which update: a table, a line each."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from psdp.audit.data import partitions
from psdp.audit.ledger import Used
from psdp.data.windows import Windows
from psdp.errors import ConfigError
from psdp.job import Job

COLUMNS = ("update", "worker", "rank", "gradient", "epoch", "window")


def _nowhere(row: Sequence[int]) -> None:
    pass


class Table:
    """Writes a line for each window of each gradient that has gone into an update; a window is told
    by where it begins among the tokens that are trained on.

    Args:
        windows: of the corpus.
    """

    def __init__(self, job: Job, windows: Windows) -> None:
        self._job = job
        self._parts = partitions(job, windows)
        self._write: Callable[[Sequence[int]], object] = _nowhere

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Write the table to a file, from here to the end of the block.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                self._write = writer.writerow
                yield
        except OSError as error:
            raise ConfigError(f"--uses {path}: {error.strerror}") from error

    def note(self, used: Used) -> None:
        """Write what one push was made of."""
        run, work = self._job.config.run, used.push.work
        part = self._parts[self._job.share(used.worker).worker]
        for clock, batch in zip(work.clocks, work.batches, strict=True):
            for number in range(batch * run.grad_accum, (batch + 1) * run.grad_accum):
                sample = part.sample(number, run.batch_size)
                starts = part.starts(number, run.batch_size).tolist()
                for index, start in enumerate(starts, start=sample):
                    epoch = index // part.windows
                    self._write((used.version, used.worker, used.rank, clock, epoch, start))
