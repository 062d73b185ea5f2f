"""Sweeps that tune: trials on their own seeds, kept, then the cells as given and at their best."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sweep
from cell_runs import Start
from cells import read_spec
from made_runs import write_run
from session import Ended

from psdp import virtual
from psdp.cli import given_settings
from psdp.config import Config
from psdp.errors import ConfigError
from psdp.report.__main__ import main as report

pytest.importorskip("optuna")

SPEC = """
[settings]
block-size = 8
batch-size = 2
max-steps = 10
lr = 0.1
[grid]
workers = 2
mode = ["sync", "async"]
seed = [1, 2]
[tune]
trials = 5
seeds = [11, 12]
[tune.settings]
lr = {low = 1e-3, high = 1e-1, log = true}
beta1 = [0.0, 0.5, 0.9]
"""
CELLS = [
    f"{mode}{tuned}-workers=2-seed={seed}"
    for seed in (1, 2)
    for tuned in ("", "-tuned")
    for mode in ("sync", "async")
]


class Launcher:
    """Runs a cell by writing the folder that it would leave; the loss is least at a rate of 0.01,
    and at a beta1 of 0.5, in async of 0.9."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.instead: Callable[[str, Path], Ended | None] = lambda name, folder: None

    def __call__(self, command: Sequence[str], timeout_s: float) -> Ended:
        given = given_settings(command[5:])
        assert given.pop("quiet")
        folder = Path(given.pop("out"))
        self.ran.append(folder.name)
        ended = self.instead(folder.name, folder)
        if ended is not None:
            return ended
        optim = Config.from_flat(given).resolved().optim
        loss = 2 + abs(math.log10(optim.lr) + 2) + given["seed"] / 1000
        loss += abs(optim.beta1 - (0.9 if given["mode"] == "async" else 0.5))
        write_run(folder, evaluations=((0.0, 0, 4.0), (10.0, 320, loss)), **given)
        (folder / "checkpoints").mkdir()
        return Ended(0, "")


class Sweeping:
    """A sweep in a folder, as its command line would run it, but without plots."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.spec = folder / "mine.toml"
        self.launcher = Launcher()
        self.launch: Start = self.launcher

    def __call__(self, text: str = SPEC) -> int:
        self.spec.write_text(text)
        with sweep.alone_in(self.out):
            return sweep.Sweep(read_spec(self.spec), self.out, self.launch).run()

    def trials(self) -> list[dict[str, str]]:
        with (self.out / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.out / "sweep.json").read_text())
        return record


def plain(name: str) -> str:
    """Return the name of a cell without the number of the trial that came out best."""
    return re.sub(r"-tuned=\d", "-tuned", name)


def best_of(mode: str, trials: Sequence[dict[str, str]]) -> dict[str, str]:
    (best,) = [each for each in trials if (each["mode"], each["best"]) == (mode, "1")]
    return best


@pytest.fixture
def sweeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeping:
    monkeypatch.setattr("psdp.report.plots.write_plots", lambda *_: iter(()))
    return Sweeping(tmp_path)


def test_each_family_has_its_trials_and_then_runs_as_given_and_at_its_best(
    sweeping: Sweeping, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweeping() == 0
    ran, trials = sweeping.launcher.ran, sweeping.trials()
    # Families take turns, trial by trial, and each trial has both seeds.
    assert ran[:4] == [
        f"{mode}-workers=2-trial=0-seed={seed}" for mode in ("sync", "async") for seed in (11, 12)
    ]
    assert len(ran) == 5 * 2 * 2 + 8
    assert [plain(name) for name in ran[20:]] == CELLS
    captured = capsys.readouterr()
    assert "28/28" in captured.err
    assert len(trials) == 10
    given = next(trial for trial in trials if trial["mode"] == "async")
    assert (given["lr"], given["beta1"], given["trial"]) == ("0.1", "0.5", "0")
    assert float(given["loss"]) == pytest.approx(3.4115)
    assert [float(loss) for loss in given["losses"].split()] == pytest.approx([3.411, 3.412])
    for mode in ("sync", "async"):
        own = [trial for trial in trials if trial["mode"] == mode]
        best = best_of(mode, trials)
        assert float(best["loss"]) == min(float(trial["loss"]) for trial in own)
        tuned = sweeping.record()["tuned"]
        for seed in (1, 2):
            name = f"{mode}-tuned={best['trial']}-workers=2-seed={seed}"
            assert tuned[name] == {"lr": float(best["lr"]), "beta1": float(best["beta1"])}
            config = json.loads((sweeping.out / "runs" / name / "config.json").read_text())
            assert config["settings"]["lr"] == float(best["lr"])
            assert config["settings"]["seed"] == seed
    assert {plain(name) for name in sweeping.record()["cells"]} == set(CELLS)
    told = " ".join(captured.out.split())
    assert "Tuned: the best of 5 trials on seeds 11, 12, by the loss at the end: sync, " in told
    for mode in ("sync", "async"):
        best = best_of(mode, trials)
        settings = f"{mode}, tuned: lr {float(best['lr']):g}, beta1 {best['beta1']} (loss "
        assert f"{settings}{float(best['loss']):.3f}, as given " in told
    # So does any report on these folders, and one that was told of no sweep.
    folders = [str(folder) for folder in (sweeping.out / "runs").iterdir()]
    assert report([*folders, "--out", str(sweeping.out / "again")]) == 0
    again = " ".join(capsys.readouterr().out.split())
    start, end = (" Tuned: the best of 5", "Each tuned: "), (" Verdict", " [modes")
    for first, last in zip(start, end, strict=True):
        own, other = (text.partition(first)[2].partition(last)[0] for text in (told, again))
        assert own == other != ""
    page = (sweeping.out / "report.html").read_text()
    assert "as given" in page
    for shown in (page, captured.out):
        assert "all trials, as in trials.csv; * is the best of its family" in shown
        for each in trials:
            mark = " *" if each["best"] == "1" else ""
            assert f"{each['family']}, {each['trial']}{mark}" in shown
    # Trials are kept, but for what takes gigabytes.
    kept = sweeping.out / "tune" / "runs" / "sync-workers=2-trial=4-seed=12"
    assert (kept / "metrics.jsonl").exists()
    assert not (kept / "checkpoints").exists()


def test_what_the_spec_gives_is_not_run_twice_where_it_comes_out_best(
    sweeping: Sweeping, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SPEC.replace("lr = 0.1", "lr = 0.01").replace('["sync", "async"]', '"sync"')
    assert sweeping(text) == 0
    assert [name for name in sweeping.launcher.ran if "-tuned" in name] == []
    told = " ".join(capsys.readouterr().out.split())
    assert "sync, tuned: lr 0.01, beta1 0.5 (loss 2.011, which is as given)" in told
    tuned = sweeping.record()["tuned"]
    assert tuned == {f"sync-workers=2-seed={seed}": {"lr": 0.01, "beta1": 0.5} for seed in (1, 2)}


def test_nothing_that_is_done_is_run_again_and_more_trials_go_on_from_there(
    sweeping: Sweeping,
) -> None:
    sweeping()
    before, trials = sweeping.record(), sweeping.trials()
    assert sweeping() == 0
    assert len(sweeping.launcher.ran) == 28
    assert (sweeping.record(), sweeping.trials()) == (before, trials)
    sweeping(SPEC.replace("trials = 5", "trials = 6").replace("seed = [1, 2]", "seed = [1]"))
    ran = sweeping.launcher.ran[28:]
    assert ran[:2] == [f"sync-workers=2-trial=5-seed={seed}" for seed in (11, 12)]
    others = [name for name in ran if "trial=" not in name]
    assert others == ["sync-tuned=5-workers=2-seed=1", "async-tuned=5-workers=2-seed=1"]


def test_what_is_no_longer_the_best_says_so(sweeping: Sweeping) -> None:
    text = SPEC.replace('["sync", "async"]', '"sync"').replace("seed = [1, 2]", "seed = 1")
    sweeping(text.replace("trials = 5", "trials = 1"))
    given = sweeping.out / "runs" / "sync-workers=2-seed=1" / "search.json"
    assert json.loads(given.read_text())["number"] == 0
    sweeping(text)
    assert not given.exists()
    (tuned,) = (sweeping.out / "runs").glob("sync-tuned=*/search.json")
    assert json.loads(tuned.read_text())["trials"] == 5


def test_an_interrupted_sweep_goes_on_to_the_same_choices(
    sweeping: Sweeping, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = Sweeping(tmp_path_factory.mktemp("whole"))
    whole()

    def interrupt(name: str, folder: Path) -> Ended | None:
        if name == "async-workers=2-trial=3-seed=12":
            folder.mkdir()
            raise sweep.Stopped(signal.SIGINT)
        return None

    sweeping.launcher.instead = interrupt
    with pytest.raises(sweep.Stopped):
        sweeping()
    assert len(sweeping.trials()) == 7
    sweeping.launcher.instead = lambda name, folder: None
    assert sweeping() == 0
    assert sweeping.trials() == whole.trials()
    assert sweeping.record()["tuned"] == whole.record()["tuned"]
    again = {name for name in sweeping.launcher.ran if sweeping.launcher.ran.count(name) > 1}
    assert again == {"async-workers=2-trial=3-seed=12"}


def test_virtual_jobs_are_tuned_to_the_same_choices_on_any_machine(
    sweeping: Sweeping, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("all work and no play " * 200)
    text = SPEC.replace(
        "[settings]",
        f"""
[virtual]
step-ms = 50
[settings]
corpus = "{corpus}"
n-layer = 1
n-head = 1
n-embd = 8
eval-batches = 1
threads = 1""",
    )
    for more, fewer in ("trials = 5", "trials = 2"), ("[11, 12]", "[11]"), ("[1, 2]", "[1]"):
        text = text.replace(more, fewer)

    def train(command: Sequence[str], timeout_s: float) -> Ended:
        assert command[1:3] == ["-m", "psdp.virtual"]
        plan = virtual.parse(command[3:])
        return Ended(virtual.live(plan.given, plan.ranks, plan.cluster), "")

    twin = Sweeping(tmp_path_factory.mktemp("twin"))
    for each in (sweeping, twin):
        each.launch = train
        assert each(text) == 0
    with pytest.raises(ConfigError, match=r"says: step-ms 50\.0, now 5\.0; choose another --out"):
        sweeping(text.replace("step-ms = 50", "step-ms = 5"))
    assert {trial["status"] for trial in sweeping.trials()} == {"finished"}
    assert len({trial["loss"] for trial in sweeping.trials()}) == 4
    assert sweeping.trials() == twin.trials()
    assert sweeping.record()["tuned"] == twin.record()["tuned"]


def test_a_trial_that_diverges_is_the_worst(sweeping: Sweeping) -> None:
    def diverge(name: str, folder: Path) -> Ended | None:
        return Ended(7, "psdp: NaN") if name.startswith("sync-workers=2-trial=2") else None

    sweeping.launcher.instead = diverge
    assert sweeping() == 0
    diverged = sweeping.trials()[2]
    assert (diverged["status"], diverged["loss"], diverged["best"]) == ("diverged", "inf", "0")
    sweeping()
    assert sweeping.launcher.ran.count("sync-workers=2-trial=2-seed=11") == 1


def test_if_all_diverge_there_are_no_best_settings(
    sweeping: Sweeping, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeping.launcher.instead = lambda name, _: (
        Ended(7, "") if name.startswith("sync-workers=2-trial") else None
    )
    assert sweeping() == 1
    cells = sweeping.record()["cells"]
    assert "all its trials diverged" in cells["sync-tuned-workers=2-seed=1"]["why"]
    (tuned,) = [name for name in cells if plain(name) == "async-tuned-workers=2-seed=1"]
    assert cells[tuned]["status"] == "finished"
    assert "2 of 8 cells failed" in capsys.readouterr().err


def test_a_failed_trial_ends_those_of_its_family_until_the_next_call(sweeping: Sweeping) -> None:
    def fail(name: str, folder: Path) -> Ended | None:
        return (
            Ended(5, "psdp: rank 2 is gone") if name.startswith("sync-workers=2-trial=1") else None
        )

    sweeping.launcher.instead = fail
    assert sweeping() == 1
    why = sweeping.record()["cells"]["sync-tuned-workers=2-seed=2"]["why"]
    assert why.startswith("trial 1: exit status 5: rank 2 is gone; see ")
    assert not any(name.startswith("sync-workers=2-trial=2") for name in sweeping.launcher.ran)
    assert "async-tuned-workers=2-seed=1" in map(plain, sweeping.launcher.ran)
    sweeping.launcher.instead = lambda name, folder: None
    assert sweeping() == 0
    assert len(sweeping.trials()) == 10


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max-steps = 10", "max-steps = 20"),
        ("seeds = [11, 12]", "seeds = [11, 13]"),
        ("high = 1e-1", "high = 1"),
        ("trials = 5", "trials = 5\nafter-s = 5"),
    ],
)
def test_trials_of_other_settings_are_refused(sweeping: Sweeping, old: str, new: str) -> None:
    sweeping()
    with pytest.raises(ConfigError, match="the trials of sync-workers=2 are of other settings"):
        sweeping(SPEC.replace(old, new))
    assert len(sweeping.launcher.ran) == 28


def test_losses_may_be_compared_at_equal_time(
    sweeping: Sweeping, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeping(SPEC.replace("trials = 5", "trials = 1\nafter-s = 5"))
    assert "on seeds 11, 12, by the loss after 5 s" in " ".join(capsys.readouterr().out.split())
    # Half of the way from 4 to what it ends with.
    assert float(sweeping.trials()[1]["loss"]) == pytest.approx((4 + 3.4115) / 2)
    sweeping.out = sweeping.out.with_name("later")
    sweeping(SPEC.replace("trials = 5", "trials = 1\nafter-s = 50"))
    assert float(sweeping.trials()[1]["loss"]) == pytest.approx(3.4115)


def test_trials_are_listed_with_the_cells(
    sweeping: Sweeping, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeping.spec.write_text(SPEC)
    assert sweep.main([str(sweeping.spec), "--list"]) == 0
    *names, trials = capsys.readouterr().out.splitlines()
    assert sorted(names) == sorted(CELLS)
    assert trials == "and 5 trials of 2 seed(s) of each of 2 families"
