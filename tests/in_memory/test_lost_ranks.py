"""Ranks that die anywhere, in any mode: every gradient of the budget counts once, and sync ends
with the bits of a run in which nothing was lost."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, die, die_at, train

from psdp.checkpoint import find_checkpoint
from psdp.errors import PeerLost
from psdp.params import Array
from psdp.transport import Sending
from psdp.transport import messages as m

SEEDS = int(os.environ.get("PSDP_SEEDS", "12"))
"""More of them find what is rarer."""

MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "sync", "grad_clip": 0.1, "dropout": 0.1},
    {"mode": "async"},
    {"mode": "ssp", "staleness": 1},
    {"mode": "local", "local_steps": 2},
    {"mode": "easgd", "local_steps": 2},
]


def some_die(run: Training, dice: random.Random, losses: int) -> None:
    """Let ranks die that work, at messages that they would send."""
    ranks = [run.worker(number) for number in range(run.workers)]
    for worker in dice.sample(ranks, losses):
        at, send = dice.randrange(1, 40), worker.endpoint.send

        def sending(
            peer: int,
            message: m.Message,
            payload: Array | None = None,
            worker: Any = worker,
            left: list[int] = [at],  # noqa: B006 (of each rank its own)
            send: Any = send,
        ) -> Sending:
            left[0] -= 1
            if not left[0]:
                die(worker)
            sent: Sending = send(peer, message, payload)
            return sent

        worker.endpoint.send = sending  # type: ignore[method-assign]
    for worker in ranks:  # who is fast lets the others come so far
        before_gradient(worker, lambda _count: time.sleep(dice.random() * 2e-3))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_or_counted_twice(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    mode = MODES[seed % len(MODES)]
    ranks, workers = dice.randint(2, 4), dice.randint(1, 5)
    losses = dice.randint(1, ranks - 1)
    common = {"workers": ranks, "servers": dice.randint(1, 3), "eval_every": 2, **mode}
    common |= {"virtual_workers": workers, "transport": dice.choice(["auto", "messages"])}
    run = train(tmp_path / "run", prepare=lambda run: some_die(run, dice, losses), **common)
    assert run.summary["stopped_by"] == "budget"
    assert sum(run.progress.clocks.values()) == run.job.gradients
    assert len({serving.progress.version for serving in run.servers}) == 1
    if mode["mode"] == "sync":
        undisturbed = train(tmp_path / "undisturbed", **common)
        np.testing.assert_array_equal(run.weights, undisturbed.weights)
        assert run.summary["val_loss"] == undisturbed.summary["val_loss"]


def test_a_job_whose_ranks_fail_again_and_again_ends_saved(tmp_path: Path) -> None:
    def two_die(run: Training) -> None:
        for number in (0, 1):
            die_at(run.worker(number), 2)

    allows = r"2 ranks have failed, --max-failures 1 allows no more; the last was rank [12] \("
    with pytest.raises(PeerLost, match=allows):
        train(tmp_path / "run", prepare=two_die, workers=4, max_failures=1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["stopped_by"], summary["failures"]) == ("failures", 2)
    assert find_checkpoint(tmp_path / "run").name.startswith(f"step-{summary['steps']:06d}")
