"""The benchmark of a server, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "server.py"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_kind_of_work_is_timed_each_round(tmp_path: Path) -> None:
    out = tmp_path / "server.json"
    done = run("--parameters", "5000", "--rounds", "3", "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "5,000", "update", "mean", "norm",
    ]  # fmt: skip
    result = json.loads(out.read_text())
    assert {len(seconds) for seconds in result["seconds"].values()} == {3}
    assert result["over_memcpy"]["update"]["value"] > 0


@pytest.mark.parametrize("flag", ["--parameters", "--workers", "--rounds"])
def test_nothing_is_measured_of_nothing(flag: str) -> None:
    done = run(flag, "0")
    assert done.returncode == 2
    assert "must be at least 1" in done.stderr
