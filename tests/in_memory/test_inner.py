"""What workers have for themselves is in checkpoints: a resumed run has the bits of one that was
not interrupted, on any ranks."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, die, die_at, train

from psdp.checkpoint import find_checkpoint, read_manifest, read_worker
from psdp.checkpoint.read import verify
from psdp.errors import CheckpointError, RankFailed
from psdp.servers.ending import Ended
from psdp.startup.resume import who_begins_afresh

pytestmark = pytest.mark.timeout(60)

WORKERS = 3
LOCAL: dict[str, Any] = {
    "mode": "local",
    "local_steps": 2,
    "virtual_workers": WORKERS,
    "max_steps": 12,
    "checkpoint_every": 4,
    "dropout": 0.1,
    "grad_clip": 0.5,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return train(tmp_path_factory.mktemp("whole") / "run", workers=WORKERS, **LOCAL)


ALONE: list[dict[str, Any]] = [
    {"mode": "local"},
    {"mode": "local", "merge": "async"},
    {"mode": "easgd"},
]


def _uneven(run: Training) -> None:
    """Let ranks come in another order than that of a replay."""
    for number in range(run.workers):
        before_gradient(run.worker(number), lambda _count, n=number: time.sleep(n * 1e-3))


def kept(folder: Path) -> dict[int, bool]:
    """Return of which workers a checkpoint has what they had for themselves."""
    return {worker: file is not None for worker, file in read_manifest(folder).workers.items()}


def afresh(run: Training) -> str | None:
    """Return what a run said of its workers when it went on."""
    ready = run.ranks[0].ready
    assert ready.manifest is not None
    return who_begins_afresh(ready.job, ready.manifest)


# The same bits


@pytest.mark.parametrize(("ranks", "servers"), [(1, 1), (2, 2), (3, 1), (5, 2)])
@pytest.mark.parametrize("step", [4, 8])
def test_local_steps_go_on_with_the_same_bits_on_any_ranks(
    tmp_path: Path, whole: Training, step: int, ranks: int, servers: int
) -> None:
    start = whole.checkpoints()[step]
    assert kept(start) == {1: True, 2: True, 3: True}
    rest = train(tmp_path, resume=start, workers=ranks, servers=servers, **LOCAL)
    assert rest.weights_sha256 == whole.weights_sha256
    assert afresh(rest) is None


@pytest.mark.parametrize("ranks", [1, 3])
def test_so_does_a_run_that_was_saved_where_that_was_not_expected(
    tmp_path: Path, whole: Training, ranks: int
) -> None:
    """Workers have begun what comes next by then."""
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= 3 else None

    run = tmp_path / "run"
    with pytest.raises(Ended, match="the weights so far are in "):
        train(run, workers=ranks, prepare=job.append, signalled=signalled, **LOCAL)
    saved = find_checkpoint(run)
    assert read_manifest(saved).state["version"] not in (2, 4), "of a version that was not due"
    rest = train(run, resume=run, workers=2, **LOCAL)
    assert rest.weights_sha256 == whole.weights_sha256


def test_so_does_a_run_of_which_a_rank_has_failed(tmp_path: Path, whole: Training) -> None:
    """It still says what its workers had before."""

    def prepare(run: Training) -> None:
        def fail(count: int) -> None:
            if count == 7:
                raise ValueError("a bug")

        before_gradient(run.worker(1), fail)

    run = tmp_path / "run"
    with pytest.raises(RankFailed):
        train(run, workers=3, prepare=prepare, **LOCAL)
    assert kept(find_checkpoint(run)) == {1: True, 2: True, 3: True}
    rest = train(run, resume=run, workers=2, **LOCAL)
    assert rest.weights_sha256 == whole.weights_sha256


def test_so_does_the_best_which_is_known_when_its_evaluation_is_over(
    tmp_path: Path, whole: Training
) -> None:
    run = train(tmp_path / "run", **LOCAL | {"eval_every": 2, "checkpoint_every": 0}, workers=2)
    best = json.loads((run.folder / "checkpoints" / "best.json").read_text())["checkpoint"]
    start = run.folder / "checkpoints" / best
    assert kept(start) == {1: True, 2: True, 3: True}
    rest = train(tmp_path / "rest", resume=start, workers=3, **LOCAL | {"max_steps": 12})
    assert rest.weights_sha256 == run.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "adagrad"},
        {"optimizer": "momentum", "momentum": 0.9},
        {"wire_dtype": "bf16", "dtype": "float32"},
        {"outer_optimizer": "average"},
    ],
    ids=lambda more: next(iter(more.values())),
)
def test_so_does_it_with_other_optimizers_and_codecs(tmp_path: Path, more: dict[str, Any]) -> None:
    settings = LOCAL | more
    run = train(tmp_path / "run", workers=2, **settings)
    rest = train(tmp_path / "rest", workers=3, resume=run.checkpoints()[4], **settings)
    assert rest.weights_sha256 == run.weights_sha256


@pytest.mark.parametrize("wire", [{}, {"wire_dtype": "bf16", "dtype": "float32"}], ids=str)
@pytest.mark.parametrize("workers", [1, 3])
def test_elastic_workers_go_on_with_their_weights(
    tmp_path: Path, workers: int, wire: dict[str, Any]
) -> None:
    """One rank has an order that does not depend on time. What is saved is not answered yet."""
    settings = LOCAL | {"mode": "easgd", "virtual_workers": workers} | wire
    run = train(tmp_path / "run", **settings)
    start = run.checkpoints()[4]
    own = read_worker(read_manifest(start), 1)
    assert own is not None
    assert own["progress"].tolist() == [4, 4, 0]
    assert set(own) >= {"weights", "optimizer.exp_avg"}
    rest = train(tmp_path / "rest", resume=start, **settings)
    assert rest.weights_sha256 == run.weights_sha256


def test_elastic_workers_of_one_rank_are_drawn_by_what_each_has_pushed(tmp_path: Path) -> None:
    """In bfloat16 too, where the last one's payload is not that of all."""
    elastic = LOCAL | {"mode": "easgd", "dtype": "float32", "max_steps": 24}
    ends = []
    for wire in ("float32", "bf16"):
        run = train(tmp_path / wire, wire_dtype=wire, **elastic)
        ends.append([record["loss"] for record in run.metrics("train")][-3:])
    np.testing.assert_allclose(*ends, rtol=2e-3)


# Who begins afresh


def test_a_checkpoint_need_not_have_it(tmp_path: Path, whole: Training) -> None:
    settings = LOCAL | {"keep_inner": False}
    run = train(tmp_path / "run", workers=3, **settings)
    assert run.weights_sha256 == whole.weights_sha256
    start = run.checkpoints()[4]
    assert kept(start) == {}
    assert list(start.glob("worker-*")) == []
    rest = train(tmp_path / "rest", workers=3, resume=start, **LOCAL, keep_inner=True)
    assert rest.weights_sha256 != whole.weights_sha256
    assert "all workers begin afresh with an optimizer of their own" in str(afresh(rest))
    assert kept(rest.checkpoints()[8]) == {1: True, 2: True, 3: True}


def test_a_checkpoint_of_before_is_read_and_what_it_has_not_is_said(
    tmp_path: Path, whole: Training
) -> None:
    run = train(tmp_path / "run", workers=3, **LOCAL | {"keep_inner": False})
    start = run.checkpoints()[4]
    path = start / "checkpoint.json"
    body = json.loads(path.read_text())
    del body["workers"], body["digest"]
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps(body | {"digest": hashlib.sha256(canonical).hexdigest()}))
    rest = train(tmp_path / "rest", workers=3, resume=start, **LOCAL)
    assert "all workers begin afresh" in str(afresh(rest))
    assert rest.summary["version"] == whole.summary["version"]


def test_a_rank_that_dies_while_it_should_write_is_not_waited_for(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        worker = run.worker(1)
        assert worker.exchange.saving is not None
        worker.exchange.saving.asked = lambda _message: die(worker)  # type: ignore[method-assign]

    run = train(tmp_path / "run", workers=3, prepare=prepare, **LOCAL)
    first = run.checkpoints()[4]
    assert kept(first) == {1: True, 2: False, 3: True}
    assert kept(run.checkpoints()[8]) == {1: True, 2: True, 3: True}, "its heir has written"
    rest = train(tmp_path / "rest", workers=2, resume=first, **LOCAL)
    assert "worker(s) 2 begin afresh" in str(afresh(rest))
    (moved,) = run.metrics("move")
    assert moved["afresh"]


def test_a_rank_that_does_not_see_the_run_folder_is_done_without(
    tmp_path: Path, whole: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(run: Training) -> None:
        saving = run.worker(1).exchange.saving
        assert saving is not None
        saving._store.run = tmp_path / "elsewhere"  # noqa: SLF001

    run = train(tmp_path / "run", workers=3, prepare=prepare, **LOCAL | {"quiet": False})
    assert run.weights_sha256 == whole.weights_sha256
    assert kept(run.checkpoints()[4]) == {1: True, 2: False, 3: True}
    said = capsys.readouterr().out
    assert said.count("without what some workers have for themselves (worker 2: there is no ") == 1
    assert "must be on a disk that they share" in said


def test_a_damaged_file_of_a_worker_makes_a_checkpoint_not_whole(
    tmp_path: Path, whole: Training
) -> None:
    run = train(tmp_path / "run", workers=3, **LOCAL)
    os.truncate(run.checkpoints()[12] / "worker-0003.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"worker-0003.* is damaged: expected .* got 100"):
        train(tmp_path / "named", workers=3, resume=run.checkpoints()[12], **LOCAL)
    rest = train(tmp_path / "run", workers=3, resume=run.folder, **LOCAL)
    assert rest.weights_sha256 == whole.weights_sha256
    assert (tmp_path / "run" / "checkpoints" / "damaged-step-000012-v000006").is_dir()


@pytest.mark.parametrize("seed", range(9))
def test_whoever_dies_when_checkpoints_are_whole_and_can_be_gone_on_from(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    ranks = dice.randint(2, 4)
    settings = LOCAL | ALONE[seed % len(ALONE)] | {"servers": dice.randint(1, 2)}
    settings |= {"virtual_workers": 4, "checkpoint_every": 1, "eval_every": 3}

    def prepare(run: Training) -> None:
        _uneven(run)
        for number in dice.sample(range(ranks), dice.randint(1, ranks - 1)):
            die_at(run.worker(number), dice.randrange(12))

    run = train(tmp_path / "run", workers=ranks, prepare=prepare, **settings)
    clocks = {}
    for folder in run.checkpoints().values():
        manifest = read_manifest(folder)
        verify(manifest)
        assert list(manifest.workers) == [1, 2, 3, 4]
        clocks = manifest.state["clocks"]
        for worker in (worker for worker, file in manifest.workers.items() if file is not None):
            own = read_worker(manifest, worker)
            assert own is not None
            assert own["progress"][0] == clocks[str(worker)], "no state of a later step"
    assert sum(clocks.values()) == run.job.gradients
    start = dice.choice(list(run.checkpoints().values()))
    rest = train(tmp_path / "rest", workers=2, resume=start, **settings)
    assert rest.summary["stopped_by"] == "budget"
    assert sum(rest.progress.clocks.values()) == rest.job.gradients


# Replays


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("mode", ALONE, ids=lambda mode: "-".join(mode.values()))
def test_what_a_move_has_lost_a_replay_does_not_find_again(
    tmp_path: Path, mode: dict[str, Any], ranks: int
) -> None:
    settings = LOCAL | mode | {"workers": ranks, "max_steps": 24}

    def dies(run: Training) -> None:
        _uneven(run)
        die_at(run.worker(ranks - 1), 9)

    run = train(tmp_path / "run", prepare=dies, record=True, **settings)
    assert len(run.metrics("move")) >= 1
    again = train(tmp_path / "again", replay=str(run.folder), **settings)
    assert again.weights_sha256 == run.weights_sha256


@pytest.mark.parametrize("mode", ALONE, ids=lambda mode: "-".join(mode.values()))
def test_a_run_that_went_on_is_replayed_with_what_its_workers_had(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    settings = LOCAL | mode | {"workers": 2}
    run = train(tmp_path / "run", prepare=_uneven, **settings)
    start = run.checkpoints()[4]
    assert kept(start) == {1: True, 2: True, 3: True}
    clocks = read_manifest(start).state["clocks"]
    for worker in (1, 2, 3):
        own = read_worker(read_manifest(start), worker)
        assert own is not None
        assert own["progress"][0] == clocks[str(worker)], "no state of a later step"

    def dies(run: Training) -> None:
        _uneven(run)
        die_at(run.worker(1), 5)

    on = train(tmp_path / "on", resume=start, prepare=dies, record=True, **settings)
    again = train(tmp_path / "again", resume=start, replay=str(on.folder), **settings)
    assert again.weights_sha256 == on.weights_sha256
