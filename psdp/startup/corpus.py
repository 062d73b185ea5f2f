"""The step in which every rank reads the corpus, and all find the same text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psdp.config import Config
from psdp.data.corpus import load_corpus
from psdp.errors import DataError
from psdp.job import Job
from psdp.language import Language
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
        corpus = load_corpus(self.config.data)
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
