"""Batches that rank 0 deals out: every window once an epoch, whoever is slow, dies or resumes."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, corpus, die_at, train

from psdp.data.partition import Partition
from psdp.data.windows import Grid
from psdp.errors import PeerLost
from psdp.transport import messages as m

pytestmark = pytest.mark.timeout(90)

DYNAMIC: dict[str, Any] = {"balance": "dynamic", "lr": 1e-2}


def watch(run: Training) -> Counter[int]:
    """Count the batches that the workers push."""
    pushed: Counter[int] = Counter()
    leader = run.leader
    on_message = leader.on_message

    def counted(peer: int, message: Any) -> None:
        if isinstance(message, tuple(m.PUSHES.values())):
            pushed.update(message.work.batches)
        on_message(peer, message)

    leader.on_message = counted
    return pushed


def slow(run: Training, number: int, delay_s: float) -> None:
    before_gradient(run.worker(number), lambda _count: time.sleep(delay_s))


@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "async"},
        {"mode": "ssp", "staleness": 3},
        {"mode": "local", "local_steps": 4, "merge": "async"},
        {"mode": "easgd", "local_steps": 3},
    ],
    ids=lambda mode: mode["mode"],
)
def test_the_fast_take_more_and_every_batch_is_computed_once(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    pushed: list[Counter[int]] = []

    def prepare(run: Training) -> None:
        pushed.append(watch(run))
        slow(run, 2, 5e-3)

    run = train(tmp_path, workers=3, max_steps=20, prepare=prepare, **DYNAMIC, **mode)
    assert pushed[0] == Counter(range(60))
    clocks = run.metrics("train")[-1]["clocks"]
    assert clocks["3"] < max(clocks["1"], clocks["2"])


def test_in_sync_they_are_those_of_static_shares(tmp_path: Path) -> None:
    common: dict[str, Any] = {"workers": 3, "max_steps": 20, "dropout": 0.1, "lr": 1e-2}
    dealt = train(tmp_path / "dealt", balance="dynamic", **common)
    static = train(tmp_path / "static", **common)
    np.testing.assert_array_equal(dealt.weights, static.weights)


def test_every_window_is_read_once_an_epoch_though_a_worker_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    starts = Partition.starts

    def noted(self: Partition, batch: int, batch_size: int) -> Any:
        found = starts(self, batch, batch_size)
        read.append((batch, found.tolist()))
        return found

    def prepare(run: Training) -> None:
        slow(run, 1, 3e-3)
        die_at(run.worker(2), 5)

    monkeypatch.setattr(Partition, "starts", noted)
    windows = Grid(corpus()[0].size, block_size=8, seed=0).count
    # 249 windows an epoch: 2 epochs are 249 batches of 2.
    train(tmp_path, workers=3, max_steps=83, mode="async", prepare=prepare, **DYNAMIC)
    batches = dict(read)  # of a batch that was computed again, the windows are the same
    assert all(batches[batch] == starts for batch, starts in read)
    assert sorted(batches) == list(range(249))
    samples = [start for batch in range(249) for start in batches[batch]]
    for epoch in (0, 1):
        assert len(set(samples[epoch * windows : (epoch + 1) * windows])) == windows


def test_the_position_survives_a_resume(tmp_path: Path) -> None:
    pushed: list[Counter[int]] = []
    common: dict[str, Any] = {
        "workers": 3, "max_steps": 20, "mode": "async", "checkpoint_every": 3, **DYNAMIC,
    }  # fmt: skip

    def dies(run: Training) -> None:
        slow(run, 0, 4e-3)
        for number in range(3):
            die_at(run.worker(number), 7)

    with pytest.raises(PeerLost):
        train(tmp_path, prepare=dies, **common)

    def resumes(run: Training) -> None:
        done.extend(run.progress.batches.pairs())
        pushed.append(watch(run))

    done: list[tuple[int, int]] = []
    train(tmp_path, resume=tmp_path, prepare=resumes, **common)
    before = {batch for start, stop in done for batch in range(start, stop)}
    assert 3 <= len(before) < 60  # a rank that inherits workers computes more than its 7
    assert pushed[0] == Counter(set(range(60)) - before)
