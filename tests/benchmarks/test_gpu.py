"""benchmarks/gpu.py: what it says without a GPU, and what its figures are made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu
import pytest
from emulated.device import EmulatedDevice
from session import Ended, run_session
from training import Size

from psdp.config import ModelConfig

TINY = Size(ModelConfig(1, 2, 32, 16), vocab_size=65, batch_size=2, steps=2)


def test_without_a_gpu_it_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    assert gpu.main() == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gpu.py: --device gpu needs CuPy")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_rounds_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, rounds: str) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--rounds", rounds])
    with pytest.raises(SystemExit) as exited:
        gpu.parse()
    assert exited.value.code == 2


def test_flops_are_those_of_the_matrices_and_of_attention() -> None:
    # GPT-2 with 124 M parameters: 12 layers of 12 C^2, the head V C; attention 12 L C T.
    layers, head = 12 * 12 * 768**2, 50304 * 768
    assert gpu.flops_per_token(gpu.SIZES["gpt2"]) == 6 * (layers + head) + 12 * 12 * 768 * 1024


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3 at 0000:00:05.0", 989.4e12),
        ("NVIDIA H100 PCIe at 0000:00:05.0", 756e12),
        ("NVIDIA A100-SXM4-40GB at 0000:00:05.0", 312e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_is_that_of_the_card(card: str, peak: float | None) -> None:
    assert gpu.peak_of(card) == peak


def ran(seconds: list[float], losses: list[float], peak_bytes: int) -> Any:
    facts = {"kernels": "cuda bf16"}
    return SimpleNamespace(seconds=seconds, losses=losses, peak_bytes=peak_bytes, facts=facts)


def test_ratios_are_taken_within_a_round() -> None:
    sides = {
        "psdp": ran([0.1, 0.2, 0.4], [4.0, 3.0], 600),
        "own": ran([0.15, 0.3, 0.6], [4.0, 3.0], 500),
        "compile": ran([0.2, 0.4, 0.8], [4.0, 3.125], 1000),
    }
    speed = gpu.judge("gpt2", sides, "NVIDIA H100 80GB HBM3")
    assert (speed.ratio.value, speed.ratio.low, speed.ratio.high) == (2, 2, 2)
    assert speed.libraries.value == pytest.approx(1.5)
    assert speed.memory == 0.6
    assert speed.largest_loss_difference == 0.125
    rates = {"psdp": 16 * 1024 / 0.2, "own": 16 * 1024 / 0.3, "compile": 16 * 1024 / 0.4}
    assert speed.tokens_per_s == rates
    flops = gpu.flops_per_token(gpu.SIZES["gpt2"])
    assert speed.utilisation["psdp"] == pytest.approx(16 * 1024 / 0.2 * flops / 989.4e12)
    lines = gpu.table([speed]).splitlines()
    assert lines[1].split()[:4] == ["gpt2", "81,920", "54,613", "40,960"]
    assert lines[2] == "gpt2: psdp is cuda bf16"
    assert gpu.judge("gpt2", sides, "a card of 2031").utilisation == {}


def test_a_step_of_the_gpu_agrees_with_numpys(
    monkeypatch: pytest.MonkeyPatch, kernel_folder: Path
) -> None:
    monkeypatch.setitem(gpu.SIZES, "tiny", TINY)
    monkeypatch.setattr(
        "psdp.backend.gpu.cupy_device.open_device",
        lambda _rank, *, tf32: EmulatedDevice(kernel_folder),
    )
    found = gpu.agree("tiny")
    assert 0 <= found.loss < 1e-5
    assert 0 < found.gradient < 1e-3


def on_a_cpu(command: Sequence[str], *, timeout_s: float) -> Ended:
    """Run a job that wants a GPU without one."""
    wanted = ["--device", "gpu", "--precision", "bf16", "--server-device", "gpu"]
    assert [word for word in command if word in wanted] == wanted
    instead = [*command, "--device", "cpu", "--precision", "float32", "--server-device", "cpu"]
    return run_session(instead, timeout_s=100, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_jobs_are_started_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.SIZES, "tiny", TINY)
    monkeypatch.setattr(gpu, "run_session", on_a_cpu)
    jobs = gpu.run_jobs("tiny")
    assert jobs.tokens_per_s.keys() == {1, 2}
    assert jobs.kept == pytest.approx(jobs.tokens_per_s[2] / jobs.tokens_per_s[1])
    assert 0 < jobs.exchange < 1


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_the_setting_of_nanogpt_is_one_that_psdp_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(gpu.SHAKESPEARE, "max-steps", 1)
    monkeypatch.setitem(gpu.SHAKESPEARE, "batch-size", 2)
    monkeypatch.setattr(gpu, "run_session", on_a_cpu)
    text = tmp_path / "text.txt"
    text.write_text("Before we proceed any further, hear me speak. " * 300)
    assert 2.0 < gpu.learn(text) < 5.0


@pytest.mark.parametrize("text", ["no-such-file", "."])
def test_a_text_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--shakespeare", text])
    with pytest.raises(SystemExit) as exited:
        gpu.parse()
    assert exited.value.code == 2


def test_the_exchange_is_what_is_not_computing() -> None:
    spent = {"compute_s": {"1": 6.0}, "push_s": {"1": 1.0}, "wait_s": {"1": 2.0}}
    assert gpu.exchange_of({**spent, "pull_s": {"1": 1.0}}) == pytest.approx(0.4)
