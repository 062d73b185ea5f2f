"""Trackers of experiments hear of whole jobs, and of none that does not start."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import Training, train
from losses import die_at_message
from trackers import Fails, Heard

from psdp.errors import ConfigError


def test_a_tracker_hears_what_is_recorded(tmp_path: Path) -> None:
    Heard.told.clear()
    common = {"workers": 2, "eval_every": 2, "max_steps": 4, "track": ["trackers:Heard"]}
    run = train(tmp_path / "run", **common)
    begin, *records, end = Heard.told
    assert begin == ("begin", run.folder, "sync")
    lines = sorted([*run.metrics("train"), *run.metrics("eval")], key=lambda of: of["version"])
    told = [(run.job.step_of(of["tokens"]), of["kind"], of["version"]) for of in lines]
    assert sorted(record[1:] for record in records) == sorted(told)
    assert end == ("end", "budget")


def test_a_tracker_that_fails_changes_nothing(tmp_path: Path) -> None:
    Fails.told.clear()
    common = {"workers": 2, "eval_every": 2, "max_steps": 6}
    run = train(tmp_path / "run", track=["trackers:Fails"], **common)
    assert len(Fails.told) == 4
    assert run.weights_sha256 == train(tmp_path / "other", **common).weights_sha256


def test_what_cannot_be_made_ends_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key"):
        train(tmp_path / "run", workers=2, track=["trackers:Unmade"])
    assert not (tmp_path / "run").exists()


def test_who_takes_over_goes_on_telling(tmp_path: Path) -> None:
    Heard.told.clear()

    def prepare(run: Training) -> None:
        die_at_message(run, 0, 40)

    common = {"workers": 2, "eval_every": 2, "max_steps": 8, "track": ["trackers:Heard"]}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    assert run.summary["takeovers"] == 1
    assert [what for what, *_ in Heard.told].count("begin") == 2
    assert Heard.told[-1] == ("end", "budget")
    heard = {tuple(of[2:]) for of in Heard.told if of[0] == "record"}
    assert {("train", of["version"]) for of in run.metrics("train")} <= heard
