"""The number of servers does not show in the bits, whatever they clip and however they update."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train

from psdp.checkpoint import CheckpointId, find_checkpoint, read_manifest, read_span
from psdp.checkpoint.store import CheckpointStore

pytestmark = pytest.mark.timeout(90)
MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "sync", "wire_dtype": "bf16"},
    {"mode": "local", "local_steps": 3},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_clipped_runs_end_with_the_same_bits(tmp_path: Path, mode: dict[str, Any]) -> None:
    common = {"workers": 3, "max_steps": 12, "lr": 1e-2, "dropout": 0.1, "grad_clip": 0.1}
    common |= {"dtype": "float32", "n_layer": 2}
    runs = [train(tmp_path / f"{k}", servers=k, **common, **mode) for k in (1, 2, 3, 5)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.weights, runs[0].weights)
        norms = [[r["grad_norm"] for r in each.metrics("train")] for each in (run, runs[0])]
        assert norms[0] == norms[1]
    free = train(tmp_path / "free", **common | {"grad_clip": 0.0}, **mode)
    assert mode["mode"] == "local" or free.weights_sha256 != runs[0].weights_sha256


def test_means_of_more_slots_than_a_message_holds_are_told_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.servers.updates.MOST_INCLUDED", 2)
    one, two = (train(tmp_path / f"{k}", servers=k, workers=5) for k in (1, 2))
    np.testing.assert_array_equal(one.weights, two.weights)


def test_one_worker_alone_sends_the_norm_that_servers_would_find(tmp_path: Path) -> None:
    common = {"mode": "async", "max_steps": 12, "lr": 1e-2, "grad_clip": 0.1, "n_layer": 2}
    runs = [train(tmp_path / f"{k}", servers=k, **common) for k in (1, 3)]
    np.testing.assert_array_equal(runs[0].weights, runs[1].weights)


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("mode", MODES[::2], ids=str)
def test_a_rule_that_needs_matrices_does_the_same_on_any_number_of_servers(
    tmp_path: Path, mode: dict[str, Any], clip: float
) -> None:
    common = {"workers": 2, "max_steps": 12, "n_layer": 4, "checkpoint_every": 6} | mode
    common |= {"optimizer": "muon", "grad_clip": clip}
    runs = [train(tmp_path / f"{k}", servers=k, **common) for k in (1, 2, 3)]
    for run in runs:
        np.testing.assert_array_equal(run.weights, runs[0].weights)
        table = run.job.table
        largest = max(spec.size for spec in table.specs if spec.matrix)
        shares = [len(shard) for shard in run.job.shards]
        assert all(abs(share - table.size / len(shares)) <= largest for share in shares)
    rest = train(tmp_path / "rest", servers=3, resume=runs[2].checkpoints()[6], **common)
    np.testing.assert_array_equal(rest.weights, runs[0].weights)
    adamw = train(tmp_path / "adamw", **common | {"optimizer": "adamw"})  # the rule shows
    assert adamw.weights_sha256 != runs[0].weights_sha256


def test_a_shard_is_read_from_a_checkpoint_that_was_cut_elsewhere(tmp_path: Path) -> None:
    run: Training = train(tmp_path / "run", servers=2, checkpoint_every=4, max_steps=4)
    manifest = read_manifest(find_checkpoint(tmp_path / "run"))
    size = run.job.table.size
    whole = read_span(manifest, range(size))
    np.testing.assert_array_equal(whole["weights"], run.weights)
    for count in (1, 3, 7):
        cuts = [size * k // count for k in range(count + 1)]
        for start, stop in pairwise(cuts):
            part = read_span(manifest, range(start, stop))
            assert part.keys() == whole.keys()
            for name in ("weights", "optimizer.exp_avg", "optimizer.exp_avg_sq"):
                np.testing.assert_array_equal(part[name], whole[name][start:stop])
            np.testing.assert_array_equal(part["progress"], whole["progress"])


def test_a_checkpoint_of_shards_that_ended_elsewhere_is_gone_on_from(tmp_path: Path) -> None:
    """As version 0.1.0 cut them: of the same size to one element."""
    common = {"workers": 2, "servers": 2, "max_steps": 8, "checkpoint_every": 4}
    whole = train(tmp_path / "whole", **common)
    manifest = read_manifest(whole.checkpoints()[4])
    size, store = whole.job.table.size, CheckpointStore(tmp_path / "old", 0)
    cut = size // 2 + 1
    assert cut not in {shard.start for shard in whole.job.shards}
    spans = range(cut), range(cut, size)
    files = [
        store.write_shard(CheckpointId(4, 4), shard, 2, read_span(manifest, span))
        for shard, span in enumerate(spans)
    ]
    store.commit(CheckpointId(4, 4), files, manifest.state)
    rest = train(tmp_path / "rest", resume=tmp_path / "old", **common)
    np.testing.assert_array_equal(rest.weights, whole.weights)
