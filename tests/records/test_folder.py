"""The run folder: another run is never overwritten, and readers see whole files only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from psdp.errors import CheckpointError, ConfigError
from psdp.records.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "mine")
    made.create()
    return made


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        RunFolder(path).create()
    return str(refused.value)


def test_it_is_made_with_its_parents_or_taken_if_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    for _ in range(2):
        folder = RunFolder(path)
        folder.create()
        assert [file.name for file in path.iterdir()] == ["lock.json"]
        folder.let_go()


def test_another_run_is_left_alone_and_resuming_it_is_offered(folder: RunFolder) -> None:
    folder.write_config({})
    folder.append_metrics({"kind": "eval"})
    folder.let_go()
    text = refusal(folder.path)
    assert text.startswith(f"--out {folder.path} holds another run;")
    assert text.endswith(f"go on with it by --resume {folder.path}")


def test_a_run_that_has_not_begun_leaves_its_folder_to_others_once_it_is_lost(
    folder: RunFolder,
) -> None:
    folder.write_config({"lr": 1})
    (folder.path / "config.tmp").write_text('{"lr"')
    (folder.path / "events-000000.jsonl").write_text('["start", {}]')
    with pytest.raises(CheckpointError, match="is in use by a job whose rank 0 is process"):
        RunFolder(folder.path).create()
    folder.let_go()
    after = RunFolder(folder.path)
    after.create()
    after.write_config({"lr": 2})
    assert json.loads((folder.path / "config.json").read_text()) == {"lr": 2}
    assert not (folder.path / "events-000000.jsonl").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert refusal(tmp_path) == (
        f"--out {tmp_path} is not empty (it holds thesis.tex); choose another folder"
    )


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert refusal(file) == f"--out {file}: File exists"
    assert refusal(file / "below") == f"--out {file / 'below'}: Not a directory"


def test_records_are_json_files_for_people(folder: RunFolder) -> None:
    folder.write_config({"corpus": "天地", "lr": 0.1})
    folder.write_summary({"loss": None})
    text = (folder.path / "config.json").read_text("utf-8")
    assert text == '{\n  "corpus": "天地",\n  "lr": 0.1\n}\n'
    assert json.loads((folder.path / "summary.json").read_text()) == {"loss": None}
    assert {path.name for path in folder.path.iterdir()} == {
        "config.json", "lock.json", "summary.json",
    }  # fmt: skip


def test_a_record_is_replaced_as_a_whole(folder: RunFolder) -> None:
    folder.write_summary({"steps": 1})
    with open(folder.path / "summary.json") as reader:
        folder.write_summary({"steps": 2})
        assert json.load(reader) == {"steps": 1}, "who was reading it reads on undisturbed"
    assert json.loads((folder.path / "summary.json").read_text()) == {"steps": 2}


def test_metrics_are_lines_that_a_reader_sees_at_once(folder: RunFolder) -> None:
    folder.append_metrics({"kind": "train", "loss": 2.5})
    path = folder.path / "metrics.jsonl"
    assert path.read_text() == '{"kind": "train", "loss": 2.5}\n'
    folder.append_metrics({"kind": "eval"})
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["train", "eval"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ('{"a": 1}\n', '{"a": 1}\n'),
        ('{"a": 1}\n{"b', '{"a": 1}\n'),
        ('{"a": 1}\n{"b": 2}', '{"a": 1}\n'),
        ("{" * 200_000, ""),
        ("{}\n" + "{" * 200_000, "{}\n"),
    ],
)
def test_a_last_line_that_is_cut_off_is_dropped(folder: RunFolder, before: str, after: str) -> None:
    path = folder.path / "metrics.jsonl"
    folder.mend_metrics()  # of which there are none yet
    assert not path.exists()
    path.write_text(before)
    folder.mend_metrics()
    assert path.read_text() == after


def test_metrics_of_a_resumed_run_follow_those_before(folder: RunFolder) -> None:
    folder.append_metrics({"version": 1})
    RunFolder(folder.path).append_metrics({"version": 2})
    assert (folder.path / "metrics.jsonl").read_text() == '{"version": 1}\n{"version": 2}\n'


@pytest.mark.parametrize("write", ["append_metrics", "write_config", "write_summary"])
def test_a_number_that_json_does_not_know_is_our_mistake(folder: RunFolder, write: str) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        getattr(folder, write)({"loss": float("nan")})


@pytest.mark.parametrize(
    ("write", "name"),
    [
        ("append_metrics", "metrics.jsonl"),
        ("write_config", "config.json"),
        ("write_summary", "summary.json"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(folder: RunFolder, write: str, name: str) -> None:
    (folder.path / name).with_suffix(".tmp").mkdir()
    (folder.path / name).mkdir()
    with pytest.raises(CheckpointError) as refused:
        getattr(folder, write)({})
    reason = "Is a directory; the run stops here"
    assert str(refused.value) == f"cannot write {folder.path / name}: {reason}"


def test_a_full_disk_leaves_the_record_before_and_no_scraps(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    folder.write_summary({"steps": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"summary\.json: No space left on device"):
        folder.write_summary({"steps": 2})
    assert json.loads((folder.path / "summary.json").read_text()) == {"steps": 1}
    assert {path.name for path in folder.path.iterdir()} == {"lock.json", "summary.json"}


def test_a_run_that_did_not_start_leaves_no_trace(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create()
    folder.write_config({})
    folder.append_metrics({})
    folder.withdraw()
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    folder.path.mkdir()
    folder.create()
    folder.write_config({})
    folder.withdraw()
    assert list(tmp_path.rglob("*")) == [folder.path]


def test_a_run_that_goes_on_keeps_its_folder(folder: RunFolder) -> None:
    folder.write_config({})
    folder.append_metrics({"kind": "eval"})
    resumed = RunFolder(folder.path)
    resumed.withdraw()
    with pytest.raises(ConfigError):
        resumed.create()
    resumed.withdraw()
    assert (folder.path / "config.json").exists()


def test_a_folder_that_cannot_be_made_leaves_nothing_of_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        RunFolder(tmp_path / "a" / "b").create()
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
