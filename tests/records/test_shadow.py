"""Records that another rank goes on with: none is lost, and none is there twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psdp.errors import CheckpointError
from psdp.records.folder import METRICS, RunFolder
from psdp.records.lock import LOCK
from psdp.records.shadow import Shadow


def line(kind: str, version: int, time_s: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "version": version, "time_s": time_s, "tokens_per_s": 1 / time_s, **more}


def versions(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / METRICS).read_text().splitlines()
    return [(record["kind"], record["version"]) for record in map(json.loads, lines)]


def test_what_the_lost_rank_has_not_written_is_added(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    first.create()
    shadow = Shadow(first.path, first.token, latest=3)
    for version in range(1, 6):
        shadow.append_metrics(line("train", version, 0.1 + version, loss=2.0))
    for version in range(1, 4):
        first.append_metrics(line("train", version, version, loss=2.0))
    first.append_metrics(line("eval", 2, 3.5, val_loss=1.0))
    with (first.path / METRICS).open("a") as file:
        file.write('{"kind": "train", "versi')  # it died here
    first.let_go()
    records = shadow.take_over()
    told = [("train", 1), ("train", 2), ("train", 3), ("eval", 2), ("train", 4), ("train", 5)]
    assert versions(first.path) == told
    assert [(record["kind"], record["version"]) for record in records] == told
    shadow.append_metrics(line("train", 6, 6.0))
    assert versions(first.path) == [*told, ("train", 6)]


def test_who_wakes_up_late_writes_nothing(tmp_path: Path) -> None:
    """It is stopped, say: its lock is still there."""
    first = RunFolder(tmp_path / "run")
    first.create()
    Shadow(first.path, first.token, latest=1).take_over()
    with pytest.raises(CheckpointError, match="is not this job's any more"):
        first.append_metrics(line("train", 1, 1.0))
    assert not (first.path / METRICS).exists()


def test_the_folder_of_another_job_is_not_taken_over(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    first.create()
    shadow = Shadow(first.path, first.token, latest=1)
    first.let_go()
    (first.path / LOCK).write_text(json.dumps({"token": "another's"}))
    with pytest.raises(CheckpointError, match="another job has it"):
        shadow.take_over()


def test_evaluations_before_the_run_was_resumed_are_not_its_own(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    first.create()
    for record in (line("eval", 5, 1.0), line("resume", 3, 1.0), line("eval", 4, 2.0)):
        first.append_metrics(record)
    evaluations = Shadow(first.path, first.token, latest=1).take_over()
    assert [record["version"] for record in evaluations] == [4]
