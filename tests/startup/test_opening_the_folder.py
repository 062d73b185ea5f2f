"""The run folder of a start, and what its config.json records."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from saved_run import SavedRun

from psdp.checkpoint import CheckpointId, read_best
from psdp.config import Config
from psdp.data.corpus import load_corpus
from psdp.errors import CheckpointError, ConfigError
from psdp.records.folder import RunFolder
from psdp.records.lock import RunLock
from psdp.startup.folder import OpenFolder, open_folder
from psdp.startup.settings import Location


def opening(case: SavedRun, rank: int = 0, **changes: Any) -> OpenFolder:
    """Return the step of a rank of a job of three."""
    a, b = ("Zen 5", 2, 4096), ("Zen 4", 1.5, 8192)
    locations = [Location("a", 0, 2, *a), Location("b", 0, 1, *b), Location("b", 1, 1, *b)]
    kernels = ["compiled"] * 3
    job = case.job_of(3, **changes)
    return OpenFolder(
        job, rank, job.config.flat(), None, None, locations, kernels, "mixed", "MPI 5", {"more": 3}
    )


def test_config_json_can_be_written_whatever_bytes_the_name_of_a_corpus_has(case: SavedRun) -> None:
    text = case.folder / os.fsdecode(b"caf\xe9.txt")
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    case.given["corpus"] = [str(text)]
    case.corpus = load_corpus(Config.from_flat(case.given).data)
    folder = RunFolder(case.folder)
    folder.write_config(opening(case).config_record(folder))
    record = json.loads((case.folder / "config.json").read_text("utf-8"))
    assert record["hosts"] == ["a", "b", "b"]
    assert record["machines"] == {
        "a": {"processor": "Zen 5", "cores": 2, "memory_bytes": 4096},
        "b": {"processor": "Zen 4", "cores": 1.5, "memory_bytes": 8192},
    }


def test_a_new_run_makes_the_folder_that_it_was_told(tmp_path: Path) -> None:
    folder = open_folder(Config.from_flat({"out": str(tmp_path / "mine")}), None)
    assert folder.path == tmp_path / "mine"
    assert folder.path.is_dir()


def test_a_run_without_a_name_is_called_after_its_time_and_mode_and_no_two_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psdp.startup.folder.time.strftime", lambda _: "20260102-030405")
    config = Config.from_flat({"mode": "async"})
    paths = [str(open_folder(config, None).path) for _ in range(3)]
    stem = "runs/20260102-030405-async"
    assert paths == [stem, f"{stem}-1", f"{stem}-2"]


def test_a_run_that_goes_on_does_so_in_the_folder_that_it_has_locked(case: SavedRun) -> None:
    lock = RunLock(case.folder)
    folder = open_folder(Config(), lock)
    assert (folder.path, folder.token) == (case.folder, lock.token)


def test_going_on_elsewhere_spares_another_run_there(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds another run"):
        open_folder(Config.from_flat({"out": str(other)}), None)


def test_what_is_in_the_way_of_going_on_is_cleared_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = SavedRun(tmp_path / "run", (5, 10, 15))
    inside = case.folder / "checkpoints"
    (inside / ".tmp-token-step-000016-v000016").mkdir()
    (inside / "best.json").write_text("{")
    (case.folder / "metrics.jsonl").write_text('{"version": 10}\n{"versi')
    folder, _ = replace(opening(case), manifest=case.manifest(10), lock=RunLock(case.folder)).act()
    assert folder is not None
    assert sorted(path.name for path in inside.iterdir()) == [
        "damaged-best.json", "damaged-step-000015-v000015",
        "step-000005-v000005", "step-000010-v000010",
    ]  # fmt: skip
    folder.append_metrics({"version": 11})
    lines = (case.folder / "metrics.jsonl").read_text()
    assert lines == '{"version": 10}\n{"version": 11}\n'
    err = capsys.readouterr().err
    assert err.startswith(f"psdp: {inside / 'best.json'} is damaged: expected JSON, got: ")
    assert err.count("\n") == 1


def test_the_best_is_known_as_that_though_its_run_ended_before_it_was(tmp_path: Path) -> None:
    case = SavedRun(tmp_path / "run", (5,))
    case.best.better(2.5, 5)
    case.save(10)
    replace(opening(case), manifest=case.manifest(10), lock=RunLock(case.folder)).act()
    assert read_best(case.folder / "checkpoints") == CheckpointId(5, 5)


def test_config_json_says_all_that_repeats_a_run(case: SavedRun) -> None:
    record = json.loads(json.dumps(opening(case).config_record(RunFolder(case.folder))))
    assert record["transport"] == "mixed"
    assert record["more"] == 3
    assert Config.from_flat(record["settings"]) == case.config
    assert record["threads"] == [2, 1, 1]
    assert (record["workers"], record["servers"], record["hosts"]) == (2, 1, ["a", "b", "b"])
    assert record["parameters"] == case.job.table.size
    assert record["corpus"]["sha256"] == case.corpus.sha256
    assert record["corpus"]["train_tokens"] + record["corpus"]["val_tokens"] == 880
    assert record["versions"]["mpi"] == "MPI 5"
    assert all(isinstance(version, str) for version in record["versions"].values())


def test_rank_0_makes_the_folder_and_tells_the_others_where_it_is(
    case: SavedRun, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "run"
    steps = [opening(case, rank, out=str(out)) for rank in range(3)]
    own, facts = zip(*(step.act() for step in steps), strict=True)
    assert (own[0].path, own[1:]) == (out, (None, None))
    agreed = [step.agree(dict(enumerate(facts))) for step in steps]
    assert [(folder.path, folder.token) for folder in agreed] == [(out, own[0].token)] * 3
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "lock.json"]


def test_a_folder_whose_config_json_cannot_be_written_is_not_left_behind(
    case: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_folder: RunFolder, _record: dict[str, Any]) -> None:
        raise CheckpointError("cannot write: the disk is full")

    monkeypatch.setattr(RunFolder, "write_config", refuses)
    with pytest.raises(CheckpointError, match="the disk is full"):
        opening(case, out=str(tmp_path / "new" / "run")).act()
    assert not (tmp_path / "new").exists()
