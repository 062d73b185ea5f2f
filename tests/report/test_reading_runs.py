"""What is read of run folders, and which are left out, by name and with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import change_json, write_run

from psdp.errors import ConfigError
from psdp.report.lost import LeftOut, Lost, failed_run
from psdp.report.runs import read_runs


def only_reason(*folders: Path) -> str:
    """Return why the one folder that is left out is."""
    _, left_out = read_runs(folders)
    (run,) = left_out
    return run.why


def test_a_run_is_what_its_files_say(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", mode="ssp", staleness=2, gaps={0: 3, 2: 1}, lags={0: 1, 5: 2})
    (run,), left_out = read_runs([path])
    assert left_out == []
    assert (run.name, run.mode, run.seed, run.workers, run.servers) == ("a", "ssp", 1337, 2, 1)
    assert (run.gaps, run.max_gap, run.lags) == ({0: 3, 2: 1}, 2, {0: 1, 5: 2})
    assert (run.tokens_per_step, run.bytes_per_token, run.resumed) == (32, 2.0, False)
    assert run.parts_s[2] == {"compute": 8.0, "push": 0.5, "wait": 1.0, "pull": 0.25}
    assert run.clocks == {1: 10, 2: 10}
    assert [point.kind for point in run.points] == ["eval", "train", "eval"]
    assert [evaluation.loss for evaluation in run.evaluations] == [4.0, 2.0]


def test_a_step_is_a_gradient_of_every_worker_that_is_no_backup(tmp_path: Path) -> None:
    (run,), _ = read_runs([write_run(tmp_path / "a", backup_workers=1, grad_accum=3)])
    assert run.tokens_per_step == 2 * 3 * 8


def test_a_resumed_run_goes_on_from_its_checkpoint_in_tokens_and_time(tmp_path: Path) -> None:
    path = write_run(
        tmp_path / "a", evaluations=[(0.0, 0, 4.0), (4.0, 128, 3.0), (8.0, 256, 2.5)], wall_s=7.0
    )
    later = [
        {"kind": "resume", "time_s": 0.0, "tokens": 160, "version": 5},
        {"kind": "eval", "time_s": 3.0, "tokens": 320, "version": 10, "val_loss": 2.0},
    ]
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in later)
    change_json(path / "summary.json", tokens=320)
    (run,), _ = read_runs([path])
    points = [(point.kind, point.time_s, point.tokens) for point in run.points]
    assert points == [("eval", 0.0, 0), ("eval", 4.0, 128), ("eval", 7.0, 320)]
    assert run.resumed
    assert run.bytes_per_token == 640 / 160


def test_where_time_is_virtual_nothing_is_said_of_the_ranks_own(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    change_json(path / "config.json", hosts=["virtual"] * 3)
    (run,), _ = read_runs([path])
    assert (run.parts_s, run.step_times) == ({}, None)
    assert run.wall_s > 0


def test_a_change_of_mode_is_no_point_of_a_curve(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", mode="auto")
    (run,), _ = read_runs([path])
    change = {"kind": "mode", "time_s": 1.0, "tokens": 64, "version": 2, "mode": "ssp"}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(change | {"reason": "faster"}) + "\n")
    assert read_runs([path]) == ([run], [])


def test_an_unfinished_run_is_left_out_by_name(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good")
    running = write_run(tmp_path / "running")
    (running / "summary.json").unlink()
    stopped = write_run(tmp_path / "stopped", stopped_by="signal")
    runs, left_out = read_runs([running, good, stopped])
    assert [run.name for run in runs] == ["good"]
    assert [run.name for run in left_out] == ["running", "stopped"]
    assert "no summary.json" in left_out[0].why
    assert f"stopped by signal after 320 tokens; --resume {stopped}" in left_out[1].why


@pytest.mark.parametrize(
    ("stopped_by", "why"),
    [
        ("non-finite gradient", "diverged: non-finite gradient after 320 tokens; a lower --lr"),
        ("worker lost", "failed: stopped by worker lost after 320 tokens; --resume"),
    ],
)
def test_a_run_that_came_to_nothing_is_lost_and_one_that_diverged_is_not_to_be_resumed(
    tmp_path: Path, stopped_by: str, why: str
) -> None:
    good = write_run(tmp_path / "good")
    _, (run,) = read_runs([good, write_run(tmp_path / "bad", seed=3, stopped_by=stopped_by)])
    assert isinstance(run, Lost)
    assert (run.seed, run.why[: len(why)]) == (3, why)
    assert ("--resume" in run.why) is why.startswith("failed")


def test_what_is_known_to_have_failed_is_lost_if_it_wrote_its_settings_down(
    tmp_path: Path,
) -> None:
    path = write_run(tmp_path / "bad")
    (path / "summary.json").unlink()
    assert isinstance(failed_run(path, "failed"), Lost)
    assert failed_run(tmp_path / "gone", "failed") == LeftOut("gone", "failed")


def test_an_early_stop_is_an_end(tmp_path: Path) -> None:
    runs, left_out = read_runs([write_run(tmp_path / "a", stopped_by="early_stop")])
    assert (len(runs), left_out) == (1, [])


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("config.json", "{", "config.json is no JSON"),
        ("config.json", "[]", "config.json holds no object"),
        ("config.json", "{}", "lacks 'settings'"),
        ("config.json", '{"settings": {"mode": "psychic"}}', "mode expects one of"),
        ("config.json", '{"settings": {"moode": 1}}', "unknown setting 'moode'"),
        ("summary.json", "{", "summary.json is no JSON"),
        ("summary.json", "{}", "lacks 'stopped_by'"),
        ("summary.json", '{"stopped_by": "budget"}', "lacks 'compute_s'"),
        ("metrics.jsonl", '{"kind": "eval"\n', "metrics.jsonl, line 1 is no JSON"),
        ("metrics.jsonl", '{"kind": "eval"}\n', "lacks 'time_s'"),
    ],
)
def test_a_damaged_folder_is_left_out_by_name(
    tmp_path: Path, file: str, text: str, reason: str
) -> None:
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    (bad / file).write_text(text)
    assert reason in only_reason(good, bad)


def test_a_missing_file_of_records_is_a_reason_too(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    (bad / "metrics.jsonl").unlink()
    assert "metrics.jsonl: No such file" in only_reason(good, bad)


def test_what_is_no_run_folder_is_refused_with_all_reasons(tmp_path: Path) -> None:
    good = write_run(tmp_path / "runs" / "good")
    (tmp_path / "empty").mkdir()
    wrong = [tmp_path / "gone", tmp_path, tmp_path / "runs", good / "config.json"]
    with pytest.raises(ConfigError, match="not a run folder") as caught:
        read_runs([good, *wrong, tmp_path / "empty"])
    text = str(caught.value)
    assert f"{tmp_path / 'gone'}: does not exist" in text
    assert f"name them: {tmp_path}/runs/*" in text
    assert f"name them: {tmp_path / 'runs'}/*" in text
    assert f"{good / 'config.json'}: is a file" in text
    assert f"{tmp_path / 'empty'}: has no config.json" in text
    assert f"{good}:" not in text


def test_no_finished_run_at_all_is_an_error_that_names_them(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", stopped_by="error")
    with pytest.raises(ConfigError, match=r"none of these runs is finished:\n  a: .*by error"):
        read_runs([path])


def test_a_run_named_twice_counts_once_and_names_are_unique(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "x" / "run"), write_run(tmp_path / "y" / "run")
    runs, _ = read_runs([one, two, tmp_path / "x" / ".." / "x" / "run"])
    assert [run.name for run in runs] == [str(one), str(two)]


def test_a_setting_that_an_older_run_did_not_know_has_its_default(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    record = json.loads((path / "config.json").read_text())
    del record["settings"]["jitter"]
    change_json(path / "config.json", settings=record["settings"])
    change_json(path / "summary.json", without="clock_gap")
    (run,), _ = read_runs([path])
    assert run.settings["jitter"] is None
    assert run.gaps is None
