"""All ranks read the same text, and a worker its part of it."""

from __future__ import annotations

import pytest
from saved_run import SavedRun

from psdp.errors import DataError
from psdp.startup.corpus import ReadCorpus, Text


def test_a_rank_that_read_another_text_is_named(case: SavedRun) -> None:
    step, same, other = ReadCorpus(case.config, 0, 3), Text("a" * 64), Text("b" * 64)
    step.agree({0: same, 1: same, 2: same})
    with pytest.raises(
        DataError, match=r"rank 1 read a corpus with sha256 b{16}\.\.\., rank 0 one"
    ):
        step.agree({0: same, 1: other, 2: other})


def test_a_worker_that_can_read_nothing_is_told_at_once(case: SavedRun) -> None:
    ReadCorpus(case.config, 0, 100).act()
    with pytest.raises(DataError, match="corpus too short for 99 workers"):
        ReadCorpus(case.config, 1, 100).act()


def test_a_job_has_the_parameters_of_its_task(case: SavedRun) -> None:
    for rank in range(3):
        job, text = ReadCorpus(case.config, rank, 3).act()
        assert text.sha256 == case.corpus.sha256
        assert job.table.index() == case.job.table.index()
