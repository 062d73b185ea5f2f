"""Workers that are slow on purpose, and the modes for them: real jobs end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import summary, train, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(90)]

MODES = {
    "backup": ("--backup-workers", "1", "--servers", "2"),
    "local": ("--mode", "local", "--local-steps", "8", "--servers", "2"),
    "local-async": ("--mode", "local", "--local-steps", "8", "--merge", "async"),
    "average": ("--mode", "local", "--local-steps", "4", "--outer-optimizer", "average"),
    "easgd": ("--mode", "easgd", "--local-steps", "4", "--servers", "2"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.mark.parametrize("mode", MODES)
def test_a_job_with_a_straggler_spends_its_budget(folder: Path, mode: str) -> None:
    servers = 2 if "--servers" in MODES[mode] else 1
    slow = servers + 2
    job = train(
        folder, servers + 3, *MODES[mode], "--straggler", f"{slow}:3",
        "--jitter", "uniform:1:2", "--eval-every", "10", "--out", "run",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout
    assert f"SLOWED DOWN ON PURPOSE: stragglers {slow}:3" in job.stdout
    result = summary(folder / "run")
    gradients = 20 * (2 if mode == "backup" else 3)
    assert (result["steps"], result["tokens"]) == (20, gradients * 2 * 16)
    assert result["stopped_by"] == "budget"
    settings = json.loads((folder / "run" / "config.json").read_text())["settings"]
    assert (settings["straggler"], settings["jitter"]) == (f"{slow}:3", "uniform:1:2")
    if mode == "local":
        assert result["version"] == 3


def test_a_slow_link_delays_what_is_sent(folder: Path) -> None:
    job = train(folder, 3, "--link-mbps", "100", "--out", "run")
    assert job.returncode == 0, job.stdout
    assert "links of 100 Mbit/s" in job.stdout
    result = summary(folder / "run")
    bits = 8 * result["bytes_pushed"] / 2
    # What a worker waits for cannot be less than what its own pushes take on such a link.
    for rank in ("1", "2"):
        assert result["push_s"][rank] >= 0.9 * bits / 100e6
