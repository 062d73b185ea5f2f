"""Runs that average their weights: what is evaluated, kept, gone on with, and handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train, unhurried
from losses import die_at_message, die_with, told
from safetensors.numpy import load_file

from psdp import export, load
from psdp.audit.auditing import Audit
from psdp.checkpoint import Snapshot, find_checkpoint, read_manifest, read_weights
from psdp.errors import ConfigError
from psdp.params import Array
from psdp.transport import messages as m

DECAY = 0.8
MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "async"},
    {"mode": "ssp"},
    {"mode": "local", "local_steps": 2},
    {"mode": "local", "local_steps": 2, "merge": "async"},
    {"mode": "easgd", "local_steps": 2},
    {"mode": "allreduce"},
    {"mode": "auto"},
    {"mode": "sync", "optimizer": "muon"},
]


def watched(run: Training) -> list[tuple[float, Array]]:
    """Have a run note after which step it had which weights, on rank 0."""
    serving = run.leader.serving
    seen = [(0.0, serving.shard.weights.values.copy())]
    updated = run.leader.updated

    def note(*told: Any) -> None:
        steps = serving.progress.units / run.job.units_per_step
        seen.append((steps, serving.shard.weights.values.copy()))
        updated(*told)

    run.leader.updated = note  # type: ignore[method-assign]
    return seen


def averaged(seen: list[tuple[float, Array]]) -> Array:
    """Return the average of what was seen."""
    (_, average), *later = seen
    before = 0.0
    for steps, weights in later:
        kept = min(DECAY, (1 + before) / (10 + before)) ** (steps - before)
        average, before = kept * average + (1 - kept) * weights, steps
    return average


def both(run: Training) -> tuple[Array, Array]:
    """Return the average that a run ends with, and its weights, as they are on the disk."""
    manifest = read_manifest(find_checkpoint(run.folder))
    return read_weights(manifest), read_weights(manifest, raw=True)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode_averages_what_its_updates_make(tmp_path: Path, mode: dict[str, Any]) -> None:
    """Of allreduce rank 0 sees every weight of the workers if they hand over each."""
    seen: list[list[tuple[float, Array]]] = []
    how: dict[str, Any] = {"workers": 2, "max_steps": 12, "lr": 1e-2, "checkpoint_every": 1}
    run = train(
        tmp_path / "run",
        prepare=lambda run: seen.append(watched(run)),
        ema=DECAY,
        **how | mode,
    )
    average, raw = both(run)
    np.testing.assert_array_equal(raw, run.weights)
    np.testing.assert_allclose(average, averaged(seen[0]), rtol=0, atol=1e-13)
    assert np.abs(average - raw).max() > 1e-4


@pytest.mark.parametrize("mode", [MODES[0], MODES[6]], ids=str)
def test_training_is_as_without_and_the_average_is_what_is_evaluated(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    how: dict[str, Any] = {"workers": 2, "lr": 1e-2, "eval_every": 2, **mode}
    plain = train(tmp_path / "plain", **how)
    run = train(tmp_path / "run", ema=DECAY, **how)
    np.testing.assert_array_equal(run.weights, plain.weights)
    losses = [[line["loss"] for line in each.metrics("train")] for each in (run, plain)]
    assert losses[0] == losses[1]
    assert run.metrics("eval")[-1]["val_loss"] != plain.metrics("eval")[-1]["val_loss"]
    still: dict[str, Any] = {"lr": 0.0, "max_steps": 1, "init_from": str(run.folder)}
    for name, raw, like in (("average", False, run), ("raw", True, plain)):
        again = train(tmp_path / name, raw_weights=raw, **still)
        (*_, last), (*_, other) = like.metrics("eval"), again.metrics("eval")
        assert other["val_loss"] == pytest.approx(last["val_loss"], rel=1e-12)


@pytest.mark.parametrize("mode", [*MODES[:5:3], MODES[6]], ids=str)
def test_a_resumed_run_has_the_same_average(tmp_path: Path, mode: dict[str, Any]) -> None:
    how: dict[str, Any] = {"max_steps": 8, "checkpoint_every": 4, "ema": DECAY, "lr": 1e-2, **mode}
    whole = train(tmp_path / "whole", workers=2, **how)
    servers = {} if mode["mode"] == "allreduce" else {"servers": 3}
    rest = train(tmp_path / "rest", workers=2, resume=whole.checkpoints()[4], **how | servers)
    for found, expected in zip(both(rest), both(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert rest.summary["val_loss"] == whole.summary["val_loss"]


def test_an_average_may_begin_later_and_end_sooner(tmp_path: Path) -> None:
    seen: list[list[tuple[float, Array]]] = []
    plain = train(tmp_path / "run", workers=2, checkpoint_every=4, max_steps=4)
    later = train(
        tmp_path / "later",
        workers=2,
        resume=plain.checkpoints()[4],
        prepare=lambda run: seen.append(watched(run)),
        ema=DECAY,
        max_steps=8,
    )
    (_, first), *_ = seen[0]
    np.testing.assert_array_equal(first, plain.weights)
    average, raw = both(later)
    assert 0 < np.abs(average - raw).max() < np.abs(first - raw).max()
    ended = train(tmp_path / "ended", resume=later.folder, workers=2, ema=0.0, max_steps=10)
    np.testing.assert_array_equal(both(ended)[0], ended.weights)


@pytest.mark.parametrize("servers", [1, 2])
def test_a_takeover_loses_none_of_it(tmp_path: Path, servers: int) -> None:
    common: dict[str, Any] = {"workers": 2, "servers": servers, "eval_every": 1, "ema": DECAY}
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, m.ApplyMean, 3),
        standby=True,
        **common,
    )
    assert run.summary["takeovers"] == 1
    plain = train(tmp_path / "undisturbed", **common)
    assert told(run) == told(plain)
    np.testing.assert_array_equal(both(run), both(plain))


def test_a_spare_that_comes_to_hold_a_shard_is_handed_it(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        unhurried(run)
        die_at_message(run, 0, 20)

    common: dict[str, Any] = {"workers": 2, "eval_every": 4, "max_steps": 16, "ema": DECAY}
    run = train(
        tmp_path / "run", prepare=prepare, standby=True, **common | {"workers": 3, "spares": 1}
    )
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    held = [run.role(rank).serving.giving.take() for rank in run.last_job.holders[0]]
    assert len(held) == 2
    averages = [snapshot.evaluated for snapshot in held]
    np.testing.assert_array_equal(averages[0], averages[1])


def test_a_run_is_replayed_and_proved_with_it(tmp_path: Path) -> None:
    how: dict[str, Any] = {"workers": 2, "checkpoint_every": 2, "dtype": "float32"}
    run = train(tmp_path / "run", mode="async", record=True, ema=DECAY, **how)
    again = train(tmp_path / "again", replay=str(run.folder), **how)
    np.testing.assert_array_equal(both(again), both(run))
    findings = Audit(run.folder).check()
    assert not findings.contradicted, "\n".join(map(str, findings.all))


def test_a_copy_tells_all_that_it_holds() -> None:
    weights, state, average = (np.full(3, value) for value in (1.0, 2.0, 3.0))
    copy = Snapshot(1, 2, 3, {1: 4}, weights, {"momentum": state}, average=average)
    again = Snapshot.from_tensors(copy.tensors())
    assert [vector[0] for vector in again.vectors] == [1, 2, 3]
    assert again.evaluated[0] == 3
    assert Snapshot(1, 2, 3, {}, weights, {}).evaluated is weights


def test_raw_weights_are_those_of_what_a_run_begins_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--raw-weights says which weights --init-from takes"):
        train(tmp_path / "run", raw_weights=True)


def test_what_uses_a_checkpoint_takes_the_average_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "run", ema=DECAY, lr=1e-2, dtype="float32", preset="gpt2")
    name = "transformer.wte.weight"
    for more, expected in (
        ((), load(run.folder)),
        (("--raw-weights",), load(run.folder, raw=True)),
    ):
        out = tmp_path / f"export{len(more)}"
        capsys.readouterr()
        assert export.main([str(run.folder), "--to", "hf", str(out), *more]) == 0
        assert ("the average of the weights (--ema 0.8)" in capsys.readouterr().err) == (not more)
        (tokens,) = (value for key, value in expected.items() if key == "embedding.tokens")
        np.testing.assert_array_equal(load_file(out / "model.safetensors")[name], tokens)
