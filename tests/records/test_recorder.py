"""What a run writes down: lines of metrics and the summary, on a clock of our own."""

from __future__ import annotations

import json
import math
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from psdp.config import Config
from psdp.errors import CheckpointError
from psdp.job import Job
from psdp.language import Language
from psdp.memory import OwnMemory, Usage
from psdp.protocol import Apply, Choice, Sums
from psdp.protocol.choice import Forecast
from psdp.records.console import Console
from psdp.records.folder import RunFolder
from psdp.records.profile import Profile
from psdp.records.reasons import StoppedBy
from psdp.records.recorder import Recorder
from psdp.transport.messages import Spent, Totals

PEAK_KB, PAGE_FAULTS = 2, 7
"""Where they stand in what the system tells."""

CHOICE = Choice("ssp", "it is faster", (Forecast("sync", 5.0, True, 1.0, 5.0),), 1.15)
CHOSEN: dict[str, Any] = {
    "mode": "ssp",
    "reason": "it is faster",
    "compared": [
        {
            "mode": "sync",
            "gradients_per_s": 5.0,
            "measured": True,
            "worth": 1.0,
            "progress_per_s": 5.0,
        }
    ],
    "margin": 1.15,
}


class Run:
    """A recorder in a folder, whose clock the test moves."""

    def __init__(
        self,
        folder: Path,
        *,
        version: int = 0,
        units: int = 0,
        quiet: bool = True,
        **settings: Any,
    ) -> None:
        flat = {"n_embd": 4, "block_size": 8, "batch_size": 2, "max_steps": 20, "log_every": 2}
        config = Config.from_flat(flat | {"mode": "async"} | settings).resolved()
        self.task = Language(config, 16)
        self.folder = folder
        self.now_s = 1000.0
        self.units = units
        self.used: list[int] = [0] * 16
        self.recorder = Recorder(
            Job(config, 3, self.task),
            RunFolder(folder),
            Console(640, units, name="tokens", quiet=quiet),
            version=version,
            units=units,
            transport="shared",
            kernels=["numpy", "compiled", "numpy"],
            val_split_units=40,
            memory=OwnMemory(lambda: resource.struct_rusage(self.used)),
            now=lambda: self.now_s,
        )

    def update(self, version: int, loss: float, lag: int = 0, norm: float = 0.5) -> None:
        """One push of 16 tokens, half a second after the last."""
        self.now_s += 0.5
        self.units += 16
        apply = Apply((0,), (1.0,), 16, (lag,), version)
        self.recorder.updated(apply, loss, norm, 1e-3, self.units, {1: version, 2: 0})

    def metrics(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary


def test_a_train_record_holds_the_means_since_the_last_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for version, loss in enumerate([4.0, 3.0, 2.0, 1.0, 0.5], start=1):
        run.update(version, loss, lag=version % 2)
    assert run.metrics() == [
        {
            "kind": "train",
            "time_s": 0.5,
            "tokens": 16,
            "version": 1,
            "loss": 4.0,
            "lr": 1e-3,
            "grad_norm": 0.5,
            "tokens_per_s": 32.0,
            "version_lag": 1.0,
            "clocks": {"1": 1, "2": 0},
        },
        {
            "kind": "train",
            "time_s": 2.0,
            "tokens": 64,
            "version": 4,
            "loss": 2.0,
            "lr": 1e-3,
            "grad_norm": 0.5,
            "tokens_per_s": 32.0,
            "version_lag": pytest.approx(1 / 3),
            "clocks": {"1": 4, "2": 0},
        },
    ]


def test_a_resumed_run_writes_its_first_update_too_and_appends(tmp_path: Path) -> None:
    Run(tmp_path).update(1, 4.0)
    run = Run(tmp_path, version=6, units=96)
    run.update(7, 3.0)
    assert [record["version"] for record in run.metrics()] == [1, 7]
    assert run.metrics()[1]["tokens"] == 112


def test_a_run_that_goes_on_says_where_before_its_records(tmp_path: Path) -> None:
    run = Run(tmp_path, version=6, units=96)
    run.recorder.resumed("abc", {"lr": (0.1, 0.2)})
    run.update(7, 3.0)
    resumed = {"kind": "resume", "time_s": 0.0, "tokens": 96, "version": 6, "events": "abc"}
    assert run.metrics()[0] == resumed | {"changed": {"lr": [0.1, 0.2]}}
    assert [record["kind"] for record in run.metrics()] == ["resume", "train"]


def test_the_updates_after_the_last_record_are_written_when_the_clock_stops(tmp_path: Path) -> None:
    run = Run(tmp_path, log_every=10)
    for version, loss in enumerate([4.0, 3.0, 2.0], start=1):
        run.update(version, loss)
    assert [record["version"] for record in run.metrics()] == [1]
    run.recorder.stop_clock()
    first, last = run.metrics()
    assert (first["version"], last["version"], last["tokens"]) == (1, 3, 48)
    assert (last["loss"], last["tokens_per_s"]) == (2.5, 32.0)
    run.recorder.stop_clock()
    assert len(run.metrics()) == 2


def test_the_update_that_spends_the_budget_is_written_once(tmp_path: Path) -> None:
    run = Run(tmp_path, version=38, units=608, log_every=1000)
    run.update(39, 1.0)
    run.update(40, 2.0)
    run.recorder.stop_clock()
    records = [(record["tokens"], record["loss"]) for record in run.metrics()]
    assert records == [(624, 1.0), (640, 2.0)]


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update(1, math.nan, norm=math.inf)
    run.recorder.evaluated(Sums(8000.0, 0, 10), 1, 16, best=False)
    train, evaluation = run.metrics()
    assert (train["loss"], train["grad_norm"]) == (None, None)
    assert (evaluation["val_loss"], evaluation["perplexity"]) == (800.0, None)


def test_an_evaluation_is_of_the_version_and_tokens_that_it_saw(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update(1, 4.0)
    run.update(2, 4.0)
    run.recorder.evaluated(Sums(loss=20.0, correct=3, units=10), 1, 16, best=True)
    assert run.metrics()[-1] == {
        "kind": "eval",
        "time_s": 1.0,
        "tokens": 16,
        "version": 1,
        "val_loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "accuracy": 0.3,
        "weights_sha256": None,
    }


def test_an_evaluation_of_text_is_told_in_bits_per_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, quiet=False)
    run.task.validation_bytes, run.task.measures = 40, (*run.task.measures, "bits_per_byte")
    run.recorder.evaluated(Sums(loss=20.0, correct=3, units=10), 1, 16, best=True)
    assert run.metrics()[-1]["bits_per_byte"] == pytest.approx(20 / math.log(2) / 40)
    said = "validation loss 2.0000  perplexity 7.39  accuracy 0.300  0.721 bits/byte  (best)"
    assert said in capsys.readouterr().out


def test_the_summary_says_everything_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.recorder.evaluated(Sums(10.0, 5, 10), 0, 0, best=True)
    for version, lag in enumerate([0, 1, 1, 2], start=1):
        run.update(version, 1.0, lag)
    run.recorder.totals(2, Totals(1.5, 0.125, 0.25, 0.375, 300, 400, Usage(7000, 3)))
    run.recorder.totals(1, Totals(9.0, 9.0, 9.0, 9.0, 9, 9))
    run.recorder.totals(1, Totals(1.25, 0.25, 0.5, 0.75, 100, 200))
    run.recorder.dropped(2)
    run.recorder.server_cpu_s |= {1: 0.75, 0: 1.25}
    run.recorder.switched("ssp", CHOICE)
    run.recorder.counts["moves"] += 1
    run.recorder.apply_s = 0.125
    run.used[PEAK_KB], run.used[PAGE_FAULTS] = 9, 5
    run.recorder.weights_sha256 = "abc"
    run.recorder.evaluated(Sums(20.0, 3, 10), 4, 64, best=False)
    run.recorder.stop_clock()
    run.now_s += 100  # writing checkpoints is not the run's time
    run.recorder.finish(StoppedBy.BUDGET, Counter({0: 3, 3: 1}), 1.0)
    assert run.summary() == {
        "mode": "async",
        "workers": 2,
        "servers": 1,
        "transport": "shared",
        "steps": 2,
        "tokens": 64,
        "version": 4,
        "wall_s": 2.0,
        "tokens_per_s": 32.0,
        "val_loss": 2.0,
        "val_units": 10,
        "val_split_units": 40,
        "best_val_loss": 1.0,
        "perplexity": pytest.approx(math.exp(2)),
        "accuracy": 0.3,
        "max_clock_gap": 3,
        "clock_gap": {"mean": 0.75, "max": 3, "histogram": {"0": 3, "3": 1}},
        "dropped": {"2": 1},
        "version_lag": {"mean": 1.0, "max": 2, "histogram": {"0": 1, "1": 2, "2": 1}},
        "failures": 0,
        "spares_failed": 0,
        "moves": 1,
        "copies": 0,
        "copies_failed": 0,
        "compute_s": {"1": 1.25, "2": 1.5},
        "push_s": {"1": 0.25, "2": 0.125},
        "wait_s": {"1": 0.5, "2": 0.25},
        "pull_s": {"1": 0.75, "2": 0.375},
        "peak_bytes": {"0": 9 * 1024, "1": 0, "2": 7000},
        "page_faults": {"0": 5, "1": 0, "2": 3},
        "step_times": {"workers": {}, "rounds": None},
        "server_cpu_s": {"0": 1.25, "1": 0.75},
        "apply_s": 0.125,
        "bytes_pushed": 400,
        "bytes_pulled": 600,
        "modes": [{"version": 4, "mode": "ssp"}],
        "choice": {"version": 4, **CHOSEN},
        "stopped_by": "budget",
        "weights_sha256": "abc",
        "events": None,
    }


def test_a_change_of_mode_names_what_was_compared(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.recorder.switched("ssp", CHOICE)
    run.recorder.switched("sync", None)  # in a replay
    first, second = (record for record in run.metrics() if record["kind"] == "mode")
    assert first | CHOSEN == first
    assert (second["mode"], second["reason"]) == ("sync", "as recorded")


def test_why_a_run_stays_in_its_mode_is_said_once_and_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, quiet=False)
    for _ in range(2):
        run.recorder.stayed(CHOICE)
    run.recorder.finish(StoppedBy.BUDGET, Counter(), math.inf)
    assert capsys.readouterr().out.count("stays in ssp: it is faster") == 1
    assert run.summary()["choice"] == {"version": 0, **CHOSEN}
    assert run.summary()["modes"] == []


def test_a_run_that_never_began_has_a_summary_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.recorder.finish(StoppedBy.SIGNAL, Counter(), math.inf)
    summary = run.summary()
    assert (summary["version"], summary["tokens"], summary["val_loss"]) == (0, 0, None)
    assert summary["version_lag"] == {"mean": 0.0, "max": 0, "histogram": {}}


def test_the_speed_of_a_resumed_run_counts_its_own_tokens(tmp_path: Path) -> None:
    run = Run(tmp_path, version=10, units=160)
    run.update(11, 1.0)
    run.recorder.finish(StoppedBy.BUDGET, Counter(), math.inf)
    summary = run.summary()
    assert (summary["tokens"], summary["steps"], summary["tokens_per_s"]) == (176, 5, 32.0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: No such file"):
        run.update(1, 1.0)
    with pytest.raises(CheckpointError, match=r"cannot write .*summary\.json: No such file"):
        run.recorder.finish(StoppedBy.BUDGET, Counter(), math.inf)


def test_profiles_are_written_by_rank_and_those_of_two_ranks_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, quiet=False)
    run.recorder.profiles[0] = Profile()
    run.recorder.profiles[0].add("update", 0.5)
    run.recorder.spent(1, Spent(10, "linear", 20, 1.0, 5e9, 80))
    run.recorder.spent(1, Spent(20, "linear", 40, 2.0, 1e10, 160))
    run.recorder.spent(2, Spent(5, "linear", 10, 4.0, 1e10, 160))
    run.recorder.finish(StoppedBy.BUDGET, Counter(), math.inf)
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["precision"] == "float32"
    assert {rank: of["steps"] for rank, of in profile["ranks"].items()} == {"0": 0, "1": 20, "2": 5}
    assert profile["ranks"]["1"] == {
        "role": "worker",
        "kernels": "compiled",
        "steps": 20,
        "costs": {"linear": {"calls": 40, "seconds": 2.0, "flops": 1e10, "bytes": 160}},
    }
    printed = capsys.readouterr().out
    assert "where the time of worker 1 went, compiled kernels, float32 products, 20 st" in printed
    assert "where the time of server 0 went, numpy kernels" in printed
    assert "worker 2" not in printed


def test_a_run_that_is_not_profiled_writes_no_profile(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.recorder.finish(StoppedBy.BUDGET, Counter(), math.inf)
    assert not (tmp_path / "profile.json").exists()
