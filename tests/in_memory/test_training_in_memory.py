"""Whole runs in one process: what the modes, shards, checkpoints and losses of peers must mean."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import VOCAB, Training, before_gradient, corpus, die, die_at, trace_peak, train

from psdp.backend import make_backend
from psdp.checkpoint import (
    CheckpointId,
    CheckpointStore,
    Snapshot,
    find_checkpoint,
    read_manifest,
    read_shard,
    read_weights,
)
from psdp.data.batches import Validation
from psdp.data.tokens import Tokens
from psdp.data.windows import SideBySide
from psdp.errors import CheckpointError, DataError, NumericsError, PeerLost, PsdpError, RankFailed
from psdp.job import Job
from psdp.nn.transformer import Transformer
from psdp.params import Array
from psdp.protocol.order import Squares, Update
from psdp.servers.ending import TIME_LIMIT, Ended
from psdp.servers.means import ByMean
from psdp.transport import Sending
from psdp.transport import messages as m
from psdp.transport.shared import SharedMemory
from psdp.workers.worker import Worker

pytestmark = pytest.mark.timeout(90)

MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "async"},
    {"mode": "ssp", "staleness": 0},
    {"mode": "ssp", "staleness": 1},
]


def mode_name(mode: dict[str, Any]) -> str:
    return "-".join(str(value) for value in mode.values())


def same(a: Training, b: Training) -> None:
    np.testing.assert_array_equal(a.weights, b.weights)


def validation_loss(run: Training) -> float:
    """Return the mean loss of the final weights over the whole validation split, one model."""
    config = run.job.config
    model = Transformer(config.model, VOCAB, 2, make_backend("cpu", "float64"), run.weights, None)
    tokens = Tokens.of(corpus()[1])
    split = Validation(tokens, SideBySide(tokens.size, config.model.block_size), 2)
    losses = [
        model.evaluate(x, y)[0][counted].copy() for x, y, counted in split.batches(split.part(0, 1))
    ]
    return float(np.concatenate(losses).mean())


# Modes, servers and workers


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_every_mode_spends_its_budget_and_says_so(
    tmp_path: Path, mode: dict[str, Any], servers: int, workers: int
) -> None:
    run = train(tmp_path, workers=workers, servers=servers, n_layer=2, **mode)
    steps, pushes = 6, 6 * workers
    tokens = pushes * 2 * 8
    version = steps if mode["mode"] == "sync" else pushes
    summary = run.summary
    vector_bytes = run.job.table.size * 8
    assert {name: summary[name] for name in ("mode", "workers", "servers", "stopped_by")} == {
        "mode": mode["mode"],
        "workers": workers,
        "servers": servers,
        "stopped_by": "budget",
    }
    assert (summary["steps"], summary["tokens"], summary["version"]) == (steps, tokens, version)
    assert [server.progress.version for server in run.servers] == [version] * servers
    assert [sum(server.progress.clocks.values()) for server in run.servers] == [pushes] * servers
    assert summary["bytes_pushed"] == pushes * vector_bytes
    assert sum(summary["version_lag"]["histogram"].values()) == pushes
    limit = {"sync": 0, "async": pushes, "ssp": mode.get("staleness")}[mode["mode"]]
    assert summary["max_clock_gap"] <= limit
    if mode["mode"] == "sync":
        assert summary["version_lag"]["max"] == 0
        assert set(run.progress.clocks.values()) == {steps}
    assert summary["weights_sha256"] == run.weights_sha256
    assert summary["val_loss"] == pytest.approx(validation_loss(run), rel=1e-12)
    assert summary["best_val_loss"] == summary["val_loss"]

    records = run.metrics("train")
    assert [record["tokens"] for record in records] == sorted(r["tokens"] for r in records)
    assert records[-1]["tokens"] == tokens
    assert records[-1]["clocks"] == {str(r): clock for r, clock in run.progress.clocks.items()}
    assert [record["version"] for record in run.metrics("eval")] == [version]
    checkpoint = find_checkpoint(tmp_path)
    assert checkpoint.name == f"step-{steps:06d}-v{version:06d}"
    np.testing.assert_array_equal(read_weights(read_manifest(checkpoint)), run.weights)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run = train(tmp_path, workers=2, max_steps=60, batch_size=4, lr=1e-2)
    losses = [record["loss"] for record in run.metrics("train")]
    assert losses[0] == pytest.approx(math.log(VOCAB), rel=0.05)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_sync_workers_equal_one_worker_with_all_their_batches(
    tmp_path: Path, workers: int, optimizer: str
) -> None:
    common = {"max_steps": 20, "optimizer": optimizer, "lr": 1e-2, "partition": "random"}
    many = train(tmp_path / "many", workers=workers, batch_size=2, **common)
    one = train(tmp_path / "one", workers=1, batch_size=2 * workers, **common)
    np.testing.assert_allclose(many.weights, one.weights, rtol=0, atol=1e-9)
    assert not np.array_equal(one.weights, Training(tmp_path / "none", 1).weights)


@pytest.mark.parametrize("workers", [1, 3])
def test_two_servers_equal_one_to_rounding_in_sync(tmp_path: Path, workers: int) -> None:
    runs = [
        train(tmp_path / str(servers), workers=workers, servers=servers, max_steps=20, lr=1e-2)
        for servers in (1, 2, 3)
    ]
    np.testing.assert_allclose(runs[1].weights, runs[0].weights, rtol=0, atol=1e-9)
    np.testing.assert_allclose(runs[2].weights, runs[0].weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize("workers", [1, 3])
def test_dropout_drops_the_same_with_any_number_of_servers(tmp_path: Path, workers: int) -> None:
    common = {"workers": workers, "max_steps": 20, "lr": 1e-2}
    runs = [train(tmp_path / f"{k}", servers=k, dropout=0.3, **common) for k in (1, 2)]
    np.testing.assert_allclose(runs[1].weights, runs[0].weights, rtol=0, atol=1e-9)
    without = train(tmp_path / "without", **common)
    assert np.abs(without.weights - runs[0].weights).max() > 1e-3


@pytest.mark.parametrize(
    ("workers", "mode"),
    [(1, MODES[0]), (1, MODES[1]), (1, MODES[2]), (3, MODES[0])],
    ids=lambda value: mode_name(value) if isinstance(value, dict) else str(value),
)
def test_the_clip_of_two_servers_is_the_clip_of_the_whole_gradient(
    tmp_path: Path, workers: int, mode: dict[str, Any]
) -> None:
    """Plain SGD shows every factor; a clip of each shard by itself would differ by ~30 %."""
    common = {"workers": workers, "optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0, **mode}
    clipped = [
        train(tmp_path / f"{k}", servers=k, grad_clip=1e-3, max_steps=10, **common) for k in (1, 2)
    ]
    free = train(tmp_path / "free", servers=2, grad_clip=0.0, max_steps=10, **common)
    np.testing.assert_allclose(clipped[1].weights, clipped[0].weights, rtol=0, atol=1e-13)
    assert np.abs(free.weights - clipped[0].weights).max() > 1e-3
    assert all(record["grad_norm"] > 1e-3 for record in clipped[1].metrics("train"))


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_sync_run_twice_gives_the_same_weights_bit_for_bit(
    tmp_path: Path, servers: int, dtype: str
) -> None:
    common = {"workers": 3, "servers": servers, "dtype": dtype, "dropout": 0.1, "max_steps": 10}
    same(train(tmp_path / "a", **common), train(tmp_path / "b", **common))


@pytest.mark.parametrize("servers", [1, 2])
def test_shared_memory_and_messages_give_the_same_weights_bit_for_bit(
    tmp_path: Path, servers: int
) -> None:
    common = {"workers": 3, "servers": servers, "dropout": 0.1, "eval_every": 2, "grad_accum": 2}
    kinds = ("shared", "messages")
    runs = [train(tmp_path / kind, transport=kind, **common) for kind in kinds]
    same(*runs)
    assert runs[0].summary["val_loss"] == runs[1].summary["val_loss"]


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_server_with_no_room_to_share_its_copies_sends_them(
    tmp_path: Path, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def small(job: Job, rank: int, *, shard: int | None, hosted: int) -> SharedMemory:
        size = job.table.size if shard is None else len(job.shards[shard])
        return SharedMemory(1, size, "float64", said.append)

    monkeypatch.setattr("psdp.startup.parts.make_memory", small)
    workers = 3 if mode["mode"] == "sync" else 1
    common = {"workers": workers, "servers": 2, "eval_every": 1, **mode}
    tight = train(tmp_path / "tight", **common)
    assert len(said) == 2, "each server says so once"
    same(tight, train(tmp_path / "messages", transport="messages", **common))


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    runs = [train(tmp_path / str(seed), workers=1, seed=seed) for seed in (1, 2)]
    assert not np.array_equal(runs[0].weights, runs[1].weights)


# Evaluations


@pytest.mark.parametrize("mode", [MODES[0], MODES[1]], ids=mode_name)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_an_evaluation_takes_each_validation_token_exactly_once(
    tmp_path: Path, workers: int, mode: dict[str, Any]
) -> None:
    targets: list[int] = []
    totals: list[Any] = []

    def prepare(run: Training) -> None:
        for number in range(workers):
            worker = run.worker(number)

            def noting(part: int, parts: int, validation: Any = worker.job.task.validation) -> Any:
                for batch in validation(part, parts):
                    targets.extend(batch.targets[batch.counted].tolist())
                    yield batch

            worker.job.task.validation = noting  # type: ignore[method-assign]
        evaluated = run.leader.recorder.evaluated

        def noting_total(total: Any, *args: Any, **kwargs: Any) -> None:
            totals.append(total)
            evaluated(total, *args, **kwargs)

        run.leader.recorder.evaluated = noting_total  # type: ignore[method-assign]

    run = train(tmp_path, workers=workers, eval_every=3, prepare=prepare, **mode)
    split = corpus()[1]
    assert len(run.metrics("eval")) == 3
    assert sorted(targets) == sorted(3 * split[1:].tolist())
    assert [total.units for total in totals] == [split.size - 1] * 3


def test_the_validation_loss_does_not_depend_on_who_evaluates(tmp_path: Path) -> None:
    common = {"optimizer": "sgd", "lr": 0.1, "eval_every": 2}
    one = train(tmp_path / "1", workers=1, batch_size=6, **common)
    three = train(tmp_path / "3", workers=3, servers=2, batch_size=2, **common)
    losses = [[record["val_loss"] for record in run.metrics("eval")] for run in (one, three)]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-11)


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_evaluations_on_the_way_do_not_change_the_weights(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    workers = 3 if mode["mode"] == "sync" else 1
    none = train(tmp_path / "none", workers=workers, servers=2, **mode)
    many = train(tmp_path / "many", workers=workers, servers=2, eval_every=1, **mode)
    same(none, many)
    assert len(many.metrics("eval")) == 7


def test_without_a_validation_split_nothing_is_measured(tmp_path: Path) -> None:
    run = train(tmp_path, workers=2, servers=2, val_fraction=0.0, eval_every=2)
    assert run.metrics("eval") == []
    assert run.summary["val_loss"] is None
    assert run.summary["weights_sha256"] == run.weights_sha256


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_early_stopping_ends_the_run_with_the_weights_saved(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    """With a learning rate of zero no evaluation is better than the first."""
    settings = {"lr": 0.0, "max_steps": 1000, "eval_every": 1, "early_stop_patience": 2}
    run = train(tmp_path, workers=2, servers=2, **settings, **mode)
    assert run.summary["stopped_by"] == "early_stop"
    assert 2 <= run.summary["version"] < 100
    assert max(run.checkpoints()) == run.job.step_of(run.summary["tokens"])
    assert {server.progress.version for server in run.servers} == {run.summary["version"]}


# Checkpoints and resuming


@pytest.mark.parametrize(
    ("optimizer", "servers"),
    [("sgd", 1), ("momentum", 2), ("adagrad", 1), ("adam", 2), ("adamw", 1), ("adamw", 2)],
)
def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_bits(
    tmp_path: Path, optimizer: str, servers: int
) -> None:
    common: dict[str, Any] = {
        "workers": 2,
        "servers": servers,
        "optimizer": optimizer,
        "max_steps": 7,
        "dropout": 0.2,
        "grad_accum": 2,
        "dtype": "float32",
        "l1": 1e-3,
        "eval_every": 3,
        "checkpoint_every": 1,
    }
    whole = train(tmp_path / "whole", **common)
    checkpoints = whole.checkpoints()
    assert list(checkpoints) == [0, 1, 2, 3, 4, 5, 6, 7]  # the first evaluation is the best
    for step, path in checkpoints.items():
        rest = train(tmp_path / f"from-{step}", resume=path, **common)
        same(rest, whole)
        assert (rest.summary["version"], rest.summary["tokens"]) == (7, whole.summary["tokens"])
        assert rest.summary["val_loss"] == whole.summary["val_loss"]
        assert [record["version"] for record in rest.metrics("train")] == list(range(step + 1, 8))


@pytest.mark.parametrize("mode", MODES[1:], ids=mode_name)
def test_one_worker_resumes_bit_for_bit_in_every_mode(tmp_path: Path, mode: dict[str, Any]) -> None:
    common = {"servers": 2, "checkpoint_every": 2, "dropout": 0.2, **mode}
    whole = train(tmp_path / "whole", **common)
    for step, path in whole.checkpoints().items():
        same(train(tmp_path / f"from-{step}", resume=path, **common), whole)


def test_resuming_in_place_goes_on_from_the_latest_checkpoint(tmp_path: Path) -> None:
    common = {"workers": 2, "checkpoint_every": 2, "lr_schedule": "constant", "warmup_steps": 0}
    train(tmp_path / "run", max_steps=4, **common)
    longer = train(tmp_path / "run", max_steps=8, resume=tmp_path / "run", **common)
    same(longer, train(tmp_path / "whole", max_steps=8, **common))
    assert list(longer.checkpoints()) == [2, 4, 6, 8]


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_the_last_train_record_reaches_the_budget_however_rare_they_are(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    run = train(tmp_path, workers=2, log_every=1000, **mode)
    records = run.metrics("train")
    assert [record["version"] for record in records] == [1, run.summary["version"]]
    assert records[-1]["tokens"] == run.summary["tokens"] == 6 * 2 * 2 * 8


def test_a_resumed_run_says_in_its_metrics_where_it_went_on(tmp_path: Path) -> None:
    common = {"workers": 2, "checkpoint_every": 2}
    first = train(tmp_path, max_steps=4, **common)
    assert first.metrics("resume") == []
    rest = train(tmp_path, max_steps=6, resume=tmp_path, **common)
    tokens = 4 * rest.job.units_per_step
    at = {"kind": "resume", "time_s": 0.0, "tokens": tokens, "version": 4}
    assert rest.metrics("resume") == [at | {"events": None, "changed": {"max_steps": [4, 6]}}]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == [*["train"] * 4, "eval", "resume", *["train"] * 2, "eval"]


@pytest.mark.parametrize("checkpoint_every", [0, 2])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_resuming_a_finished_run_keeps_its_best_loss(
    tmp_path: Path, mode: dict[str, Any], checkpoint_every: int
) -> None:
    """Not its last, in lockstep: what is learned here is wrong for the validation split."""
    common = {"workers": 2, "lr": 0.1, "warmup_steps": 0, "eval_every": 2}
    common |= {"checkpoint_every": checkpoint_every, **mode}
    first = train(tmp_path, **common)
    best = first.summary["best_val_loss"]
    losses = [line["val_loss"] for line in first.metrics("eval")]
    assert (best, losses[-1]) == (min(losses), first.summary["val_loss"])
    assert mode["mode"] != "sync" or best < losses[-1]
    again = train(tmp_path, resume=tmp_path, **common)
    assert again.summary["best_val_loss"] == best
    assert again.summary["val_loss"] == first.summary["val_loss"]
    assert (again.summary["version"], again.summary["stopped_by"]) == (
        first.summary["version"],
        "budget",
    )
    same(again, first)


def unsettle(run: Training) -> None:
    """Let the pushes of several workers reach the servers in different orders."""
    dice = random.Random(1)
    for rank in run.ranks[len(run.servers) :]:
        send = rank.endpoint.send

        def late(peer: int, message: m.Message, payload: Any = None, send: Any = send) -> Sending:
            time.sleep(dice.random() * 2e-3)
            sending: Sending = send(peer, message, payload)
            return sending

        rank.endpoint.send = late  # type: ignore[method-assign]


@pytest.mark.parametrize("mode", [MODES[1], MODES[3]], ids=mode_name)
def test_all_servers_apply_the_same_gradients_in_the_same_order(
    tmp_path: Path, mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    average = ByMean.average

    def noting(maker: ByMean, update: Update) -> Squares:
        serving = next(s for s in jobs[-1].servers if s.shard is maker.shard)
        pushed = [(slot, serving.receiving.pushes[slot].work.clock) for slot in update.slots]
        applied[serving.endpoint.rank].extend(pushed)
        return average(maker, update)

    jobs: list[Training] = []

    def prepare(run: Training) -> None:
        jobs.append(run)
        unsettle(run)

    monkeypatch.setattr(ByMean, "average", noting)
    common = {"workers": 3, "servers": 3, "max_steps": 6, "checkpoint_every": 1, **mode}
    whole = train(tmp_path / "whole", prepare=prepare, **common)
    for step, path in whole.checkpoints().items():
        manifest = read_manifest(path)
        shards = [Snapshot.from_tensors(read_shard(manifest, k)) for k in range(3)]
        assert len({(s.version, s.units, str(s.clocks)) for s in shards}) == 1
        applied.clear()
        rest = train(tmp_path / f"from-{step}", resume=path, prepare=prepare, **common)
        assert len(applied[0]) == 18 - 3 * step
        assert applied[0] == applied[1] == applied[2]
        assert (
            rest.progress.clocks
            == rest.servers[1].progress.clocks
            == rest.servers[2].progress.clocks
        )
        assert sum(rest.progress.clocks.values()) == 18


def test_a_full_disk_ends_the_run_and_leaves_older_checkpoints_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = CheckpointStore.write_shard

    def full(store: CheckpointStore, at: CheckpointId, *args: Any) -> dict[str, Any]:
        if at.step >= 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/shard")
        return write(store, at, *args)

    def prepare(run: Training) -> None:
        def wait_for_the_fourth(gradient: int) -> None:
            deadline = time.monotonic() + 20
            while gradient == 5 and time.monotonic() < deadline:
                if (run.folder / "checkpoints" / "step-000004-v000004").exists():
                    return
                time.sleep(0.01)

        before_gradient(run.worker(0), wait_for_the_fourth)

    common = {"workers": 2, "servers": 2, "max_steps": 10, "checkpoint_every": 2}
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "write_shard", full)
        # Of whichever server met it first, and of rank 0 at the latest.
        with pytest.raises(
            (CheckpointError, RankFailed), match="could not write /run/shard: No space left"
        ) as caught:
            train(tmp_path / "full", prepare=prepare, **common)
    assert caught.value.exit_code == CheckpointError.exit_code
    assert [p.name for p in sorted((tmp_path / "full/checkpoints").glob("step-*"))] == [
        "step-000002-v000002",
        "step-000004-v000004",
    ]
    rest = train(tmp_path / "rest", resume=tmp_path / "full", **common)
    same(rest, train(tmp_path / "whole", **common))


def test_only_the_best_and_the_latest_checkpoints_stay(tmp_path: Path) -> None:
    run = train(tmp_path, workers=2, lr=0.0, eval_every=2, checkpoint_every=1, keep_checkpoints=2)
    assert list(run.checkpoints()) == [0, 5, 6]
    assert (
        tmp_path / "checkpoints/best.json"
    ).read_text() == '{"checkpoint": "step-000000-v000000"}\n'


# Ends before the end


@pytest.mark.parametrize(("gradient", "servers"), [(0, 1), (1, 2), (5, 1)])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_when_a_rank_dies_the_others_do_its_work(
    tmp_path: Path, mode: dict[str, Any], gradient: int, servers: int
) -> None:
    def prepare(run: Training) -> None:
        die_at(run.worker(1), gradient)
        for number in (0, 2):  # who lets it come so far before the budget is spent
            before_gradient(run.worker(number), lambda _count: time.sleep(5e-3))

    common = {"workers": 3, "servers": servers, "eval_every": 2, **mode}
    run = train(tmp_path / "run", prepare=prepare, **common)
    assert (run.summary["stopped_by"], run.summary["steps"]) == ("budget", 6)
    assert sum(run.progress.clocks.values()) == 18
    (moved,) = run.metrics("move")
    assert (moved["worker"], moved["from"], run.summary["moves"]) == (2, servers + 1, 1)
    if mode["mode"] == "sync":
        same(run, train(tmp_path / "undisturbed", **common))
    assert run.summary["val_loss"] == pytest.approx(validation_loss(run), rel=1e-12)
    if mode["mode"] == "ssp":
        assert run.summary["max_clock_gap"] <= mode["staleness"]


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_the_push_of_a_worker_that_dies_right_after_it_still_counts(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    def prepare(run: Training) -> None:
        endpoint = run.worker(0).endpoint
        send = endpoint.send

        def last(peer: int, message: m.Message, payload: Array | None = None) -> Sending:
            sending = send(peer, message, payload)
            if isinstance(message, m.Gradient) and message.work.clock == 2:
                die(run.worker(0))
            return sending

        endpoint.send = last  # type: ignore[method-assign]

    run = train(tmp_path / "run", workers=3, prepare=prepare, **mode)
    assert run.progress.clocks[1] >= 3
    assert sum(run.progress.clocks.values()) == 18
    if mode["mode"] == "sync":
        same(run, train(tmp_path / "undisturbed", workers=3, **mode))


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_in_the_last_evaluation_is_replaced(
    tmp_path: Path, mode: dict[str, Any], when: str
) -> None:
    """Also when all the others already wait to be let go."""

    def prepare(run: Training) -> None:
        worker = run.worker(1)
        report = worker.exchange.report_evaluation

        def dying(*reported: Any) -> None:
            if when == "after":
                report(*reported)
            else:
                time.sleep(0.3)
            die(worker)

        worker.exchange.report_evaluation = dying  # type: ignore[method-assign]

    run = train(tmp_path, workers=3, prepare=prepare, **mode)
    assert run.summary["stopped_by"] == "budget"
    assert run.summary["val_loss"] == pytest.approx(validation_loss(run), rel=1e-12)
    assert run.summary["weights_sha256"] == run.weights_sha256


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_when_the_last_worker_dies_the_weights_are_saved_and_the_run_fails(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        for number in (0, 1):
            die_at(run.worker(number), 2 + number)

    with pytest.raises(
        PeerLost, match=r"the last worker, rank \d, is gone .*killed.*\nthe weights"
    ):
        train(tmp_path, workers=2, prepare=prepare, eval_every=1, **mode)
    assert job[0].summary["stopped_by"] == "workers lost"
    kept = read_weights(read_manifest(find_checkpoint(tmp_path)))
    np.testing.assert_array_equal(kept, job[0].weights)


def test_when_the_last_worker_dies_in_the_last_evaluation_the_run_fails_too(tmp_path: Path) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        for number in (0, 1):
            worker = run.worker(number)

            def dying(*_reported: Any, worker: Worker = worker) -> None:
                die(worker)

            worker.exchange.report_evaluation = dying  # type: ignore[method-assign]

    with pytest.raises(PeerLost, match=r"the last worker, rank \d, is gone"):
        train(tmp_path, workers=2, prepare=prepare)
    assert max(job[0].checkpoints()) == 6


def test_a_server_that_dies_ends_the_run(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        def killing(count: int) -> None:
            if count == 3:
                run.network.kill(1)

        before_gradient(run.worker(0), killing)

    with pytest.raises(PeerLost, match="server rank 1 is gone"):
        train(tmp_path, workers=2, servers=2, prepare=prepare)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_gradient_with_nan_ends_the_run_with_the_weights_before_it(
    tmp_path: Path, mode: dict[str, Any], servers: int
) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        worker = run.worker(1)
        compute = worker.replica.model.add_gradient

        def poisoned(*args: Any, **kwargs: Any) -> float:
            loss = compute(*args, **kwargs)
            if worker.exchange.pushed_bytes >= 2 * worker.replica.gradient.nbytes:
                worker.replica.gradient[-1] = math.nan
            return loss

        worker.replica.model.add_gradient = poisoned  # type: ignore[method-assign]

    rank = servers + 1
    with pytest.raises(
        NumericsError,
        match=rf"rank {rank} sent a gradient with NaN or Inf at step \d+ \(its gradient number 2, "
        r"computed on version \d+, loss 4\.\d+\)\. Try a .*\nthe weights so far are in .*step-\d+",
    ) as caught:
        train(tmp_path, workers=2, servers=servers, prepare=prepare, **mode)
    if mode["mode"] == "sync":
        assert "at step 3 (its" in str(caught.value)
    assert job[0].summary["stopped_by"] == "non-finite gradient"
    kept = read_weights(read_manifest(find_checkpoint(tmp_path)))
    assert np.isfinite(kept).all()
    place = job[0].job.shards[0]
    np.testing.assert_array_equal(
        kept[place.start : place.stop], job[0].leader.serving.shard.weights.values
    )


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_signal_to_rank_0_the_run_goes_on_bit_for_bit(
    tmp_path: Path, workers: int, servers: int
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= 3 else None

    common = {"workers": workers, "servers": servers, "max_steps": 8}
    with pytest.raises(Ended, match=r"stopped by SIGTERM\nthe weights so far are in .*step-00000"):
        train(tmp_path / "run", prepare=job.append, signalled=signalled, **common)
    assert job[0].summary["stopped_by"] == "signal"
    assert 3 <= job[0].summary["version"] < 8
    assert job[0].summary["weights_sha256"] is None
    rest = train(tmp_path / "rest", resume=tmp_path / "run", **common)
    same(rest, train(tmp_path / "whole", **common))


def test_after_a_signal_within_the_last_step_of_async_the_last_weights_are_saved(
    tmp_path: Path,
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= 7 else None

    common: dict[str, Any] = {"workers": 2, "mode": "async", "max_steps": 4}
    with pytest.raises(Ended):
        train(tmp_path, prepare=job.append, signalled=signalled, **common)
    rest = train(tmp_path, resume=tmp_path, **common)
    assert rest.progress.version == 8
    kept = read_manifest(find_checkpoint(tmp_path))
    assert kept.state["version"] == 8
    np.testing.assert_array_equal(read_weights(kept), rest.weights)


def test_after_a_signal_no_checksum_of_earlier_weights_is_told(tmp_path: Path) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= 5 else None

    with pytest.raises(Ended):
        train(
            tmp_path, workers=2, prepare=job.append, signalled=signalled, eval_every=1, max_steps=40
        )
    assert job[0].summary["val_loss"] is not None
    assert job[0].summary["weights_sha256"] is None


@pytest.mark.parametrize("version", [4, 5, 7, 8])
@pytest.mark.parametrize("staleness", [0, 1])
def test_ssp_on_two_servers_goes_on_from_a_signal_within_a_step(
    tmp_path: Path, staleness: int, version: int
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job[0].progress.version >= version else None

    common: dict[str, Any] = {"workers": 3, "servers": 2, "mode": "ssp", "staleness": staleness}
    with pytest.raises(Ended):
        train(
            tmp_path / "run",
            prepare=lambda run: (job.append(run), unsettle(run))[0],
            signalled=signalled,
            **common,
        )
    kept = read_manifest(find_checkpoint(tmp_path / "run")).state
    assert kept["version"] == version
    assert sum(kept["clocks"].values()) == kept["version"]
    rest = train(tmp_path / "rest", resume=tmp_path / "run", prepare=unsettle, **common)
    assert (rest.summary["version"], rest.summary["stopped_by"]) == (18, "budget")
    assert rest.summary["max_clock_gap"] <= staleness
    assert [server.progress.version for server in rest.servers] == [18, 18]
    assert rest.progress.clocks == rest.servers[1].progress.clocks


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_signal_to_a_server_that_follows_ends_the_run_with_a_checkpoint(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 2 and job[0].servers[2].progress.version >= 3 else None

    common = {"workers": 2, "servers": 3, "max_steps": 40, **mode}
    with pytest.raises(Ended, match="stopped by a signal to rank 2\nthe weights so far are in"):
        train(tmp_path / "run", prepare=job.append, signalled=signalled, **common)
    assert job[0].summary["stopped_by"] == "signal"
    kept = read_manifest(find_checkpoint(tmp_path / "run"))
    assert kept.state["version"] == job[0].summary["version"] < 40 * 2
    np.testing.assert_array_equal(read_weights(kept), job[0].weights)
    rest = train(tmp_path / "rest", resume=tmp_path / "run", **common)
    assert rest.summary["stopped_by"] == "budget"
    if mode["mode"] == "sync":
        same(rest, train(tmp_path / "whole", **common))


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_signal_to_one_worker_alone_is_a_notice_and_the_others_go_on(
    tmp_path: Path, mode: dict[str, Any], servers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.servers.leaving.NOTICE_S", 0.0)
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        asked = rank == servers + 1 and job[0].progress.clocks[2] >= 3
        return "SIGTERM" if asked else None

    common = {"workers": 3, "servers": servers, "max_steps": 12, **mode}
    run = train(tmp_path / "run", prepare=job.append, signalled=signalled, **common)
    assert run.summary["stopped_by"] == "budget"
    assert run.summary["tokens"] == run.job.units
    assert run.leader.answering.live == set()
    assert [move["from"] for move in run.metrics("move")] == [servers + 1]
    if mode["mode"] == "sync":
        same(run, train(tmp_path / "undisturbed", **common))


@pytest.mark.parametrize("servers", [1, 2])
def test_signals_to_all_workers_end_the_run_with_a_checkpoint(
    tmp_path: Path, servers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.servers.leaving.NOTICE_S", 0.0)
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGINT" if rank >= servers and job[0].progress.version >= 3 else None

    common: dict[str, Any] = {"workers": 2, "servers": servers, "max_steps": 40}
    with pytest.raises(Ended, match=r"stopped by a signal to rank \d\nthe weights so") as ended:
        train(tmp_path / "run", prepare=job.append, signalled=signalled, **common)
    assert ended.value.status == 128 + signal.SIGINT
    assert job[0].summary["stopped_by"] == "signal"
    step = max(job[0].checkpoints())
    assert step == job[0].job.step_of(job[0].summary["tokens"])


@pytest.mark.parametrize(
    ("by", "reason"),
    [("SIGUSR1", "preempted"), ("SIGHUP", "preempted"), (TIME_LIMIT, "time limit")],
)
def test_a_run_whose_machine_or_time_goes_is_saved_to_go_on_bit_for_bit(
    tmp_path: Path, by: str, reason: str
) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return by if rank == 0 and job[0].progress.version >= 3 else None

    common: dict[str, Any] = {"workers": 2, "max_steps": 8}
    with pytest.raises(Ended, match=f"stopped by {by}\nthe weights so far are in") as ended:
        train(tmp_path / "run", prepare=job.append, signalled=signalled, **common)
    assert ended.value.status == 75
    assert job[0].summary["stopped_by"] == reason
    rest = train(tmp_path / "rest", resume=tmp_path / "run", **common)
    same(rest, train(tmp_path / "whole", **common))


@pytest.mark.parametrize("servers", [1, 2])
def test_a_worker_that_fails_ends_the_run_with_a_checkpoint(tmp_path: Path, servers: int) -> None:
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)

        def failing(count: int) -> None:
            if count == 3:
                raise RuntimeError("out of order")

        before_gradient(run.worker(1), failing)

    common = {"workers": 2, "servers": servers}
    with pytest.raises(
        RankFailed, match=rf"rank {servers + 1} failed \(see its own.*\nthe weights so"
    ) as caught:
        train(tmp_path / "run", prepare=prepare, **common)
    assert caught.value.exit_code == 1
    assert isinstance(job[0].ranks[servers + 1].error, RuntimeError)
    assert (job[0].summary["stopped_by"], job[0].summary["version"]) == ("error", 3)
    rest = train(tmp_path / "rest", resume=tmp_path / "run", **common)
    same(rest, train(tmp_path / "whole", **common))


@pytest.mark.parametrize("error", [DataError("a token is missing"), CheckpointError("no disk")])
def test_the_run_ends_with_the_exit_status_of_the_worker_that_failed(
    tmp_path: Path, error: PsdpError
) -> None:
    def prepare(run: Training) -> None:
        def failing(count: int) -> None:
            if count == 2:
                raise error

        before_gradient(run.worker(0), failing)

    with pytest.raises(RankFailed, match="rank 1 failed") as caught:
        train(tmp_path, workers=2, prepare=prepare)
    assert caught.value.exit_code == error.exit_code


# The steady state


@pytest.mark.parametrize("servers", [1, 2])
def test_a_profiled_run_counts_training_alone_and_ends_with_the_same_bits(
    tmp_path: Path, servers: int
) -> None:
    settings: dict[str, Any] = {"servers": servers, "grad_accum": 2, "eval_every": 2}
    plain = train(tmp_path / "plain", **settings)
    profiled = train(tmp_path / "profiled", profile=True, **settings)
    same(profiled, plain)
    assert not (tmp_path / "plain" / "profile.json").exists()
    ranks = json.loads((tmp_path / "profiled" / "profile.json").read_text())["ranks"]
    assert ranks.keys() == {"0", str(servers)}
    server, worker = ranks["0"], ranks[str(servers)]
    assert (server["steps"], worker["steps"]) == (6, 6)
    assert server["costs"]["update"]["calls"] == 6
    once_a_step = ("other", "gradient norm", "push", "wait", "pull")
    assert [worker["costs"][kind]["calls"] for kind in once_a_step] == [6] * len(once_a_step)
    # A gradient is two batches, each forward and backward; evaluations are left out.
    assert worker["costs"]["batches"]["calls"] == 12
    assert worker["costs"]["attention"]["calls"] == 24


def test_a_profiled_run_that_is_stopped_says_what_was_measured_so_far(tmp_path: Path) -> None:
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGINT" if rank == 0 and job[0].progress.version >= 4 else None

    with pytest.raises(Ended):
        train(tmp_path, prepare=job.append, signalled=signalled, max_steps=1000, profile=True)
    ranks = json.loads((tmp_path / "profile.json").read_text())["ranks"]
    assert ranks["0"]["steps"] >= 4
    assert ranks["1"]["steps"] >= 3
    assert ranks["1"]["costs"]["linear"]["flops"] > 0


def test_a_step_allocates_nothing_of_the_models_size(tmp_path: Path) -> None:
    """Server and worker together, from the tenth to the thirtieth step."""
    measured: list[int] = []

    def prepare(run: Training) -> None:
        trace_peak(run.worker(0), 10, 30, measured)

    big = {"n_embd": 128, "n_layer": 2, "dtype": "float32"}
    run = train(tmp_path, max_steps=35, prepare=prepare, log_every=10, val_fraction=0.0, **big)
    model_bytes = run.job.table.size * 4
    assert measured[1] - measured[0] < model_bytes / 4


def test_a_worker_sends_and_lands_in_its_own_two_vectors(tmp_path: Path) -> None:
    addresses: set[int] = set()

    def prepare(run: Training) -> None:
        worker = run.worker(0)
        send = worker.endpoint.send

        def noting(peer: int, message: m.Message, payload: Array | None = None) -> Sending:
            if payload is not None:
                addresses.add(payload.ctypes.data)
            return send(peer, message, payload)

        worker.endpoint.send = noting  # type: ignore[method-assign]

    run = train(tmp_path, servers=2, prepare=prepare)
    worker: Worker = run.worker(0)
    starts = [place.start for place in run.job.shards]
    assert addresses == {worker.replica.gradient[start:].ctypes.data for start in starts}
    np.testing.assert_array_equal(worker.replica.weights, run.weights)
