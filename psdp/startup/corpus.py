"""The step in which every rank reads the corpus, and all find the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psdp.config import Config
from psdp.data.batches import Batches, Validation
from psdp.data.corpus import Corpus, load_corpus
from psdp.errors import DataError
from psdp.startup.step import Step


@dataclass(frozen=True)
class Reads:
    """What a worker reads: its batches, and the validation split if there is one."""

    batches: Batches
    validation: Validation | None


@dataclass(frozen=True)
class Text:
    """What one rank read, by its SHA-256."""

    sha256: str


@dataclass(frozen=True)
class ReadCorpus(Step[tuple[Corpus, Reads | None], Text, None]):
    """Read the corpus, and of a worker find what it reads of it; compare the text."""

    config: Config
    rank: int
    world_size: int

    facts = Text

    def act(self) -> tuple[tuple[Corpus, Reads | None], Text]:
        corpus = load_corpus(self.config.data)
        reads = None
        if self.rank >= self.config.run.servers:
            reads = cut_out(corpus, self.config, self.rank, self.world_size)
        return (corpus, reads), Text(corpus.sha256)

    def agree(self, facts: Sequence[Text]) -> None:
        for rank, text in enumerate(facts):
            if text != facts[0]:
                raise DataError(
                    f"rank {rank} read a corpus with sha256 {text.sha256[:16]}..., rank 0 one with "
                    f"{facts[0].sha256[:16]}...; give every host the same files (--corpus stdlib "
                    "also depends on the Python version)"
                )


def cut_out(corpus: Corpus, config: Config, rank: int, world_size: int) -> Reads:
    """Return what a worker reads of the corpus.

    Raises:
        DataError: a split is too short for the block size or the number of workers.
    """
    model, run, servers = config.model, config.run, config.run.servers
    # Where rank 0 deals batches out, every worker may get any.
    dealt = run.balance == "dynamic"
    batches = Batches(
        corpus.train,
        block_size=model.block_size,
        batch_size=run.batch_size,
        grad_accum=run.grad_accum,
        worker=0 if dealt else rank - servers,
        workers=1 if dealt else world_size - servers,
        partition=config.data.partition,
        seed=run.seed,
    )
    validation = None
    if config.data.val_fraction:
        validation = Validation(corpus.val, model.block_size, run.batch_size, run.eval_batches)
    return Reads(batches, validation)
