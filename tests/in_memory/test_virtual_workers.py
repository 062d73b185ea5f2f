"""Results depend on the workers, not on the ranks that compute for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train

from psdp.records.events import events_file

WORKERS = 4
SYNC: dict[str, Any] = {
    "mode": "sync",
    "virtual_workers": WORKERS,
    "dropout": 0.1,
    "grad_clip": 0.5,
    "eval_every": 3,
    "checkpoint_every": 3,
}


def losses(run: Training) -> list[float]:
    return [record["val_loss"] for record in run.metrics("eval")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run with a rank for each worker."""
    settings = {name: of for name, of in SYNC.items() if name != "virtual_workers"}
    return train(tmp_path_factory.mktemp("whole") / "run", workers=WORKERS, **settings)


@pytest.mark.parametrize(("ranks", "servers"), [(1, 1), (2, 1), (3, 2), (4, 3), (6, 1)])
def test_sync_ends_with_the_same_bits_on_any_ranks(
    tmp_path: Path, whole: Training, ranks: int, servers: int
) -> None:
    run = train(tmp_path / "run", workers=ranks, servers=servers, **SYNC)
    assert run.weights_sha256 == whole.weights_sha256
    assert losses(run) == losses(whole)
    assert run.summary["workers"] == WORKERS
    assert run.metrics("train")[-1]["clocks"] == whole.metrics("train")[-1]["clocks"]


@pytest.mark.parametrize(
    "settings", [{"wire_dtype": "bf16", "dtype": "float32"}, {"grad_accum": 2}, {"kernels": "auto"}]
)
def test_so_does_it_with_what_changes_a_gradient(tmp_path: Path, settings: dict[str, Any]) -> None:
    few, many = (
        train(tmp_path / str(ranks), workers=ranks, **SYNC | settings) for ranks in (2, WORKERS)
    )
    assert few.weights_sha256 == many.weights_sha256


@pytest.mark.parametrize(("first", "then"), [(4, 1), (1, 3), (2, 5)])
def test_a_run_goes_on_with_other_ranks(
    tmp_path: Path, whole: Training, first: int, then: int
) -> None:
    begun = train(
        tmp_path / "run", workers=first, **SYNC | {"max_steps": 3, "lr_schedule": "constant"}
    )
    half = begun.checkpoints()[3]
    on = {"max_steps": 6, "out": str(tmp_path / "rest")}
    rest = train(tmp_path / "rest", workers=then, resume=half, **on)
    other = train(tmp_path / "all", workers=4, **SYNC | {"lr_schedule": "constant"})
    assert rest.weights_sha256 == other.weights_sha256
    assert len(rest.job.workers) == WORKERS


@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "local", "local_steps": 2},
        {"mode": "local", "local_steps": 2, "outer_optimizer": "nesterov", "grad_clip": 0.1},
    ],
    ids=["average", "nesterov"],
)
def test_rounds_of_local_steps_do_not_depend_on_the_ranks(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    runs = [
        train(tmp_path / str(ranks), workers=ranks, virtual_workers=3, max_steps=8, **mode)
        for ranks in (1, 2, 3)
    ]
    assert len({run.weights_sha256 for run in runs}) == 1


@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "async"},
        {"mode": "async", "lag_compensation": "dc-asgd"},
        {"mode": "ssp", "staleness": 1},
        {"mode": "easgd", "local_steps": 2},
        {"mode": "local", "merge": "async", "local_steps": 2},
        {"mode": "auto"},
        {"mode": "sync", "backup_workers": 1},
        {"mode": "sync", "balance": "dynamic"},
        {"mode": "async", "overlap": True},
    ],
    ids=lambda mode: "-".join(map(str, mode.values())),
)
def test_every_mode_ends_and_replays_with_more_workers_than_ranks(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    common: dict[str, Any] = {"workers": 2, "virtual_workers": 5, "eval_every": 2}
    run = train(tmp_path / "run", record=True, **common, **mode)
    assert run.summary["stopped_by"] == "budget"
    assert sum(run.progress.clocks.values()) == run.job.gradients
    assert events_file(run.folder, 0).exists()
    again = train(tmp_path / "again", replay=str(run.folder), **common, **mode)
    assert again.weights_sha256 == run.weights_sha256


@pytest.mark.parametrize("ranks", [1, 2])
def test_workers_that_reduce_their_gradients_end_alike_to_rounding(
    tmp_path: Path, ranks: int
) -> None:
    common = {"mode": "allreduce", "virtual_workers": 3, "eval_every": 3}
    few = train(tmp_path / "few", workers=ranks, **common)
    many = train(tmp_path / "many", workers=3, **common)
    np.testing.assert_allclose(few.weights, many.weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(losses(few), losses(many), rtol=1e-9)
    for one, other in zip(few.metrics("train"), many.metrics("train"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)


@pytest.mark.parametrize("servers", [1, 2])
def test_more_workers_than_an_answer_has_room_for_are_let_go(tmp_path: Path, servers: int) -> None:
    run = train(tmp_path, workers=1, virtual_workers=20, servers=servers, max_steps=2)
    assert run.summary["stopped_by"] == "budget"


def test_spare_ranks_wait_and_end_with_the_others(tmp_path: Path) -> None:
    run = train(tmp_path / "run", workers=4, virtual_workers=2, mode="async")
    assert [bool(run.job.hosted(rank)) for rank in run.job.worker_ranks] == [
        True,
        True,
        False,
        False,
    ]
    assert run.summary["stopped_by"] == "budget"
