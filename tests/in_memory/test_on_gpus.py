"""Whole runs whose workers compute on a GPU, emulated: what a run on processors ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated.device import EmulatedDevice
from in_memory.jobs import train

from psdp.backend.gpu import cupy_device
from psdp.checkpoint import find_checkpoint, read_manifest, read_weights

pytestmark = pytest.mark.timeout(120)

COMMON: dict[str, Any] = {"n_layer": 2, "lr": 1e-2, "eval_batches": 1}
CPU = {"server_device": "cpu", "kernels": "numpy"}
GPU = {"device": "gpu", "kernels": "auto"}


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch, kernel_folder: Path) -> list[EmulatedDevice]:
    """Return the GPUs, of which every rank that asks for one has its own."""
    opened: list[EmulatedDevice] = []

    def open_device(local_rank: int, *, tf32: bool = False) -> EmulatedDevice:
        opened.append(EmulatedDevice(kernel_folder, apart=True))
        return opened[-1]

    monkeypatch.setattr(cupy_device, "open_device", open_device)
    return opened


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "sync"},
        {"mode": "sync", "grad_accum": 2, "position": "rotary"},
        {"mode": "sync", "preset": "nanochat", "n_kv_head": 1, "value_embeddings": True},
        {"mode": "local", "local_steps": 3},
        {"mode": "local", "local_steps": 3, "preset": "llama", "rotary_dims": 4},
        {"mode": "easgd", "local_steps": 2},
        {"mode": "local", "local_steps": 3, "optimizer": "adagrad", "grad_clip_value": 1.0},
    ],
    ids=str,
)
def test_a_run_on_gpus_ends_where_one_on_cpus_does(
    tmp_path: Path, settings: dict[str, Any], devices: list[EmulatedDevice]
) -> None:
    how = COMMON | settings | {"workers": 1 if settings["mode"] == "easgd" else 2}
    gpu, cpu = train(tmp_path / "gpu", **how | GPU), train(tmp_path / "cpu", **how | CPU)
    assert [bool(device.launches) for device in devices] == [True] * how["workers"]
    np.testing.assert_allclose(gpu.weights, cpu.weights, atol=1e-7)
    assert gpu.summary["val_loss"] == pytest.approx(cpu.summary["val_loss"], rel=1e-8)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "sync", "overlap": True, "grad_accum": 2},
        {"mode": "sync", "preset": "nanochat", "n_kv_head": 1, "value_embeddings": True},
        {"mode": "local", "local_steps": 3},
        {"mode": "local", "local_steps": 3, "preset": "llama", "rotary_dims": 4},
        {"mode": "easgd", "local_steps": 2},
    ],
    ids=str,
)
def test_what_gpus_push_in_bfloat16_is_what_cpus_push(
    tmp_path: Path, settings: dict[str, Any], devices: list[EmulatedDevice]
) -> None:
    how = COMMON | settings | {"workers": 1 if settings["mode"] == "easgd" else 3}
    how |= {"dtype": "float32", "wire_dtype": "bf16", "optimizer": "sgd"}
    gpu, cpu = train(tmp_path / "gpu", **how | GPU), train(tmp_path / "cpu", **how | CPU)
    assert [bool(device.launches) for device in devices] == [True] * how["workers"]
    # A number next to a tie may be rounded the other way, by 2^-8 of a small step.
    np.testing.assert_allclose(gpu.weights, cpu.weights, atol=1e-3)
    assert gpu.summary["val_loss"] == pytest.approx(cpu.summary["val_loss"], abs=1e-3)
    assert gpu.summary["bytes_pushed"] == cpu.summary["bytes_pushed"]
    assert 2 * gpu.summary["bytes_pushed"] < gpu.summary["bytes_pulled"]


def test_bfloat16_ends_within_a_hundredth_of_float32(tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bf16"):
        how = COMMON | GPU | {"dtype": "float32", "precision": precision, "max_steps": 12}
        run = train(tmp_path / precision, workers=2, **how)
        losses.append(run.summary["val_loss"])
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.01


@pytest.mark.parametrize(("start", "end"), [("gpu", "cpu"), ("cpu", "gpu")])
def test_a_run_goes_on_on_another_kind_of_device(
    tmp_path: Path, start: str, end: str, devices: list[EmulatedDevice]
) -> None:
    how = COMMON | {"workers": 2, "checkpoint_every": 3, "kernels": "auto", "ema": 0.5}
    whole = train(tmp_path / "whole", device=start, server_device=start, **how)
    at = whole.checkpoints()[3]
    train(tmp_path / "rest", resume=at, device=end, server_device=end, **how)
    kept = [read_manifest(find_checkpoint(tmp_path / run)) for run in ("rest", "whole")]
    for raw in (True, False):  # the weights, and their average
        rest, undisturbed = (read_weights(manifest, raw=raw) for manifest in kept)
        np.testing.assert_allclose(rest, undisturbed, atol=1e-7)
    assert [bool(device.launches) for device in devices] == [True] * 3, "a server's, and workers'"
