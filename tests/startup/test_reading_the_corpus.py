"""All ranks read the same text, and a worker its part of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from saved_run import SavedRun

from psdp.errors import DataError
from psdp.startup.corpus import ReadCorpus, Reading, Text
from psdp.startup.facts import from_bytes, to_bytes


def test_a_rank_that_read_another_text_is_named(case: SavedRun) -> None:
    step, same, other = ReadCorpus(case.config, 0, 3), Text("a" * 64), Text("b" * 64)
    step.agree({0: Text(None), 1: same, 2: same})
    with pytest.raises(
        DataError, match=r"rank 2 read a corpus with sha256 b{16}\.\.\., rank 1 one"
    ):
        step.agree({0: Text(None), 1: same, 2: other})


def test_a_worker_that_can_read_nothing_is_told_at_once(case: SavedRun) -> None:
    ReadCorpus(case.config, 0, 100).act()
    with pytest.raises(DataError, match="corpus too short for 99 workers"):
        ReadCorpus(case.config, 1, 100).act()


def test_a_server_needs_no_corpus(case: SavedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {rank: ReadCorpus(case.config, rank, 3).act()[1] for rank in (1, 2)}
    assert facts[2] == Text(case.corpus.sha256), "one tells"
    monkeypatch.setattr("psdp.startup.corpus.load_corpus", None)
    step = ReadCorpus(case.config, 0, 3)
    job, facts[0] = step.act()
    assert job is None
    told = {rank: from_bytes(Text, to_bytes(fact)) for rank, fact in facts.items()}
    made = step.told_of(step.agree(told))
    own = case.job_of(3)
    for name in ("description", "validation_units", "validation_split_units"):
        assert getattr(made.task, name) == getattr(own.task, name)
    assert made.task.identity() == own.task.identity()
    assert made.task.record() == own.task.record()
    assert made.table.index() == own.table.index()


def test_a_job_has_the_parameters_of_its_task(case: SavedRun) -> None:
    for rank in (1, 2):
        job, text = ReadCorpus(case.config, rank, 3).act()
        assert job is not None
        assert text.sha256 == case.corpus.sha256
        assert job.table.index() == case.job.table.index()


@pytest.mark.parametrize("flag", ["resume", "replay"])
def test_a_run_that_goes_on_without_its_corpus_is_told_which_setting_would_help(
    case: SavedRun, flag: str
) -> None:
    config = case.config
    Path(config.data.corpus[0]).unlink()
    with pytest.raises(DataError) as fresh:
        ReadCorpus(config, 1, 3).act()
    assert "--corpus" not in str(fresh.value)
    going_on = replace(config, run=replace(config.run, **{flag: "runs/x"}))
    with pytest.raises(DataError, match="elsewhere now, say where with --corpus"):
        ReadCorpus(going_on, 1, 3).act()


def test_how_far_a_long_reading_is_is_said_every_few_seconds() -> None:
    now, said = 0.0, list[str]()
    reading = Reading(said.append, lambda: now)
    for now in (1.0, 5.0, 6.0, 9.9, 10.0):
        reading.read(int(now * 1e9), int(20e9))
    assert said == [f"reading the corpus: {done} of 20.0 GB" for done in ("5.0", "10.0")]
