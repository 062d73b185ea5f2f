"""The step in which every rank reads the corpus, and all find the same text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psdp.config import Config
from psdp.data.corpus import Listener, load_corpus
from psdp.data.files import MissingFile
from psdp.errors import DataError
from psdp.job import Job
from psdp.language import Language
from psdp.startup.choosing import tell
from psdp.startup.step import Step


@dataclass(frozen=True)
class Text:
    """What one rank read, by its SHA-256."""

    sha256: str


@dataclass(frozen=True)
class ReadCorpus(Step[Job, Text, Mapping[int, Text]]):
    """Make the job of the corpus, and see that there is enough of it for this rank; compare the
    text."""

    config: Config
    rank: int
    world_size: int

    facts = Text

    def act(self) -> tuple[Job, Text]:
        run = self.config.run
        listener = Listener() if run.quiet else Reading(tell, shows=self.rank == 0)
        try:
            corpus = load_corpus(self.config.data, listener)
        except MissingFile as error:
            if run.resume is None and run.replay is None:
                raise
            raise DataError(f"{error}; if it lies elsewhere now, say where with --corpus") from None
        task = Language.of(self.config, corpus)
        job = Job(self.config, self.world_size, task)
        for worker in job.hosted(self.rank):
            task.batch(job.share(worker), 0)  # what is wrong with it is told now
        return job, Text(corpus.sha256)

    def agree(self, facts: Mapping[int, Text]) -> Mapping[int, Text]:
        for rank, text in facts.items():
            if text != facts[0]:
                raise DataError(
                    f"rank {rank} read a corpus with sha256 {text.sha256[:16]}..., rank 0 one with "
                    f"{facts[0].sha256[:16]}...; give every host the same files (--corpus stdlib "
                    "also depends on the Python version)"
                )
        return facts


class Reading(Listener):
    """Says what is done to a corpus, and every few seconds how far it is read.

    Args:
        tell: a line.
        shows: how far it is read, which all ranks do at the same time; what is done to it, one does
            for all.
        clock: seconds.
    """

    EVERY_S = 5.0

    def __init__(
        self,
        tell: Callable[[str], object],
        *,
        shows: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._shows, self._clock = tell, shows, clock
        self._said = clock()

    def says(self, line: str) -> None:
        self._tell(line)

    def read(self, done: int, of: int) -> None:
        now = self._clock()
        if self._shows and now - self._said >= self.EVERY_S:
            self._said = now
            self._tell(f"reading the corpus: {done / 1e9:.1f} of {of / 1e9:.1f} GB")
