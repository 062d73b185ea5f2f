"""The step in which every rank that trains reads the corpus, and all find the same text; the others
are told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from psdp.cast import Cast
from psdp.config import Config
from psdp.data.corpus import Corpus, Listener, load_corpus
from psdp.data.files import MissingFile
from psdp.data.subwords import tokenizer_of
from psdp.data.tokens import Tokens
from psdp.errors import DataError
from psdp.job import Job
from psdp.language import Counts, Language
from psdp.startup.beginning import Beginning
from psdp.startup.choosing import tell


@dataclass(frozen=True)
class Account:
    """A corpus, told to ranks that have none of its tokens.

    Attributes:
        tokenizer: as it tells of itself.
        files: that go with that, by their names.
    """

    train_tokens: int
    val_tokens: int
    tokenizer: Any
    files: dict[str, str]
    sha256: str
    sources: tuple[str, ...]
    checks: tuple[str, ...]
    description: str
    counts: Counts

    @classmethod
    def of(cls, task: Language) -> Account:
        corpus = task.corpus
        return cls(
            train_tokens=corpus.train.size,
            val_tokens=corpus.val.size,
            tokenizer=corpus.tokenizer.to_json(),
            files=dict(corpus.tokenizer.files()),
            sha256=corpus.sha256,
            sources=corpus.sources,
            checks=corpus.checks,
            description=corpus.description,
            counts=task.counts,
        )

    def corpus(self) -> Corpus:
        """Return the corpus, whose tokens cannot be read."""
        return Corpus(
            train=Tokens.elsewhere(self.train_tokens),
            val=Tokens.elsewhere(self.val_tokens),
            tokenizer=tokenizer_of(self.tokenizer, self.files.__getitem__),
            sha256=self.sha256,
            sources=self.sources,
            checks=self.checks,
            description=self.description,
        )


@dataclass(frozen=True)
class Text:
    """What one rank read, by its SHA-256; None of one that reads nothing.

    Attributes:
        account: of what it read; one rank tells.
    """

    sha256: str | None
    account: Account | None = None


@dataclass(frozen=True)
class ReadCorpus(Beginning[Text]):
    """Make the job of the corpus, and see that there is enough of it for this rank; compare the
    text. Ranks that only serve read nothing."""

    config: Config
    rank: int
    world_size: int

    facts = Text

    def concerns(self, rank: int) -> bool:
        return rank in Cast(self.config, self.world_size).worker_ranks

    def act(self) -> tuple[Job | None, Text]:
        if not self.concerns(self.rank):
            return None, Text(None)
        corpus = self._read()
        task = Language.of(self.config, corpus)
        job = Job(self.config, self.world_size, task)
        if self.config.run.sample_every:
            task.check_samples()
        for worker in job.hosted(self.rank):
            task.batch(job.share(worker), 0)  # what is wrong with it is told now
        tells = self.rank == job.computing[0]
        return job, Text(corpus.sha256, Account.of(task) if tells else None)

    def _read(self) -> Corpus:
        run = self.config.run
        try:
            return load_corpus(self.config.data, Listener() if run.quiet else Reading(tell))
        except MissingFile as error:
            if run.resume is None and run.replay is None:
                raise
            raise DataError(f"{error}; if it lies elsewhere now, say where with --corpus") from None

    def agree(self, facts: Mapping[int, Text]) -> Mapping[int, Text]:
        read = {rank: text.sha256 for rank, text in facts.items() if text.sha256 is not None}
        first = min(read)
        for rank, sha256 in read.items():
            if sha256 != read[first]:
                raise DataError(
                    f"rank {rank} read a corpus with sha256 {sha256[:16]}..., rank {first} one "
                    f"with {read[first][:16]}...; give every host the same files (--corpus stdlib "
                    "also depends on the Python version)"
                )
        return facts

    def told_of(self, facts: Mapping[int, Text]) -> Job:
        account = next(text.account for text in facts.values() if text.account is not None)
        task = Language.of(self.config, account.corpus(), account.counts)
        return Job(self.config, self.world_size, task)


class Reading(Listener):
    """Says what is done to a corpus, which one rank of a host does for all, and every few seconds
    how far it is read.

    Args:
        tell: a line.
        clock: seconds.
    """

    EVERY_S = 5.0

    def __init__(
        self,
        tell: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._clock = tell, clock
        self._said = clock()

    def says(self, line: str) -> None:
        self._tell(line)

    def read(self, done: int, of: int) -> None:
        now = self._clock()
        if now - self._said >= self.EVERY_S:
            self._said = now
            self._tell(f"reading the corpus: {done / 1e9:.1f} of {of / 1e9:.1f} GB")
