"""What python -m psdp.report leaves and prints."""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import write_run

from psdp.report.__main__ import main

PNG = b"\x89PNG\r\n\x1a\n"
PLOTS = {
    "loss_time.png",
    "loss_tokens.png",
    "loss_bytes.png",
    "loss_differences.png",
    "time_differences.png",
    "throughput.png",
    "version_lag.png",
    "clock_gap.png",
    "worker_time.png",
}


class Sources(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on two scenarios; the first with two seeds, one run left out."""
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder / "sync-1", seed=1, beta1=0.9),
        write_run(
            folder / "sync-2",
            seed=2,
            beta1=0.9,
            evaluations=[(0.0, 0, 4.0), (8.0, 320, 2.1)],
        ),
        write_run(
            folder / "async",
            mode="async",
            tokens_per_s=64.0,
            lags={0: 5, 2: 15, 90: 1},
            evaluations=[(0.0, 0, 4.0), (5.0, 320, 2.0)],
        ),
        write_run(folder / "<b>&", mode="ssp", straggler="2:4", gaps={0: 5, 4: 15}),
        write_run(folder / "stopped", stopped_by="signal"),
    ]
    out = folder / "made" / "here"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_are_there(report: Path) -> None:
    names = {"runs.csv", "curves.csv", "report.json", "report.html"} | PLOTS
    assert {path.name for path in report.iterdir()} == names
    for name in PLOTS:
        assert (report / name).read_bytes().startswith(PNG)


def test_runs_csv_is_tidy(report: Path) -> None:
    rows = rows_of(report / "runs.csv")
    assert [row["run"] for row in rows] == ["sync-1", "sync-2", "async", "<b>&"]
    first, second = rows[:2]
    assert (first["mode"], first["seed"], first["label"]) == ("sync", "1", "sync")
    assert (first["steps_per_s"], first["bytes"], first["bytes_per_step"]) == ("1.0", "640", "64.0")
    assert (second["val_loss"], second["corpus"]) == ("2.1", "stdlib")
    assert float(first["target_s"]) == pytest.approx(10 * (4 - 1.01 * 2.05) / 2)
    assert second["target_s"] == "", "it ends above the target"
    assert (rows[2]["version_lag_p95"], rows[2]["version_lag_max"]) == ("2", "90")
    assert rows[3]["straggler"] == "2:4"


def test_curves_csv_has_a_row_for_every_record(report: Path) -> None:
    rows = [row for row in rows_of(report / "curves.csv") if row["run"] == "sync-2"]
    assert [(row["kind"], row["time_s"], row["loss"]) for row in rows] == [
        ("eval", "0.0", "4.0"),
        ("train", "10.0", "2.5"),
        ("eval", "8.0", "2.1"),
    ]
    assert [row["bytes"] for row in rows] == ["0", "640", "640"]
    assert [row["clock_gap"] for row in rows] == ["", "0", ""]


def test_every_mean_of_the_report_is_that_of_runs_csv(report: Path) -> None:
    runs = rows_of(report / "runs.csv")
    record = json.loads((report / "report.json").read_text())
    columns = {
        "steps_per_s": "steps_per_s",
        "tokens_per_s": "tokens_per_s",
        "val_loss": "val_loss",
        "best_val_loss": "best_val_loss",
        "equal_tokens_loss": "equal_tokens_loss",
        "equal_time_loss": "equal_time_loss",
        "target_s": "target_s",
        "bytes": "bytes",
        "bytes_per_step": "bytes_per_step",
    }
    for scenario in record["scenarios"]:
        for row in scenario["rows"]:
            own = [run for run in runs if run["run"] in row["names"]]
            assert {run["label"] for run in own} == {row["label"]}
            for name, column in columns.items():
                values = [float(run[column]) for run in own if run[column]]
                if not values:
                    assert row[name] is None
                    continue
                assert row[name]["mean"] == pytest.approx(statistics.fmean(values))
                if len(values) > 1:
                    half = 12.706205 * statistics.stdev(values) / len(values) ** 0.5
                    assert row[name]["half"] == pytest.approx(half)
    sync = [float(run["val_loss"]) for run in runs if run["mode"] == "sync"]
    assert record["scenarios"][0]["target"] == pytest.approx(1.01 * statistics.fmean(sync))


def test_report_json_holds_rows_and_verdict(report: Path) -> None:
    record = json.loads((report / "report.json").read_text())
    equal, slow = record["scenarios"]
    assert equal["regimes"] == ["equal workers"]
    assert equal["differing"] == {"beta1": {"sync": "0.9", "async": "0.5"}}
    assert equal["setup"]["Model"].endswith("n-embd 128, block-size 8; 1,000 parameters")
    assert [row["label"] for row in equal["rows"]] == ["sync", "async"]
    assert equal["rows"][1]["steps_ratio"] == 2.0
    assert slow["regimes"] == ["constant straggler"]
    assert slow["verdict"][-1] == "Only ssp S=4 was run here: nothing to compare."
    assert [run["name"] for run in record["left_out"]] == ["stopped"]


def test_the_page_needs_nothing_else(report: Path) -> None:
    page = (report / "report.html").read_text()
    sources = Sources()
    sources.feed(page)
    assert len(sources.found) == len(PLOTS)
    assert all(source.startswith("data:image/png;base64,") for source in sources.found)
    assert not sources.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?://|url\(|@import", page)


def test_the_page_says_it_all_and_escapes_names(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "Regime: <strong>equal workers</strong>" in page
    assert "Allreduce baseline: none among these runs" in page
    assert "No winner is named: of single seeds it is not known what is chance." in page
    assert "optimizer adamw, lr 0.001" in page
    assert "beta1 0.9 (sync) or 0.5 (async)" in page
    assert "<dt>Machine</dt><dd>2 workers and 1 server on here (a processor, 2 cores)," in page
    assert "MPI MPI 5" in page
    assert "stopped: unfinished" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_the_terminal_shows_tables_baseline_target_percentiles_bytes_and_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync = write_run(tmp_path / "sync")
    fast = write_run(tmp_path / "fast", mode="async", tokens_per_s=64.0, lags={0: 1, 3: 1})
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main([str(sync), str(fast), "--out", str(tmp_path / "out"), "--target-loss", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.split()[:1] in (["mode"], ["sync"], ["async"])]
    assert len(tables) > 10
    assert max(map(len, lines[:-1])) <= 80, "but for where it is written"
    assert any(line.startswith("mode") and line.endswith("time to 3.000") for line in lines)
    told = " ".join(line.strip() for line in lines)
    for sentence in (
        "Allreduce baseline: none among these runs",
        "Target loss: 3.000 (as asked for).",
        "Version lag, 50th / 95th percentile / greatest: sync 0 / 0 / 0; async 0 / 3 / 3.",
        "Bytes pushed and pulled, mean of a run: sync 640 B; async 640 B.",
        "- Fastest: sync and async, not told apart (the most: async, 2.00 steps/s). So no row is "
        "known to make more steps/s than sync. [modes alone]",
    ):
        assert sentence in told


@pytest.mark.parametrize("columns", [60, 200])
def test_lines_are_as_long_as_the_terminal_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("psdp.report.plots.write_plots", lambda *_: iter(()))
    runs = [write_run(tmp_path / f"run-{lr}", lr=lr) for lr in (0.001, 0.002, 0.003)]
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert columns - 20 < max(map(len, lines)) <= columns


def test_a_run_may_have_any_name_and_be_told_on_any_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / os.fsdecode(b"r\xfcn"))
    told = subprocess.run(
        [sys.executable, "-m", "psdp.report", run, run, "--out", tmp_path / "rün"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert "r\\xfcn/report.html, report.json, runs.csv" in told
    assert "r\\udcfcn" in (tmp_path / "rün" / "report.html").read_text()
    assert "r\\udcfcn" in (tmp_path / "rün" / "runs.csv").read_text()


def test_a_report_may_be_named_from_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("psdp.report.plots.write_plots", lambda *_: iter(()))
    write_run(tmp_path / "sync")
    assert main(["~/sync", "--out=~/out"]) == 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "RUN"),
        (["gone"], "gone: does not exist"),
        (["good", "--target-loss", "0"], "--target-loss must be finite and above 0"),
        (["good", "--target-loss", "nan"], "--target-loss must be finite and above 0"),
        (["good", "--target", "2"], "unrecognized arguments: --target"),
        (["good", "--out", ""], "--out is empty"),
        (["good", "--out", "file"], "--out file"),
    ],
)
def test_wrong_input_is_one_clear_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good")
    (tmp_path / "file").write_text("")
    assert main(flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("psdp.report: ")
    assert captured.out == ""
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_what_is_not_installed_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["gone"]) == 2
    assert f"a report needs {package}; pip install 'psdp[report]'" in capsys.readouterr().err
