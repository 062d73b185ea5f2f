"""The benchmark of one core: one run of the smallest kind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from session import Ended, run_session

ROOT = Path(__file__).parents[2]


def compute(folder: Path, *flags: str) -> Ended:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return run_session(
        [sys.executable, str(ROOT / "benchmarks" / "compute.py"), *flags],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        timeout_s=220,
    )


@pytest.mark.timeout(240)
def test_a_short_run_compares_psdp_with_pytorch_and_with_its_own_products(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    flags = ["--sizes", "nano", "--rounds", "1", "--no-compile", "--json", "result.json"]
    benchmark = compute(tmp_path, *flags)
    assert benchmark.status == 0, benchmark.output
    (result,) = json.loads((tmp_path / "result.json").read_text())
    assert (result["size"], result["rounds"], result["peer"]) == ("nano", 1, "eager")
    assert result["largest_loss_difference"] < 1e-4
    assert set(result["step_s"]) == {"psdp", "eager", "products"}
    assert all(peak > 20e6 for peak in result["peak_bytes"].values())
    assert "no torch.compile: not asked for" in benchmark.output


@pytest.mark.timeout(240)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_short_run_shows_how_psdp_scales_with_threads(tmp_path: Path) -> None:
    flags = ["--sizes", "nano", "--rounds", "1", "--threads", "2", "--json", "result.json"]
    benchmark = compute(tmp_path, *flags)
    assert benchmark.status == 0, benchmark.output
    (result,) = json.loads((tmp_path / "result.json").read_text())
    assert set(result["step_s"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--threads", "2", "--cores", "0"], "needs 2 of the cores"),
        (["--cores", "4095"], "needs 1 of the cores"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, flags: list[str], why: str) -> None:
    benchmark = compute(tmp_path, *flags)
    assert benchmark.status == 2
    assert why in benchmark.output
