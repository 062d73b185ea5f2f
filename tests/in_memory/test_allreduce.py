"""Workers that reduce gradients among themselves: the run is that of sync, and ends as one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, die_at, train

from psdp.checkpoint import read_manifest, read_shard
from psdp.errors import NumericsError, PeerLost, ProtocolError
from psdp.params import Array
from psdp.servers.ending import Ended
from psdp.task import Step
from psdp.transport import messages as m

pytestmark = pytest.mark.timeout(90)

MIXED: dict[str, Any] = {
    "workers": 3,
    "max_steps": 17,
    "log_every": 3,
    "eval_every": 4,
    "checkpoint_every": 5,
    "grad_accum": 2,
    "grad_clip": 0.05,
    "dropout": 0.1,
    "lr": 1e-2,
}


def tensors(checkpoint: Path) -> dict[str, Array]:
    return read_shard(read_manifest(checkpoint), 0)


def same_records(a: Training, b: Training, kind: str) -> None:
    ours, theirs = a.metrics(kind), b.metrics(kind)
    assert len(ours) == len(theirs) > 2
    for mine, other in zip(ours, theirs, strict=True):
        for name in mine.keys() - {"kind", "time_s", "tokens_per_s", "weights_sha256"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "sgd"])
def test_the_run_is_that_of_sync(tmp_path: Path, optimizer: str) -> None:
    reduced = train(tmp_path / "a", mode="allreduce", optimizer=optimizer, **MIXED)
    sync = train(tmp_path / "b", mode="sync", optimizer=optimizer, **MIXED)
    np.testing.assert_allclose(reduced.weights, sync.weights, rtol=0, atol=1e-10)
    same_records(reduced, sync, "train")
    same_records(reduced, sync, "eval")
    for name in ("steps", "tokens", "version", "version_lag", "max_clock_gap", "stopped_by"):
        assert reduced.summary[name] == sync.summary[name], name
    assert reduced.summary["weights_sha256"] == reduced.weights_sha256
    ours, theirs = reduced.checkpoints(), sync.checkpoints()
    assert ours.keys() == theirs.keys() >= {5, 10, 15, 17}
    for step, checkpoint in ours.items():
        mine, other = tensors(checkpoint), tensors(theirs[step])
        assert mine.keys() == other.keys()
        for name, vector in mine.items():
            np.testing.assert_allclose(vector, other[name], rtol=0, atol=1e-10, err_msg=name)


def test_two_workers_have_the_very_bits_of_sync(tmp_path: Path) -> None:
    """Halving is exact in binary, before a sum and after it."""
    settings = MIXED | {"workers": 2, "grad_clip": 0.0}
    reduced = train(tmp_path / "a", mode="allreduce", **settings)
    np.testing.assert_array_equal(reduced.weights, train(tmp_path / "b", **settings).weights)


def test_all_replicas_are_what_was_saved(tmp_path: Path) -> None:
    run = train(tmp_path, mode="allreduce", **MIXED)
    for number in range(3):
        np.testing.assert_array_equal(run.worker(number).replica.weights, run.weights)


def test_a_lone_worker_needs_no_others(tmp_path: Path) -> None:
    reduced = train(tmp_path / "a", mode="allreduce", max_steps=7)
    np.testing.assert_array_equal(reduced.weights, train(tmp_path / "b", max_steps=7).weights)
    assert reduced.summary["bytes_pushed"] == 3 * reduced.weights.nbytes  # at the end: AdamW's


@pytest.mark.parametrize("step", [5, 10, 15])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    settings = MIXED | {"mode": "allreduce", "keep_checkpoints": 0}
    whole = train(tmp_path / "whole", **settings)
    rest = train(tmp_path / "rest", resume=whole.checkpoints()[step], **settings)
    np.testing.assert_array_equal(rest.weights, whole.weights)
    assert rest.metrics("train")[0]["version"] == step + 1
    assert rest.summary["val_loss"] == whole.summary["val_loss"]


def test_rank_0_is_handed_the_state_once_a_meeting_and_headers_otherwise(tmp_path: Path) -> None:
    seen: list[tuple[m.Message, int]] = []

    def watch(run: Training) -> None:
        for rank in run.ranks[1:]:
            send = rank.endpoint.send

            def note(peer: int, message: m.Message, payload: Any = None, send: Any = send) -> Any:
                seen.append((message, 0 if payload is None else payload.nbytes))
                return send(peer, message, payload)

            rank.endpoint.send = note  # type: ignore[method-assign]

    settings = MIXED | {"mode": "allreduce", "eval_every": 0, "max_steps": 20}
    run = train(tmp_path, prepare=watch, **settings)
    weights = run.weights.nbytes
    states = [message.index for message, size in seen if isinstance(message, m.State)]
    assert states == [0, 1, 2] * 4, "AdamW's two vectors and the weights, at 5, 10, 15 and 20"
    assert sum(size for _, size in seen) == 4 * 3 * weights
    reported = [message for message, _ in seen if isinstance(message, m.Progress)]
    ends = sorted({message.clock + message.steps for message in reported})
    assert ends == [1, 3, 5, 6, 9, 10, 12, 15, 18, 20]
    assert len(reported) == 3 * len(ends)
    ring = 20 * 2 * 2 * weights  # a step: 2 (W-1)/W of the vector from each of W workers
    assert run.summary["bytes_pushed"] == ring + 4 * 3 * weights
    # Each pulls the weights at its start, with the answer to every push, at the last evaluation.
    assert run.summary["bytes_pulled"] == ring + 3 * (1 + 4 + 2) * weights


def test_a_link_makes_every_sum_take_as_long_as_a_ring_would(tmp_path: Path) -> None:
    naps: list[float] = []

    def watch(run: Training) -> None:
        worker = run.worker(0)
        worker.computing.pause = naps.append  # type: ignore[method-assign]

    run = train(tmp_path, workers=2, mode="allreduce", max_steps=3, link_mbps=50.0, prepare=watch)
    ring_s = run.weights.nbytes * 8 / 50e6
    assert [nap for nap in naps if nap] == pytest.approx([ring_s] * 3)


def test_a_gradient_with_nan_is_told_with_its_step_and_the_weights_before_are_kept(
    tmp_path: Path,
) -> None:
    def spoil(run: Training) -> None:
        worker = run.worker(1)
        compute = worker.replica.model.add_gradient
        calls = 0

        def poisoned(batch: Any, step: Step) -> None:
            nonlocal calls
            calls += 1
            compute(batch, replace(step, scale=math.nan) if calls == 7 else step)

        worker.replica.model.add_gradient = poisoned  # type: ignore[method-assign]

    with pytest.raises(
        NumericsError, match=r"(?s)holds NaN or Inf at step 7\..*step-000005-v000005"
    ):
        train(tmp_path, workers=3, prepare=spoil, mode="allreduce", max_steps=9, checkpoint_every=5)
    assert np.isfinite(tensors(tmp_path / "checkpoints" / "step-000005-v000005")["weights"]).all()


def test_a_worker_that_dies_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(PeerLost, match=r"rank 2 is gone .* --mode allreduce needs all\n.*000004"):
        train(
            tmp_path,
            workers=3,
            mode="allreduce",
            max_steps=9,
            checkpoint_every=4,
            prepare=lambda run: die_at(run.worker(1), 6),
        )


def test_replicas_that_differ_are_refused_and_what_they_had_in_common_is_kept(
    tmp_path: Path,
) -> None:
    def drift(run: Training) -> None:
        worker = run.worker(1)

        def action(count: int) -> None:
            if count == 6:
                worker.replica.weights[3] = np.nextafter(worker.replica.weights[3], 9)

        before_gradient(worker, action)

    with pytest.raises(
        ProtocolError, match=r"(?s)weights differ after step 8, .*step-000004-v000004"
    ):
        train(
            tmp_path,
            workers=2,
            prepare=drift,
            mode="allreduce",
            max_steps=12,
            checkpoint_every=4,
        )


def test_a_state_from_another_worker_is_refused(tmp_path: Path) -> None:
    run = Training(tmp_path, 2, settings={"mode": "allreduce"})
    leader = run.leader.serving.receiving
    assert leader.landing(1, m.State(0)).size == run.weights.size
    for peer, message in ((2, m.State(0)), (1, m.State(3)), (1, m.State(-1))):
        with pytest.raises(ProtocolError, match=f"rank {peer} sent a payload with State"):
            leader.landing(peer, message)


def test_after_a_signal_the_run_goes_on_from_where_the_workers_last_met(tmp_path: Path) -> None:
    told: list[bool] = []

    def watch(run: Training) -> None:
        before_gradient(run.worker(0), lambda count: told.append(True) if count == 13 else None)

    settings = MIXED | {"mode": "allreduce", "grad_accum": 1}
    with pytest.raises(Ended, match=r"the weights so far are in .*step-000012-v000012"):
        train(
            tmp_path / "run",
            prepare=watch,
            signalled=lambda rank: "SIGTERM" if told and rank == 0 else None,
            **settings,
        )
    rest = train(tmp_path / "run", resume=tmp_path / "run", **settings)
    whole = train(tmp_path / "whole", **settings)
    np.testing.assert_array_equal(rest.weights, whole.weights)


def test_an_early_stop_ends_the_run_when_workers_next_meet_rank_0(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        workers=2,
        mode="allreduce",
        max_steps=100,
        lr=0.0,
        min_lr=0.0,
        eval_every=3,
        early_stop_patience=2,
    )
    assert run.summary["stopped_by"] == "early_stop"
    assert run.summary["steps"] == 9  # evaluated at 0, 3 and 6; known at 9
    assert [record["version"] for record in run.metrics("eval")] == [0, 3, 6, 9]
