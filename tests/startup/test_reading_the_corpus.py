"""All ranks read the same text, and a worker its part of it."""

from __future__ import annotations

import pytest
from saved_run import SavedRun

from psdp.config import Config
from psdp.data.corpus import load_corpus
from psdp.errors import DataError
from psdp.startup.corpus import ReadCorpus, Text, cut_out


def test_a_rank_that_read_another_text_is_named(case: SavedRun) -> None:
    step, same, other = ReadCorpus(case.config, 0, 3), Text("a" * 64), Text("b" * 64)
    step.agree([same, same, same])
    with pytest.raises(
        DataError, match=r"rank 1 read a corpus with sha256 b{16}\.\.\., rank 0 one"
    ):
        step.agree([same, other, other])


def test_a_server_reads_no_part_of_it(case: SavedRun) -> None:
    for rank in range(3):
        (corpus, reads), text = ReadCorpus(case.config, rank, 3).act()
        assert corpus.sha256 == text.sha256 == case.corpus.sha256
        assert (reads is None) == (rank == 0)


def test_a_worker_reads_its_partition_and_the_whole_validation_split(case: SavedRun) -> None:
    reads = cut_out(case.corpus, case.config, rank=2, world_size=3)
    assert reads.validation is not None


def test_without_a_validation_split_there_is_none_to_read(case: SavedRun) -> None:
    config = Config.from_flat(case.given | {"val_fraction": 0.0}).resolved()
    assert cut_out(load_corpus(config.data), config, rank=1, world_size=3).validation is None


def test_a_corpus_shorter_than_a_block_is_refused(case: SavedRun) -> None:
    config = Config.from_flat(case.given | {"block_size": 100_000}).resolved()
    with pytest.raises(DataError):
        cut_out(case.corpus, config, rank=1, world_size=3)
