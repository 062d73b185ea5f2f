"""Runs as they are: all that they say is proved, and what cannot be is said."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit.recorded import (
    COMMON,
    audit,
    change,
    contradictions,
    expect_proved,
    lines_of,
    of,
    record,
    uneven,
)
from in_memory.jobs import Training, die, die_at, train

from psdp.audit.__main__ import main
from psdp.audit.auditing import Audit
from psdp.audit.findings import UNTOLD, Verdict
from psdp.protocol import Choice
from psdp.servers.ending import Ended

pytestmark = pytest.mark.timeout(90)

MODES: list[dict[str, Any]] = [
    {"mode": "sync", "servers": 2, "partition": "contiguous", "grad_accum": 2},
    {"mode": "sync", "backup_workers": 1},
    {"mode": "sync", "virtual_workers": 5, "balance": "dynamic"},
    {"mode": "async", "servers": 2, "lag_compensation": "dc-asgd"},
    {"mode": "async", "partition": "hash", "overlap": True},
    {"mode": "async", "balance": "dynamic", "virtual_workers": 5},
    {"mode": "ssp", "staleness": 1},
    {"mode": "local", "local_steps": 4},
    {"mode": "local", "local_steps": 5, "merge": "async"},
    {"mode": "easgd", "local_steps": 2},
]


def named(mode: dict[str, Any]) -> str:
    return "-".join(map(str, mode.values()))


@pytest.mark.parametrize("mode", MODES, ids=named)
def test_all_that_a_recorded_run_says_is_proved_and_computed_again(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    run = record(tmp_path / "run", **mode)
    checks = {finding.check for finding in expect_proved(run.folder).all}
    assert checks >= {"hashes", "grants", "versions", "train records", "evaluations"}
    assert checks >= {"checkpoints", "summary", "weights", "best", "windows"}
    assert ("staleness" in checks) is (mode["mode"] == "ssp")
    # The norm of a mean is no push's; of a single gradient's update it is.
    untold = {finding.check for finding in audit(run.folder).all if finding.why == UNTOLD}
    assert untold - {"train records"} == {"evaluations"}
    own = Audit(run.folder)
    own.check()
    own.recompute(3, seed=1)
    again = [finding for finding in own.findings.all if finding.check == "recomputed"]
    assert {finding.verdict for finding in again} == {Verdict.PROVED}
    assert sum(finding.text.startswith("update ") for finding in again) == min(
        3, run.summary["version"]
    )


@pytest.mark.parametrize("mode", [MODES[0], MODES[1], MODES[5], MODES[8]], ids=named)
def test_a_worker_that_moves_leaves_nothing_out(tmp_path: Path, mode: dict[str, Any]) -> None:
    run = record(tmp_path / "run", prepare=lambda run: die_at(run.worker(1), 3), **mode)
    assert run.summary["moves"] > 0
    findings = expect_proved(run.folder)
    (moves,) = [finding for finding in findings.all if finding.check == "moves"]
    assert f"{run.summary['moves']} move" in moves.text
    own = Audit(run.folder)
    own.check()
    own.recompute(2, seed=3)
    assert not own.findings.contradicted
    metrics = run.folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if '"failure"' not in line))
    (text,) = [str(finding) for finding in audit(run.folder).all if finding.check == "summary"]
    assert "failures is 1, the records make it 0" in text


def test_a_worker_that_moves_while_the_last_version_is_evaluated_is_no_event(
    tmp_path: Path,
) -> None:
    def dies(run: Training) -> None:
        evaluate, worker = run.worker(1).replica.model.evaluate, run.worker(1)

        def evaluating(batch: Any) -> Any:
            if run.leader.deciding.policy.drained:
                die(worker)
            return evaluate(batch)

        worker.replica.model.evaluate = evaluating  # type: ignore[method-assign]

    run = record(tmp_path / "run", dies, mode="sync")
    assert run.summary["moves"] == 1
    expect_proved(run.folder)


CHANGES = {9: "ssp", 18: "local", 30: "sync", 36: "local-async", 46: "async"}


class Scripted:
    """Chooses modes after so many pushes."""

    def __init__(self) -> None:
        self._pushes = 0

    def pushed(self, *_seen: Any) -> None:
        self._pushes += 1

    answered = left = lambda self, *_seen: None

    def choose(self, *_seen: Any) -> Choice | None:
        mode = CHANGES.get(self._pushes)
        return None if mode is None else Choice(mode, "the test says so")


def test_a_run_that_changes_its_mode(tmp_path: Path) -> None:
    def scripted(run: Training) -> None:
        run.leader.deciding.choosing.chooser = Scripted()  # type: ignore[assignment, union-attr]
        uneven(run)

    run = record(tmp_path / "run", scripted, mode="auto", local_steps=2, max_steps=20)
    assert [change["mode"] for change in run.summary["modes"]] == list(CHANGES.values())
    expect_proved(run.folder)


def interrupted(
    folder: Path, version: int, resume: Path | None = None, **settings: Any
) -> Training:
    """Return a run that was asked to end at a version."""
    job: list[Training] = []

    def prepare(run: Training) -> None:
        job.append(run)
        uneven(run)

    def signalled(rank: int) -> str | None:
        return "SIGTERM" if rank == 0 and job and job[0].progress.version >= version else None

    with pytest.raises(Ended):
        train(folder, resume=resume, prepare=prepare, signalled=signalled, **(COMMON | settings))
    return job[0]


@pytest.mark.parametrize("mode", [MODES[0], MODES[3], MODES[5], MODES[7]], ids=named)
def test_a_run_that_went_on_is_one_run(tmp_path: Path, mode: dict[str, Any]) -> None:
    first = interrupted(tmp_path / "run", version=1, **mode)
    expect_proved(first.folder)
    interrupted(first.folder, version=1, resume=first.folder, **mode)
    interrupted(first.folder, version=3, resume=first.folder, **mode)
    expect_proved(first.folder)
    train(first.folder, resume=first.folder, **(COMMON | mode))
    findings = expect_proved(first.folder)
    links = [finding.text for finding in findings.all if finding.check == "starts"]
    assert len([text for text in links if "goes on from version" in text]) == 2
    own = Audit(first.folder)
    own.check()
    own.recompute(4, seed=2)
    assert not own.findings.contradicted


def test_events_after_the_checkpoint_that_a_run_went_on_from_are_void(tmp_path: Path) -> None:
    """As of a run that is killed: its latest checkpoint is older than its last event."""
    settings = {"mode": "async"}
    first = interrupted(tmp_path / "run", version=20, **settings)
    latest = sorted((first.folder / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(latest)
    (first.folder / "summary.json").unlink()
    events = first.folder / "events-000000.jsonl"
    with events.open("a") as file:
        file.write('["push", 2, 7, 1')
    findings = audit(first.folder)
    assert of(findings, Verdict.CONTRADICTED) == []
    (told,) = [each for each in of(findings, Verdict.UNCHECKED) if each.why != UNTOLD]
    assert str(told).endswith("because there is none: the run was cut off, or goes on")
    assert any("was cut off with its run" in finding.text for finding in findings.all)
    train(first.folder, resume=first.folder, **(COMMON | settings))
    findings = expect_proved(first.folder)
    assert any("are void, since the run went on from version" in f.text for f in findings.all)


def test_what_was_not_recorded_is_proved_as_far_as_that_goes(tmp_path: Path) -> None:
    run = record(tmp_path / "run", mode="ssp", staleness=1, record=False)
    findings = audit(run.folder)
    assert {finding.check for finding in of(findings, Verdict.UNCHECKED)} == {"updates", "windows"}
    assert not findings.contradicted
    proved = {finding.check for finding in of(findings, Verdict.PROVED)}
    assert proved == {"train records", "checkpoints", "summary", "weights", "best"}
    train(run.folder, resume=run.folder, **(COMMON | {"mode": "ssp", "max_steps": 20}))
    findings = audit(run.folder)
    assert not findings.contradicted
    whys = {finding.why for finding in of(findings, Verdict.UNCHECKED)}
    assert whys == {"it was not made with --record", "no events of it are here", UNTOLD}


def test_events_that_are_gone_are_missed_after_a_resume_too(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    train(run.folder, resume=run.folder, **(COMMON | {"max_steps": 20}))
    assert not audit(run.folder).contradicted
    (run.folder / "events-000000.jsonl").unlink()
    assert any("events-000000.jsonl, by which it was made" in t for t in contradictions(run.folder))


def test_a_record_of_before_there_were_hashes_is_no_contradiction(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    events = run.folder / "events-000000.jsonl"
    bare = [json.dumps(json.loads(line)[:-1]) + "\n" for line in lines_of(events)[1:]]
    events.write_text("".join(bare))
    assert contradictions(run.folder), "the summary and checkpoints know the hashes"
    shutil.rmtree(run.folder / "checkpoints")
    change(run.folder / "summary.json", events=None)
    findings = audit(run.folder)
    assert not findings.contradicted
    assert "it was recorded without hashes, as psdp did before 0.2" in {f.why for f in findings.all}


def test_on_other_data_nothing_is_computed_again(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    own = Audit(run.folder)
    own.check()
    for change_data, why in (
        (lambda path: np.save(path, np.load(path)[::-1]), "on a corpus with sha256"),
        (Path.unlink, "corpus.npy"),
    ):
        change_data(tmp_path / "corpus.npy")
        before = len(own.findings.all)
        own.recompute(1, seed=1)
        (told,) = own.findings.all[before:]
        assert told.verdict is Verdict.UNCHECKED
        assert why in str(told.why)


def test_workers_that_make_the_updates_themselves_have_no_events(tmp_path: Path) -> None:
    run = record(tmp_path / "run", mode="allreduce", record=False)
    assert not audit(run.folder).contradicted


@pytest.mark.parametrize("mode", [MODES[0], MODES[2], MODES[4]], ids=named)
def test_a_table_says_who_used_each_window_and_in_which_update(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    run = record(tmp_path / "run", **(mode | {"max_steps": 90, "eval_every": 0}))
    assert main([str(run.folder), "--uses", str(tmp_path / "uses.csv")]) == 0
    with (tmp_path / "uses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == run.summary["tokens"] // 8
    uses = Counter((row["epoch"], row["window"]) for row in rows)
    assert set(uses.values()) == {1}
    windows = {epoch: len({w for e, w in uses if e == epoch}) for epoch, _ in uses}
    whole = [epoch for epoch, count in windows.items() if count == 249]
    (told,) = [f.text for f in audit(run.folder).all if f.check == "windows"]
    last = "epoch 0 was" if len(whole) == 1 else f"epochs 0 to {len(whole) - 1} was"
    assert f"each of the 249 windows of {last} used once" in told
    assert {int(row["update"]) for row in rows} == set(range(1, run.summary["version"] + 1))
    assert {row["rank"] for row in rows} <= {"1", "2", "3", "4"}


def test_lines_for_people_and_for_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "run")
    assert main([str(run.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main([str(run.folder), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    whys = [f", because {found['why']}" if found["why"] else "" for found in findings]
    assert lines == [
        f"{found['verdict']}: {found['check']}: {found['text']}{why}"
        for found, why in zip(findings, whys, strict=True)
    ]
    assert {found["verdict"] for found in findings} == {"proved", "could not be checked"}
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "name the folder of a run, as --out had it" in capsys.readouterr().err
    assert main([str(run.folder), "--recompute", "-1"]) == 2
    events = run.folder / "events-000000.jsonl"
    lines = lines_of(events)
    events.write_text("".join(lines[:9] + lines[10:]))
    assert main([str(run.folder)]) == 1
    assert f"at {events}:10\n" in capsys.readouterr().out


def test_a_reader_may_have_had_enough(tmp_path: Path) -> None:
    run = train(tmp_path / "run", **COMMON)
    command = [sys.executable, "-m", "psdp.audit", str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.close()
        assert (job.stderr.read(), job.wait()) == (b"", 128 + signal.SIGPIPE)
