"""Ranks that die while a run ends: what is left of it saves the weights, and waits for none of
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_turns import Turns
from jobs import Training, die_at, train
from losses import die_with

from psdp.checkpoint import find_checkpoint, read_manifest, read_weights
from psdp.errors import PeerLost
from psdp.servers.ending import LAST_SAVE_S
from psdp.servers.gathering import GONE
from psdp.transport import messages as m

INNER: dict[str, Any] = {"mode": "local", "merge": "async", "local_steps": 2}
"""Workers have something for themselves, for which checkpoints wait."""


def ended(folder: Path, deaths: dict[int, type[Any]], **settings: Any) -> tuple[Training, str]:
    """Run a job whose only worker is lost, and then ranks that die instead of sending their first
    message of a kind; return it, and what was told of it."""
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        die_at(run.worker(0), 3)
        for rank, kind in deaths.items():
            die_with(run, rank, kind)

    with Turns(1) as turns:
        with pytest.raises(PeerLost) as told:
            train(folder, prepare=prepare, servers=2, **settings)
        assert turns.read() < LAST_SAVE_S / 4, "it has waited for somebody"
    return job[0], "; ".join([str(told.value), *getattr(told.value, "__notes__", ())])


def test_who_takes_over_from_a_leader_that_was_ending_waits_for_no_worker_that_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, told = ended(tmp_path, {0: m.SaveNow}, standby=True, quiet=False, **INNER)
    assert job.last_job.leader == 3
    assert "the last worker, rank 2, is gone (found as another rank was)" in told
    assert f"worker 1: {GONE}" in capsys.readouterr().out
    kept = read_manifest(find_checkpoint(tmp_path))
    np.testing.assert_array_equal(read_weights(kept), job.weights)


def test_who_stands_by_saves_the_shard_of_a_server_that_is_lost_as_the_run_ends(
    tmp_path: Path,
) -> None:
    job, told = ended(tmp_path, {1: m.ShardSaved}, standby=True)
    last = find_checkpoint(tmp_path)
    assert f"the weights so far are in {last}" in told
    np.testing.assert_array_equal(read_weights(read_manifest(last)), job.weights)


@pytest.mark.parametrize("standby", [False, True])
def test_weights_are_not_waited_for_that_nobody_holds_any_more(
    tmp_path: Path, standby: bool
) -> None:
    deaths = {1: m.ShardSaved} | ({4: m.ShardSaved} if standby else {})
    _, told = ended(tmp_path, deaths, standby=standby)
    why = "server rank 1 is gone, and its shard is lost with it"
    assert told.endswith(f"the weights so far could not be saved: {why}")
