"""Sweeps: what is run, what is not run again, what fails, and the report at the end."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sweep
from cell_runs import is_finished
from cells import Spec, read_spec
from made_runs import TINY, change_json, write_run
from mpi import ROOT
from session import Ended

from psdp.cli import given_settings
from psdp.errors import ConfigError

SPEC = """
description = "Two modes."
timeout-s = 77
settings = {block-size = 8, batch-size = 2, max-steps = 10}
grid = {workers = 2, mode = ["sync", "async"], seed = [1, 2]}
"""
NAMES = [f"{mode}-workers=2-seed={seed}" for seed in (1, 2) for mode in ("sync", "async")]


class Launcher:
    """Runs a cell by writing the folder that it would leave, unless told to do something else."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.instead: dict[str, Callable[[Path], Ended]] = {}
        self.timeouts_s: set[float] = set()

    def __call__(self, command: Sequence[str], timeout_s: float) -> Ended:
        self.timeouts_s.add(timeout_s)
        assert list(command[:5]) == [sys.executable, "-m", "psdp.launch", "-n", "3"]
        given = given_settings(command[5:])
        assert given.pop("quiet")
        folder = Path(given.pop("out"))
        self.ran.append(folder.name)
        assert not folder.exists()
        if folder.name in self.instead:
            return self.instead[folder.name](folder)
        write_run(folder, **given)
        return Ended(0, "")


@pytest.fixture
def launcher() -> Launcher:
    return Launcher()


@pytest.fixture
def start(
    tmp_path: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Return a function that runs a sweep in tmp_path/out, as its command line would, but draws no
    plots, which takes seconds."""
    monkeypatch.setattr("psdp.report.plots.write_plots", lambda *_: iter(()))

    def run(text: str = SPEC) -> int:
        with sweep.alone_in(tmp_path / "out"):
            return sweep.Sweep(spec(tmp_path, text), tmp_path / "out", launcher).run()

    return run


def spec(folder: Path, text: str = SPEC) -> Spec:
    (folder / "mine.toml").write_text(text)
    return read_spec(folder / "mine.toml")


def record(folder: Path) -> dict[str, Any]:
    cells: dict[str, Any] = json.loads((folder / "out" / "sweep.json").read_text())["cells"]
    return cells


def test_all_cells_are_run_and_reported(
    tmp_path: Path,
    launcher: Launcher,
    start: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert start() == 0
    assert launcher.ran == NAMES
    assert launcher.timeouts_s == {77.0}
    assert [cell["status"] for cell in record(tmp_path).values()] == ["finished"] * 4
    captured = capsys.readouterr()
    assert "mine: 4 runs\nTwo modes." in captured.out
    assert "4/4" in captured.err
    assert "Two modes." in (tmp_path / "out" / "report.html").read_text()
    log = (tmp_path / "out" / "logs" / f"{NAMES[0]}.log").read_text()
    assert "-m psdp.launch -n 3 --block-size=8" in log


def test_finished_cells_are_not_run_again(
    tmp_path: Path, launcher: Launcher, start: Callable[..., int]
) -> None:
    start()
    before = record(tmp_path)
    assert start() == 0
    assert launcher.ran == NAMES
    assert record(tmp_path) == before


def test_a_grown_spec_runs_what_is_new(launcher: Launcher, start: Callable[..., int]) -> None:
    start()
    start(SPEC.replace('"async"]', '"async", "easgd"]'))
    assert launcher.ran[4:] == ["easgd-workers=2-seed=1", "easgd-workers=2-seed=2"]


@pytest.mark.parametrize("left", ["nothing", "no summary", "signal", "no config", "damaged"])
def test_what_was_interrupted_is_run_again_from_its_beginning(
    tmp_path: Path, launcher: Launcher, start: Callable[..., int], left: str
) -> None:
    start()
    folder = tmp_path / "out" / "runs" / NAMES[1]
    match left:
        case "nothing":
            for path in folder.iterdir():
                path.unlink()
        case "no summary":
            (folder / "summary.json").unlink()
        case "signal":
            change_json(folder / "summary.json", stopped_by="signal")
        case "no config":
            (folder / "config.json").unlink()
        case "damaged":
            (folder / "summary.json").write_text("{")
    assert start() == 0
    assert launcher.ran[4:] == [NAMES[1]]
    assert is_finished(folder)


def test_a_failure_is_recorded_and_the_sweep_goes_on(
    tmp_path: Path,
    launcher: Launcher,
    start: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [f"line {number}" for number in range(40)]
    words[20:22] = ["psdp: a GPU is not there", "psdp: rank 2 sent NaN; try a lower --lr"]
    launcher.instead[NAMES[1]] = lambda _: Ended(7, "\n".join(words))
    launcher.instead[NAMES[2]] = lambda _: Ended(None, "")
    launcher.instead[NAMES[3]] = lambda folder: folder.mkdir() or Ended(0, "")
    assert start() == 1
    assert launcher.ran == NAMES
    cells = record(tmp_path)
    log = tmp_path / "out" / "logs" / NAMES[1]
    why = f"exit status 7: rank 2 sent NaN; try a lower --lr; see {log}.log"
    assert cells[NAMES[1]]["why"] == why
    assert cells[NAMES[1]]["tail"] == [f"line {number}" for number in range(28, 40)]
    assert cells[NAMES[2]]["why"].startswith("still running after 77 s; see ")
    assert cells[NAMES[3]]["why"].startswith("it left no summary of a finished run; see ")
    captured = capsys.readouterr()
    assert f"- {NAMES[1]}: failed: {why} -" in " ".join(captured.out.split())
    assert f"{NAMES[1]}: FAILED, {why}\n" in captured.err
    assert "line 39" not in captured.err
    assert "3 of 4 cells failed" in captured.err
    assert "failed: exit status 7" in (tmp_path / "out" / "report.html").read_text()
    launcher.instead.clear()
    assert start() == 0
    assert launcher.ran[4:] == NAMES[1:]


def test_if_all_fail_there_is_no_report(
    tmp_path: Path, launcher: Launcher, start: Callable[..., int]
) -> None:
    launcher.instead = dict.fromkeys(NAMES, lambda _: Ended(2, "psdp: no"))
    assert start() == 1
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_signal_leaves_a_sweep_that_goes_on(
    tmp_path: Path, launcher: Launcher, start: Callable[..., int]
) -> None:
    def interrupt(folder: Path) -> Ended:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise sweep.Stopped(signal.SIGINT)

    launcher.instead[NAMES[1]] = interrupt
    with pytest.raises(sweep.Stopped):
        start()
    assert [cell["status"] for cell in record(tmp_path).values()] == ["finished", *["not run"] * 3]
    launcher.instead.clear()
    assert start() == 0
    assert launcher.ran == [*NAMES[:2], *NAMES[1:]]


def test_a_spec_that_says_otherwise_of_a_finished_cell_is_refused_before_anything_runs(
    tmp_path: Path, launcher: Launcher, start: Callable[..., int]
) -> None:
    start()
    (tmp_path / "out" / "runs" / NAMES[3] / "summary.json").unlink()
    with pytest.raises(ConfigError, match="max-steps 10, now 20") as caught:
        start(SPEC.replace("max-steps = 10", "max-steps = 20"))
    assert str(tmp_path / "out" / "runs" / NAMES[0]) in str(caught.value)
    assert launcher.ran == NAMES


def test_only_the_folders_of_its_cells_are_removed(
    tmp_path: Path, launcher: Launcher, start: Callable[..., int]
) -> None:
    other = write_run(tmp_path / "out" / "runs" / "mine", stopped_by="signal", **TINY)
    start()
    assert (other / "summary.json").exists()


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path, start: Callable[..., int]) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another sweep is running there"):
            start()


def test_out_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    spec(tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert sweep.main([str(tmp_path / "mine.toml"), "--out", str(tmp_path / "file")]) == 2
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert f"--out {tmp_path / 'file'}: " in capsys.readouterr().err


def test_the_cells_can_be_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec(tmp_path)
    assert sweep.main([str(tmp_path / "mine.toml"), "--list"]) == 0
    assert capsys.readouterr().out.split() == NAMES
    assert sweep.main(["gone"]) == 2


REAL = """
[settings]
corpus = "text.txt"
n-layer = 1
n-head = 1
n-embd = 16
block-size = 8
batch-size = 2
eval-every = 10
eval-batches = 2
threads = 1
max-steps = {steps}
[grid]
workers = 2
mode = ["sync", "async"]
"""


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_a_real_sweep_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the server and its workers\n" * 200)
    (tmp_path / "real.toml").write_text(REAL.format(steps=20))
    (tmp_path / "long.toml").write_text(REAL.format(steps=10_000_000))
    command = [sys.executable, str(ROOT / "benchmarks" / "sweep.py")]

    first = subprocess.Popen(
        [*command, "long.toml", "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "out" / "runs" / "sync-workers=2" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    try:
        _, said = first.communicate(timeout=30)
    finally:
        first.kill()
    assert first.returncode == 130, said
    assert "python -m benchmarks.sweep long.toml --out out goes on with it" in said

    second = subprocess.run(
        [*command, "real.toml", "--out", "out"], cwd=tmp_path, capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    assert "2/2" in second.stderr
    assert "Allreduce baseline: none among these runs" in second.stdout
    assert {path.name for path in (tmp_path / "out" / "runs").iterdir()} == {
        "sync-workers=2",
        "async-workers=2",
    }
    assert (tmp_path / "out" / "report.html").stat().st_size > 50_000
