"""A shard: what is being sent stays as it was, a snapshot brings all back, and K shards are one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated.device import EmulatedDevice
from hypothesis import given
from hypothesis import strategies as st

from psdp.backend.gpu.backend import GpuBackend
from psdp.checkpoint import Snapshot
from psdp.config import Config
from psdp.errors import CheckpointError, ConfigError
from psdp.job import Job
from psdp.language import Language
from psdp.modes import Pushed
from psdp.params import Array
from psdp.servers.shard import Shard
from psdp.servers.weights import Weights
from psdp.transport import Sending

OPTIMIZERS = ("sgd", "momentum", "adagrad", "adam", "adamw")
SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 6, "block_size": 4}


def job(servers: int = 1, workers: int = 3, **settings: Any) -> Job:
    config = Config.from_flat(SMALL | settings | {"servers": servers}).resolved()
    return Job(config, servers + workers, Language(config, 11))


def gradients(size: int, count: int, dtype: str = "float32") -> list[Array]:
    rng = np.random.default_rng(8)
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def train(shard: Shard, span: range, whole: list[Array]) -> None:
    """Update with the part of each gradient that belongs to this shard."""
    for index, gradient in enumerate(whole):
        norm = float(np.linalg.norm(gradient))
        shard.update(
            Pushed.GRADIENT, gradient[span.start : span.stop].copy(), norm, 0.1 / (1 + index)
        )


# Copy on write


def test_weights_that_nobody_reads_are_updated_in_place() -> None:
    values = np.zeros(3)
    weights = Weights(values)
    assert weights.writable() is values
    done = Sending()
    weights.reading(done)
    done.done = True
    assert weights.writable() is values


def test_who_is_being_sent_the_weights_gets_the_version_that_was_begun() -> None:
    weights = Weights(np.zeros(3))
    slow, slower = Sending(), Sending()
    weights.reading(slow)
    sent = weights.values
    weights.writable()[...] = 1
    weights.reading(slower)
    sent_later = weights.values
    weights.writable()[...] = 2
    assert (sent.tolist(), sent_later.tolist()) == ([0] * 3, [1] * 3)
    assert weights.values.tolist() == [2] * 3


def test_one_reader_of_several_is_enough_to_keep_a_version() -> None:
    weights = Weights(np.zeros(3))
    first, second = Sending(), Sending()
    weights.reading(first)
    weights.reading(second)
    first.done = True
    sent = weights.values
    weights.writable()[...] = 1
    assert sent.tolist() == [0] * 3


def test_vectors_that_were_sent_are_used_again() -> None:
    """Memory is bounded by the messages under way at once, however many updates there are."""
    weights = Weights(np.zeros(3))
    seen, under_way = set(), [Sending()]
    for version in range(50):
        weights.reading(under_way[-1])
        seen.add(id(weights.values))
        weights.writable()[...] = version
        under_way[-1].done = True
        under_way.append(Sending())
    assert len(seen) == 2


@given(st.lists(st.sampled_from(["send", "update", "deliver"]), max_size=60))
def test_a_message_never_sees_a_mixture_of_versions(actions: list[str]) -> None:
    weights, version = Weights(np.zeros(2)), 0
    under_way: list[tuple[Sending, Array, int]] = []
    for action in actions:
        if action == "send":
            under_way.append((Sending(), weights.values, version))
            weights.reading(under_way[-1][0])
        elif action == "update":
            version += 1
            weights.writable()[...] = version
        elif under_way:
            sending, _, _ = under_way.pop(0)
            sending.done = True
        assert weights.values.tolist() == [version] * 2
        assert all(vector.tolist() == [begun] * 2 for _, vector, begun in under_way)


# Updates


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("servers", [2, 3, 7])
def test_several_shards_do_the_same_as_one_bit_for_bit(
    servers: int, dtype: str, optimizer: str
) -> None:
    settings: dict[str, Any] = {
        "optimizer": optimizer,
        "dtype": dtype,
        "l1": 0.01,
        "grad_clip_value": 0.5,
    }
    one, several = job(1, **settings), job(servers, **settings)
    whole = gradients(one.table.size, 5, dtype)
    alone = Shard.initial(one, 0)
    train(alone, one.shards[0], whole)
    parts = []
    for server, span in enumerate(several.shards):
        shard = Shard.initial(several, server)
        train(shard, span, whole)
        parts.append(shard.weights.values)
    assert not np.array_equal(alone.weights.values, Shard.initial(one, 0).weights.values)
    assert np.array_equal(np.concatenate(parts), alone.weights.values)


def test_a_shard_decays_the_matrices_in_its_range_alone() -> None:
    """With no gradient only the decay moves weights: w (1 - lr wd) in front, w behind."""
    split = job(3, optimizer="adamw", weight_decay=0.5)
    before = split.table.initial(split.config.run.seed, "float32")
    before[split.table.decayed_size :] += 1
    boundary = split.table.decayed_size
    assert any(boundary in shard and boundary != shard.start for shard in split.shards)
    for server, span in enumerate(split.shards):
        shard = Shard.initial(split, server)
        shard.weights.values[...] = before[span.start : span.stop]
        shard.update(Pushed.GRADIENT, np.zeros(len(span), np.float32), 0.0, 0.1)
        expected = before.copy()
        expected[:boundary] *= np.float32(1 - 0.1 * 0.5)
        got = shard.weights.values
        np.testing.assert_allclose(got, expected[span.start : span.stop], rtol=1e-6)  # float32


def test_the_gradient_is_clipped_by_the_norm_over_all_shards() -> None:
    clipped = job(optimizer="sgd", grad_clip=1.0, weight_decay=0.0)
    shard = Shard.initial(clipped, 0)
    before = shard.weights.values.astype(np.float64)
    gradient = np.ones(clipped.table.size, np.float32)
    shard.update(Pushed.GRADIENT, gradient, norm=10.0, lr=0.5)
    np.testing.assert_allclose(before - shard.weights.values, 0.5 / 10, atol=1e-6)  # float32


def test_an_update_spares_a_message_under_way() -> None:
    single = job(optimizer="sgd")
    shard = Shard.initial(single, 0)
    shard.weights.reading(Sending())
    sent, kept = shard.weights.values, shard.weights.values.copy()
    train(shard, single.shards[0], gradients(single.table.size, 3))
    assert np.array_equal(sent, kept)
    assert not np.any(shard.weights.values == kept)


def test_the_average_is_weighted_and_takes_the_place_of_the_first() -> None:
    shard = Shard.initial(job(), 0)
    for slot, value in enumerate((1.0, 2.0, 4.0)):
        shard.slots[slot][...] = value
    mean = shard.average([2, 0], [0.25, 0.75])
    assert mean is shard.slots[2]
    assert set(mean.tolist()) == {0.25 * 4 + 0.75}
    assert set(shard.slots[1].tolist()) == {2.0}
    assert shard.average([1], [1.0]) is shard.slots[1]


def test_a_slot_can_be_the_workers_own_gradient() -> None:
    shard = Shard.initial(job(), 0)
    gradient = np.full_like(shard.weights.values, 3)
    shard.adopt(1, gradient)
    shard.slots[0][...] = 1
    assert set(shard.average([0, 1], [0.5, 0.5]).tolist()) == {2.0}
    assert shard.average([1, 0], [0.5, 0.5]) is gradient, "the server's until it has answered"


def test_every_worker_has_a_slot_of_the_shards_size() -> None:
    split = job(2, workers=4)
    for server, span in enumerate(split.shards):
        shard = Shard.initial(split, server)
        assert [slot.shape for slot in shard.slots] == [(len(span),)] * 4
        assert len({id(slot) for slot in shard.slots}) == 4


# Vectors on a GPU


class OnGpu:
    """A shard whose vectors are on a GPU that does nothing before it is waited for."""

    def __init__(self, folder: Path, single: Job) -> None:
        self.device = EmulatedDevice(folder, apart=True)
        self.backend = GpuBackend(self.device, single.config.run.dtype)
        self.made = 0
        self.shard = Shard.initial(
            single, 0, self.zeros, device=self.backend, on_device=True
        )  # fmt: skip

    def zeros(self, size: int, dtype: Any) -> Array:
        self.made += 1
        return self.backend.zeros(size, dtype=dtype)


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "momentum", "l1": 0.01, "grad_clip_value": 0.5}, {"wire_dtype": "bf16"},
     {"mode": "async", "lag_compensation": "dc-asgd"}, {"mode": "easgd"}],
    ids=str,
)  # fmt: skip
def test_a_shard_on_a_gpu_does_what_one_on_a_cpu_does(
    kernel_folder: Path, settings: dict[str, Any]
) -> None:
    single = job(1, **({"dtype": "float64"} if "wire_dtype" not in settings else {}), **settings)
    gpu, cpu = OnGpu(kernel_folder, single), Shard.initial(single, 0)
    rng = np.random.default_rng(1)
    kind = single.mode.pushes[0]
    for _ in range(3):
        whole = [rng.standard_normal(single.table.size) for _ in single.workers]
        for slot, gradient in enumerate(whole):
            pushed = gradient.astype(single.config.run.dtype)
            if "wire_dtype" in settings:
                pushed = (pushed.view(np.uint32) >> 16).astype(np.uint16)
            cpu.slots[slot][...] = pushed
            gpu.backend.to_device(pushed, gpu.shard.slots[slot])
        squares = []
        for shard in (cpu, gpu.shard):
            shard.remember(0)
            shard.update(kind, shard.average([1], [1.0]), 2.0, 0.1)
            average = shard.average([0, 2], [0.25, 0.75])
            squares.append(shard.backend.sum_of_squares(average))
            if "lag_compensation" in settings:
                shard.compensate(0, average)
            shard.update(kind, average, math.sqrt(squares[-1]), 0.1)
        assert squares[0] == pytest.approx(squares[1], rel=1e-5)
    snapshots = [shard.snapshot(3, 30, {1: 3}) for shard in (cpu, gpu.shard)]
    for name, tensor in snapshots[0].tensors().items():
        other = snapshots[1].tensors()[name]
        assert type(other) is np.ndarray, "a snapshot is the host's"
        np.testing.assert_allclose(other, tensor, rtol=1e-5, atol=1e-7)  # float32, or float64
    again = OnGpu(kernel_folder, single)
    again.shard.restore(snapshots[1])
    on_host = again.backend.on_host(again.shard.weights.values)
    assert np.array_equal(on_host, snapshots[1].weights)


def test_a_snapshot_is_sent_from_a_gpu_by_few_copies(kernel_folder: Path) -> None:
    gpu = OnGpu(kernel_folder, job())
    sent: list[tuple[Array, Sending]] = []

    def way(vector: Array) -> Sending:
        sent.append((vector, Sending()))
        return sent[-1][1]

    for version in range(20):
        gpu.backend.to_device(
            np.full(gpu.shard.weights.values.size, version), gpu.shard.weights.values
        )
        snapshot = gpu.shard.snapshot(version, 0, {})
        gpu.backend.clear(gpu.shard.weights.values)
        for _ in range(2):
            gpu.shard.send(snapshot, way)
        assert sent[-1][0] is sent[-2][0]
        assert set(gpu.backend.on_host(sent[-1][0]).tolist()) == {version}
        if version >= 2:  # a slow one still reads the version before the last
            assert set(gpu.backend.on_host(sent[2 * version - 2][0]).tolist()) == {version - 1}
            for _, sending in sent[: 2 * version]:
                sending.done = True
        gpu.shard.recycle(snapshot)
    assert gpu.made <= 4, "the weights, and what is read at once"


# Snapshots


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_goes_on_from_a_snapshot_as_if_it_had_never_stopped(optimizer: str) -> None:
    single = job(optimizer=optimizer)
    span, whole = single.shards[0], gradients(single.table.size, 8)
    straight = Shard.initial(single, 0)
    train(straight, span, whole[:4])
    snapshot = straight.snapshot(4, 400, {1: 2, 2: 2})
    train(straight, span, whole[4:])

    tensors = {name: tensor.copy() for name, tensor in snapshot.tensors().items()}
    resumed = Shard.initial(job(optimizer=optimizer, seed=99), 0)
    resumed.restore(Snapshot.from_tensors(tensors))
    train(resumed, span, whole[4:])
    assert np.array_equal(resumed.weights.values, straight.weights.values)
    assert resumed.optimizer.updates == 8


def test_a_snapshot_stays_as_it_is() -> None:
    single = job()
    shard = Shard.initial(single, 0)
    snapshot = shard.snapshot(0, 0, {1: 0})
    kept = {name: tensor.copy() for name, tensor in snapshot.tensors().items()}
    train(shard, single.shards[0], gradients(single.table.size, 3))
    for name, tensor in snapshot.tensors().items():
        assert np.array_equal(tensor, kept[name])


def test_a_snapshot_survives_as_tensors() -> None:
    single = job()
    shard = Shard.initial(single, 0)
    train(shard, single.shards[0], gradients(single.table.size, 2))
    snapshot = shard.snapshot(2, 123_456_789_012, {3: 1, 1: 4}, [(0, 3), (5, 7)])
    tensors = snapshot.tensors()
    assert set(tensors) == {
        "weights", "optimizer.exp_avg", "optimizer.exp_avg_sq", "progress", "clocks",
        "batches",
    }  # fmt: skip
    again = Snapshot.from_tensors(tensors)
    assert (again.version, again.units, again.updates) == (2, 123_456_789_012, 2)
    assert again.clocks == {1: 4, 3: 1}
    assert again.batches == [(0, 3), (5, 7)]
    assert np.array_equal(again.weights, shard.weights.values)
    assert again.optimizer.keys() == {"exp_avg", "exp_avg_sq"}


def test_no_clocks_survive_too() -> None:
    snapshot = Shard.initial(job(), 0).snapshot(0, 0, {})
    assert Snapshot.from_tensors(snapshot.tensors()).clocks == {}


def test_a_snapshot_given_back_is_filled_anew() -> None:
    single = job()
    shard = Shard.initial(single, 0)
    clocks = {1: 1}
    first = shard.snapshot(1, 10, clocks)
    clocks[1] = 7
    assert first.clocks == {1: 1}
    shard.recycle(first)
    train(shard, single.shards[0], gradients(single.table.size, 1))
    second = shard.snapshot(2, 20, {1: 2})
    assert second is first
    assert (second.version, second.units, second.updates) == (2, 20, 1)
    assert np.array_equal(second.weights, shard.weights.values)
    assert np.array_equal(second.optimizer["exp_avg"], shard.optimizer.state()["exp_avg"])
    assert shard.snapshot(3, 30, {}) is not second


def test_the_state_of_another_optimizer_is_refused() -> None:
    snapshot = Shard.initial(job(optimizer="momentum"), 0).snapshot(0, 0, {})
    with pytest.raises(CheckpointError, match=r"AdamW expects .* got \['velocity'\]"):
        Shard.initial(job(optimizer="adamw"), 0).restore(snapshot)


def test_restoring_spares_a_message_under_way() -> None:
    shard = Shard.initial(job(), 0)
    snapshot = shard.snapshot(0, 0, {})
    snapshot.weights[...] = 5
    shard.weights.reading(Sending())
    sent = shard.weights.values
    shard.restore(snapshot)
    assert not np.any(sent == 5)
    assert np.all(shard.weights.values == 5)


def test_first_weights_that_are_no_vector_of_the_tasks_size_are_refused() -> None:
    single = job()
    single.task.initial = lambda seed, dtype: np.zeros(3, dtype)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"Language.initial returned \(3,\) of float32, expected"):
        Shard.initial(single, 0)
