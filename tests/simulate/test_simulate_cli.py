"""``python -m psdp.simulate`` as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_runs import change_json
from test_calibrate import write_run

from psdp.job import Job
from psdp.modes import CANDIDATES, MODES
from psdp.simulate.__main__ import main
from psdp.simulate.costs import Costs
from psdp.simulate.plan import parse
from psdp.simulate.scenario import Prediction, job_of, predict
from psdp.simulate.table import table

SMALL = ("--parameters", "1000", "--max-steps", "10")


def lines_of(capsys: pytest.CaptureFixture[str], *flags: str) -> list[list[str]]:
    """Return the words of each line of the table."""
    assert main([*SMALL, *flags]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_row_for_every_combination_that_has_a_meaning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--mode", "sync,ssp,local", "--workers", "2,4", "--servers", "1,2")
    _, names, *rows, _ = lines_of(capsys, *flags, "--staleness", "1,3", "--local-steps", "5")
    assert names[:6] == ["mode", "W", "K", "H", "S", "steps/s"]
    assert [tuple(row[:3]) for row in rows if row[0] != "ssp"] == [
        (mode, workers, servers)
        for mode in ("sync", "local")
        for servers in ("1", "2")
        for workers in ("2", "4")
    ]
    ssp = [tuple(row[1:4]) for row in rows if row[0] == "ssp"]
    assert len(ssp) == 8
    assert {row[2] for row in ssp} == {"1", "3"}


def test_a_value_that_is_given_twice_makes_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--workers", "4,4,2,4", "--mode", "ssp,ssp", "--staleness", "1,1")
    _, _, *rows, _ = lines_of(capsys, *flags)
    assert [row[:2] for row in rows] == [["ssp", "4"], ["ssp", "2"]]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, (1, 2)) for name in ("n_layer", "servers", "batch_size", "grad_accum", "seed")),
        *((name, (8, 16)) for name in ("n_embd", "block_size", "vocab_size", "max_steps")),
        ("position", ("learned", "rotary")),
        ("preset", ("gpt2", "llama")),
        ("norm", ("layernorm", "rmsnorm")),
        ("activation", ("gelu", "swiglu")),
        ("mlp_width", (8, 16)),
        *((name, (False, True)) for name in ("qk_norm", "value_embeddings", "tied_head")),
        *((name, (False, True)) for name in ("bias", "overlap")),
        ("dtype", ("float32", "float64")),
        ("wire_dtype", ("float32", "bf16")),
    ],
)
def test_what_is_taken_changes_something(name: str, values: tuple[Any, Any]) -> None:
    small = {"n_layer": 1, "n_embd": 8, "n_head": 1, "max_steps": 6, "jitter": "exponential:0.2"}
    own = small | {"mode": "async", "link_mbps": 10.0}
    one, other = (predict(job_of({**own, name: value}, 3), Costs()) for value in values)
    assert one != other


def test_the_speed_up_of_all_rows_is_over_a_worker_without_a_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    step_s, jitter = 0.05, 1.25
    rows = lines_of(capsys, "--workers", "1,4", "--mode", "sync,async", "--jitter", "uniform:1:1.5")
    for mode, workers, _, steps_per_s, _, speed_up, *_ in rows[2:6]:
        gradients_per_s = int(workers) * float(steps_per_s)
        assert float(speed_up) == pytest.approx(gradients_per_s * step_s * jitter, rel=0.01), mode
    (row,) = lines_of(capsys, "--workers", "1", "--jitter", "pareto:1")[2:3]
    assert row[5].endswith("%"), "no mean, no speed-up"


def test_a_narrow_terminal_shows_what_matters_most(capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = parse([*SMALL]).jobs()
    prediction = predict(job, Costs())
    names, row, _, left_out = table([prediction], ["sync"], 80)
    assert max(map(len, (names, row))) <= 80
    assert names.split()[:7] == ["mode", "W", "K", "H", "S", "steps/s", "tokens/s"]
    assert left_out.startswith("No room for max, gap, dropped, p95")
    assert len(list(table([prediction], ["sync"]))) == 3


def test_a_mode_that_chooses_says_when_it_went_over_to_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    slow = ("--max-steps", "40", "--straggler", "4:4", "--json", str(out))
    _, _, row, change, _ = lines_of(capsys, "--mode", "auto", *slow)
    assert row[:5] == ["auto", "4", "1", "16", "4"]
    (prediction,) = json.loads(out.read_text())["predictions"]
    (told,) = prediction["changes"]
    assert change[:6] == [f"{told['time_s']:.4g}", "s:", "goes", "over", "to", f"{told['mode']}:"]
    assert change[6] == next(one["mode"] for one in told["compared"]) == "sync"
    assert prediction["stayed"] is None


def test_a_mode_that_chooses_says_what_it_compared_where_it_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    flags = ("--mode", "auto", "--workers", "1", "--max-steps", "40", "--json", str(out))
    _, _, _, stays, _ = lines_of(capsys, *flags)
    (prediction,) = json.loads(out.read_text())["predictions"]
    assert prediction["changes"] == []
    choice = prediction["stayed"]
    assert [one["mode"] for one in choice["compared"]] == list(CANDIDATES)
    assert stays[:4] == [f"{choice['time_s']:.4g}", "s:", "stays", "in"]
    assert " ".join(stays).endswith("to change takes 1.15 times the measured one's")
    lines_of(capsys, "--mode", "auto", "--max-steps", "1", "--json", str(out))
    assert json.loads(out.read_text())["predictions"][0]["stayed"] is None


def test_what_was_compared_is_wrapped_to_the_terminal() -> None:
    (job,) = parse([*SMALL, "--mode", "auto", "--workers", "1", "--max-steps", "40"]).jobs()
    lines = list(table([predict(job, Costs())], ["auto"], 80))
    (first,) = (n for n, line in enumerate(lines) if "stays in" in line)
    assert all(len(line) <= 80 for line in lines[: first + 3])
    assert lines[first + 1].startswith("    ")


def test_everything_is_in_the_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    flags = ("--mode", "ssp", "--straggler", "2:3", "--step-ms", "20", "--json", str(out))
    row = lines_of(capsys, *flags)[2]
    record = json.loads(out.read_text())
    (prediction,) = record["predictions"]
    assert f"{prediction['steps_per_s']:.4g}" == row[4]
    assert record["costs"]["step_s"] == {"samples": 1, "mean": 0.02, "std": 0.0}
    assert prediction["max_clock_gap"] == 4
    assert prediction["computing"] + prediction["waiting"] == pytest.approx(1)


def test_a_calibrated_simulation_starts_from_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(write_run(tmp_path / "run"))
    assert main(["--calibrate", run]) == 0
    fitted, costs, _, own, _ = capsys.readouterr().out.splitlines()
    assert fitted == (
        "fitted from 48 steps of 1 run(s) on cores that are not recorded, taken as one for each "
        "rank (say --cores): 2 worker(s), 10.0 gradients/s measured, 10.0 simulated; give several "
        "runs to see how far other jobs may be off"
    )
    assert costs.startswith("1,000 parameters; step 40 ms of a core, unlimited cores;")
    assert own.split()[:4] == ["sync", "2", "1", "5"]
    # Other modes, and costs that are known better.
    flags = ["--calibrate", run, "--mode", "ssp,async", "--workers", "3", "--latency-us", "0"]
    assert main(flags) == 0
    _, costs, _, ssp, free, _ = capsys.readouterr().out.splitlines()
    assert "message 0 us" in costs
    assert ssp.split()[:4] == ["ssp", "3", "1", "4"]
    assert free.split()[:3] == ["async", "3", "1"]


def test_how_far_off_costs_are_is_told_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        str(write_run(tmp_path / name, period_s)) for name, period_s in (("a", 0.2), ("b", 0.25))
    ]
    file = tmp_path / "predictions.json"
    assert main(["--calibrate", *runs, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert 0 < record["error"] < 0.2
    assert len(record["fits"]) == 2
    known = f"speeds of other jobs known to +- {1.959964 * record['error']:.1%} (95% interval)"
    assert known in capsys.readouterr().out
    assert main(["--calibrate", runs[0], "--json", str(file)]) == 0
    assert json.loads(file.read_text())["error"] is None


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--workers 0", "--workers: expected whole numbers from 1 on, got '0'"),
        ("--workers 2,x", "got 'x'"),
        ("--workers 2,", "got ''"),
        (
            "--mode sync,fast",
            f"expected some of {', '.join(MODES)}, got 'fast'",
        ),
        ("--staleness 3", "--staleness has a meaning with --mode ssp or auto only, got sync"),
        ("--mode ssp --backup-workers 1", "--backup-workers has a meaning with --mode sync only"),
        ("--step-ms -1", "--step-ms: expected a number of at least 0, got '-1'"),
        ("--step-ms nan", "got 'nan'"),
        ("--cores 0", "--cores: expected whole numbers from 1 on"),
        ("--restart-s 3", "give --mtbf-s too"),
        ("--servers 2 --mtbf-s 9", "got --servers 2 --mode sync: such a job ends with the first"),
        ("--mode allreduce --mtbf-s 9", "got --servers 1 --mode allreduce: such a job ends"),
        ("--straggler 9:4", "--straggler names rank 9, which is no worker"),
        ("--jitter normal:1", "--jitter expects"),
        ("--calibrate nowhere", "--calibrate nowhere: config.json: No such file"),
        ("--bogus 1", "unrecognized arguments: --bogus 1"),
        ("--json nowhere/x.json", "--json nowhere/x.json: No such file"),
        ("--servers 1001", "--servers 1001 leaves servers without a parameter: there are 1,000"),
        ("--resume runs/one", "in a simulation --resume would change nothing; drop it"),
        ("--corpus a b --lr 1 --quiet", "--corpus, --lr, --quiet would change nothing"),
        ("--dropout 0.3", "--dropout would change nothing"),
        ("--norm-eps 1 --init normal", "--norm-eps, --init would change nothing"),
        ("--partition contiguous", "--partition would change nothing"),
        ("--balance dynamic --optimizer sgd", "--balance, --optimizer would change nothing"),
        ("--mode local --outer-optimizer nesterov", "--outer-optimizer would change nothing"),
        (
            "--parameters 9 --n-layer 2",
            "beside --parameters 9, --n-layer would change nothing; drop one",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], flags: str, text: str
) -> None:
    assert main([*SMALL, *flags.split()]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.startswith("psdp.simulate: ")
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_model_that_was_not_recorded_needs_the_time_of_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(write_run(tmp_path / "run"))
    flags = ["--calibrate", run, "--n-embd", "256"]
    for other, own in (("--n-embd 256", "128"), ("--parameters 99", "1000")):
        assert main(["--calibrate", run, *other.split()]) == 2
        flag, here = other.split()
        told = f"--calibrate {run}: {flag} is {own} there, and {here} here, where steps take"
        assert told in capsys.readouterr().err
    assert main(["--calibrate", run, "--n-embd", "128", "--parameters", "1000"]) == 2
    assert "beside --parameters 1000, --n-embd would change nothing" in capsys.readouterr().err
    assert main(["--calibrate", run, "--n-embd", "128"]) == 0, "which is what it had"
    capsys.readouterr()
    assert main([*flags, "--step-ms", "200"]) == 0
    costs = capsys.readouterr().out.splitlines()[1]
    assert costs.startswith("3,241,472 parameters; step 200 ms of a core")


@pytest.mark.parametrize(
    "flags",
    [
        ("--workers", "2", "--mode", "sync,async", "--servers", "1,2", "--mtbf-s", "9"),
        ("--workers", "2,1", "--backup-workers", "1"),
    ],
)
def test_the_last_row_is_checked_before_the_first_is_simulated(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.simulate.__main__.predict", None)
    assert main([*SMALL, *flags]) == 2
    assert not capsys.readouterr().out


def test_an_interrupt_keeps_the_rows_that_were_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_alone(job: Job, costs: Costs) -> Prediction:
        if len(job.workers) > 2:
            raise KeyboardInterrupt
        return predict(job, costs)

    monkeypatch.setattr("psdp.simulate.__main__.predict", one_alone)
    out = tmp_path / "out.json"
    assert main([*SMALL, "--workers", "2,4", "--json", str(out)]) == 130
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].split()[:2] == ["sync", "2"]
    assert captured.err == "psdp.simulate: interrupted after 1 row(s)\n"
    assert [each["workers"] for each in json.loads(out.read_text())["predictions"]] == [2]


def test_a_reader_may_have_had_enough() -> None:
    command = [sys.executable, "-m", "psdp.simulate", *SMALL, "--workers", "1,2,3,4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.close()
        assert job.wait(60) == 128 + signal.SIGPIPE
        assert job.stderr.read() == b""


@pytest.mark.parametrize(
    ("file", "without", "text"),
    [
        ("summary.json", "apply_s", "summary.json has no apply_s; name the folder of a run that"),
        ("config.json", "workers", "config.json has no workers"),
        ("config.json", "settings", "config.json has no settings"),
    ],
)
def test_a_run_that_says_too_little_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, without: str, text: str
) -> None:
    run = write_run(tmp_path / "run")
    change_json(run / file, without=without)
    assert main(["--calibrate", str(run)]) == 2
    assert text in capsys.readouterr().err


def test_it_starts_as_a_module() -> None:
    command = [sys.executable, "-m", "psdp.simulate", *SMALL, "--mtbf-s", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1].startswith("!: failures ended the run")
