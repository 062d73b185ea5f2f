"""Which checkpoint a run goes on from, and whether it holds its folder then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from saved_run import SavedRun

from psdp.errors import CheckpointError, ConfigError
from psdp.records.lock import RunLock
from psdp.startup.choosing import ChooseCheckpoint, Chosen


def choose(rank: int = 0, **given: Any) -> tuple[RunLock | None, Path | None]:
    """Return the lock of a rank and what all agree on, as if that rank were rank 0."""
    step = ChooseCheckpoint(rank, {name: str(value) for name, value in given.items()})
    lock, told = step.act()
    return lock, step.agree({0: told})


@pytest.fixture
def two(tmp_path: Path) -> SavedRun:
    return SavedRun(tmp_path / "run", (5, 10))


def test_a_new_run_has_none_to_go_on_from() -> None:
    assert choose(out="somewhere") == (None, None)


def test_rank_0_chooses_for_all(two: SavedRun) -> None:
    assert choose(1, resume=two.folder) == (None, None)
    step = ChooseCheckpoint(1, {"resume": str(two.folder)})
    assert step.agree({0: Chosen("there"), 1: Chosen(None)}) == Path("there")


def test_the_latest_is_gone_on_from_in_its_folder_which_is_held(two: SavedRun) -> None:
    for resume in (two.folder, two.checkpoint(10)):
        for out in (two.folder, f"{two.folder}/../run"):
            lock, chosen = choose(resume=resume, out=out)
            assert lock is not None
            assert (lock.folder, chosen) == (two.folder, two.checkpoint(10))
            with pytest.raises(CheckpointError, match="is in use by a job whose rank 0 is process"):
                choose(resume=two.folder)
            lock.release()


def test_a_run_that_is_read_only_may_be_in_use(two: SavedRun, tmp_path: Path) -> None:
    held = RunLock(two.folder)
    assert choose(resume=two.folder, out=tmp_path / "new") == (None, two.checkpoint(10))
    assert choose(resume=two.checkpoint(5)) == (None, two.checkpoint(5))
    held.check()


def test_later_checkpoints_are_not_overwritten(two: SavedRun) -> None:
    with pytest.raises(ConfigError, match="holds checkpoints later than step-000005-v000005"):
        choose(resume=two.checkpoint(5), out=two.folder)
    RunLock(two.folder)  # and nobody has it


def test_a_damaged_one_is_passed_over_and_said_so(
    two: SavedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (shard,) = two.checkpoint(10).glob("*.safetensors")
    os.truncate(shard, 100)
    lock, chosen = choose(resume=two.folder)
    assert lock is not None
    assert chosen == two.checkpoint(5)
    err = capsys.readouterr().err
    assert err.startswith(f"psdp: passed over a checkpoint that is not whole: {shard} is damaged")
    assert err.count("\n") == 1


def test_nothing_to_go_on_from_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        choose(resume=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"neither checkpoint\.json nor a folder"):
        choose(resume=tmp_path)
    assert list(tmp_path.iterdir()) == []
