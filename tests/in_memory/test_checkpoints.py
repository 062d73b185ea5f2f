"""What jobs leave in their run folders, and who may go on there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, train

from psdp.checkpoint import find_checkpoint, read_manifest, read_weights
from psdp.checkpoint.read import verify
from psdp.errors import CheckpointError, NumericsError
from psdp.records.lock import RunLock
from psdp.servers.ending import TIME_LIMIT, Ended

pytestmark = pytest.mark.timeout(60)

ASYNC: dict[str, Any] = {"mode": "async", "workers": 3, "checkpoint_every": 1}


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("version", [3, 4, 5, 8])
def test_what_a_signal_leaves_is_whole_and_the_latest_version_though_versions_share_a_step(
    tmp_path: Path, servers: int, version: int
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= version else None

    with pytest.raises(Ended, match="the weights so far are in ") as ended:
        train(tmp_path, prepare=job.append, signalled=signalled, servers=servers, **ASYNC)
    told = Path(ended.value.__notes__[0].removeprefix("the weights so far are in "))
    assert find_checkpoint(tmp_path) == told
    reached = job[0].summary["version"]
    assert told.name == f"step-{reached // 3:06d}-v{reached:06d}"
    np.testing.assert_array_equal(read_weights(read_manifest(told)), job[0].weights)
    for folder in (tmp_path / "checkpoints").glob("step-*"):
        manifest = read_manifest(folder)
        verify(manifest)
        assert folder.name.endswith(f"-v{manifest.state['version']:06d}")


def poison(run: Training, rank: int, version: int, name: str) -> None:
    """Let a server's shard be infinite from a version on."""
    serving = run.servers[rank]
    advance = serving.progress.advance

    def poisoning(*arguments: Any) -> None:
        advance(*arguments)
        if serving.progress.version >= version:
            vectors = {"weights": serving.shard.weights.values} | serving.shard.optimizer.state()
            vectors[name][-1] = np.inf

    serving.progress.advance = poisoning  # type: ignore[method-assign]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["weights", "exp_avg_sq"])
def test_what_is_not_finite_is_not_saved_on_the_way(tmp_path: Path, rank: int, name: str) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        poison(run, rank, 4, name)

    with pytest.raises(NumericsError) as ended:
        train(tmp_path, workers=2, servers=2, prepare=prepare, checkpoint_every=2)
    vector = name if name == "weights" else f"optimizer.{name}"
    what = f"'{vector}' holds NaN or Inf in version 4 of server rank {rank}. Try"
    kept = tmp_path / "checkpoints" / "step-000002-v000002"
    if job[0].summary["stopped_by"] == "non-finite weights":
        assert f"cannot be trained any further: {what}" in str(ended.value)
    else:  # a worker saw what came of it first
        assert job[0].summary["stopped_by"] == "non-finite gradient"
    (note,) = ended.value.__notes__
    assert note.startswith(
        f"the weights so far could not be saved: '{vector}' holds NaN or Inf in "
    )
    assert note.endswith(f"; {kept} is kept")
    assert find_checkpoint(tmp_path) == kept
    rest = train(tmp_path / "rest", workers=2, servers=2, resume=tmp_path)
    assert rest.summary["version"] == 6


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_not_finite_is_not_saved_after_a_signal(tmp_path: Path, rank: int) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        poison(run, rank, 3, "exp_avg_sq")

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= 3 else None

    with pytest.raises(Ended) as ended:
        train(tmp_path, servers=2, prepare=prepare, signalled=signalled)
    (note,) = ended.value.__notes__
    assert (
        f"'optimizer.exp_avg_sq' holds NaN or Inf in version 3 of server rank {rank}; no " in note
    )
    assert list((tmp_path / "checkpoints").glob("step-*")) == []


MORE: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "local", "local_steps": 3},
    {"mode": "ssp", "staleness": 0, "workers": 1},
    {"mode": "sync", "balance": "dynamic"},
]


@pytest.mark.parametrize("mode", MORE, ids=str)
def test_a_run_goes_on_with_another_number_of_servers(tmp_path: Path, mode: dict[str, Any]) -> None:
    settings = {"workers": 2, "max_steps": 12, "checkpoint_every": 6, "n_layer": 2} | mode
    start = train(tmp_path / "whole", servers=2, **settings).checkpoints()[6]
    rests = [train(tmp_path / f"{k}", resume=start, servers=k, **settings) for k in (2, 1, 3)]
    for rest in rests:
        np.testing.assert_array_equal(rest.weights, rests[0].weights)
        assert list(rest.progress.clocks) == list(rest.job.workers)
        assert set(rest.progress.clocks.values()) == set(rests[0].progress.clocks.values())


def test_of_two_jobs_that_go_on_in_one_folder_one_does(tmp_path: Path) -> None:
    train(tmp_path, max_steps=3)
    first = Training(tmp_path, resume=tmp_path, settings={"max_steps": 6})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=f"is in use by .* rank 0 is process {os.getpid()} on"
    ):
        train(tmp_path, resume=tmp_path, max_steps=6)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert first.run().summary["version"] == 6
    assert train(tmp_path, resume=tmp_path, max_steps=9).summary["version"] == 9


def test_a_job_that_lost_its_folder_writes_nothing_more_there(tmp_path: Path) -> None:
    taken: list[Any] = []

    def prepare(run: Training) -> None:
        def take_over(gradient: int) -> None:
            if gradient == 3:
                (tmp_path / "lock.json").unlink()
                lock = RunLock(tmp_path)
                taken.append(lock)
                taken.append(sorted((tmp_path / "checkpoints").glob("step-*")))
                taken.append((tmp_path / "metrics.jsonl").read_bytes())

        before_gradient(run.worker(0), take_over)

    with pytest.raises(CheckpointError, match="its lock was lost, and a job whose rank 0 is"):
        train(tmp_path, prepare=prepare, checkpoint_every=100)
    lock, checkpoints, metrics = taken
    assert sorted((tmp_path / "checkpoints").glob("step-*")) == checkpoints
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert not (tmp_path / "summary.json").exists()
    lock.check()


def test_a_run_goes_on_from_the_one_before_a_damaged_checkpoint(tmp_path: Path) -> None:
    settings = {"workers": 2, "max_steps": 6, "checkpoint_every": 2}
    whole = train(tmp_path / "whole", **settings)
    run = train(tmp_path / "run", **settings)
    (run.folder / "checkpoints" / "best.json").write_text("{")
    (shard,) = run.checkpoints()[6].glob("*.safetensors")
    os.truncate(shard, 100)
    rest = train(run.folder, resume=run.folder, keep_checkpoints=1, **settings)
    np.testing.assert_array_equal(rest.weights, whole.weights)
    assert find_checkpoint(run.folder) == run.checkpoints()[6]
    assert {path.name for path in (run.folder / "checkpoints").glob("damaged-*")} == {
        "damaged-best.json", "damaged-step-000006-v000006",
    }  # fmt: skip
    damaged = run.folder / "checkpoints" / "damaged-step-000006-v000006"
    with pytest.raises(CheckpointError, match=r"shard-00-of-01.* is damaged: expected .* got 100"):
        train(tmp_path / "explicit", resume=damaged, **settings)


@pytest.mark.parametrize(("before", "status"), [(True, 2), (False, 75)])
def test_a_time_in_which_nothing_is_trained_is_not_to_be_tried_again(
    tmp_path: Path, before: bool, status: int
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        trained = job and job[0].progress.version
        return TIME_LIMIT if rank == 0 and (before or trained) else None

    with pytest.raises(Ended) as ended:
        train(tmp_path, prepare=job.append, signalled=signalled, max_steps=200)
    assert ended.value.status == status
    assert ("give more" in str(ended.value)) is before
