"""Failures on a schedule from a seed: what is to happen, whom it meets, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import breakable
import chaos
import pytest
from breaking import Outcome, Struck, Verdict
from failing import ROLES, Failure, Kind, Phase, Running, Shape, Trial, schedule
from hypothesis import given
from hypothesis import strategies as st
from progress import Progress
from session import end_session

SHAPES = [Shape("sync", 1, 3, standby=False, spares=1), Shape("async", 2, 3, standby=True, hosts=3)]


@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 4), st.sampled_from(ROLES[:2]))
def test_a_schedule_has_so_many_failures_and_keeps_to_its_rules(
    seed: int, count: int, most: int, role: str
) -> None:
    trials = list(schedule(seed, count, SHAPES, list(Kind), most, roles=[role]))
    assert trials == list(schedule(seed, count, SHAPES, list(Kind), most, roles=[role]))
    assert sum(len(trial.failures) for trial in trials) == count
    for trial in trials:
        ranks = [failure.rank for failure in trial.failures]
        assert 1 <= len(set(ranks)) == len(ranks) <= most
        assert {trial.shape.role(rank) for rank in ranks} == {role}
        moments = [failure.order for failure in trial.failures]
        assert moments == sorted(moments)


def test_standbys_and_spares_are_ranks_too_and_hosts_are_filled_one_after_the_other() -> None:
    assert [shape.ranks for shape in SHAPES] == [5, 7]
    assert [list(shape.working) for shape in SHAPES] == [[1, 2, 3, 4], [2, 3, 4]]
    assert SHAPES[1].slots == [3, 2, 2]
    assert [SHAPES[1].host_of(rank) for rank in range(7)] == [1, 1, 1, 2, 2, 3, 3]
    assert [SHAPES[1].role(rank) for rank in (1, 2, 4, 5)] == [*ROLES[:2], *ROLES[1:]]


@pytest.mark.parametrize(
    ("way", "ends", "says"),
    [
        (breakable.leave, 3, ""),
        (breakable.fail, 1, "Broken"),
        (breakable.run_out_of_memory, 1, "MemoryError"),
        (breakable.run_out_of_space, 1, "File too large"),
    ],
)
def test_a_process_fails_as_it_is_told(
    tmp_path: Path, way: Callable[[], object], ends: int, says: str
) -> None:
    code = f"import breakable; breakable.{way.__name__}(); open('file', 'wb', 0).write(b'x')"
    path = os.pathsep.join([str(Path(chaos.__file__).parent), *sys.path])
    failed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert failed.returncode == ends
    assert says in failed.stderr


def at_work(rank: int) -> subprocess.Popen[bytes]:
    """Return a process of a session of its own that is a rank. It has answered: until it runs, its
    environment cannot be read."""
    process = subprocess.Popen(
        ["cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env=os.environ | {"OMPI_COMM_WORLD_RANK": str(rank)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"?")
    assert process.stdout.read(1) == b"?"
    return process


def test_a_failure_meets_the_rank_of_its_own_job() -> None:
    jobs = [Running(at_work(rank), SHAPES[0]) for rank in (1, 2)]
    killed = Failure(Phase.TRAINING, 0.5, Kind.KILL, 2)
    try:
        assert jobs[0].aim(killed) is None
        assert jobs[1].aim(killed) == jobs[1].process.pid
        assert not jobs[1].strike(killed, jobs[0].process.pid), "that is another rank"
        assert jobs[1].strike(killed, jobs[1].process.pid)
        assert jobs[1].process.wait(10) == -9
        assert not jobs[0].ended
        asked = Failure(Phase.TRAINING, 0.5, Kind.TERM, 2)
        assert jobs[0].strike(asked, jobs[0].aim(asked) or 0)
        assert jobs[0].process.wait(10) == -15
    finally:
        for job in jobs:
            end_session(job.process)
            job.process.communicate()


def test_what_a_job_has_written_tells_how_far_it_is(tmp_path: Path) -> None:
    records, progress = tmp_path / "metrics.jsonl", Progress(tmp_path, 300, 100)
    assert progress.phase() is Phase.START

    def phase(*lines: tuple[str, int], cut_off: str = "") -> Phase:
        with records.open("a") as file:
            for kind, version in lines:
                file.write(json.dumps({"kind": kind, "version": version}) + "\n")
            file.write(cut_off)
        return progress.phase()

    assert phase(("eval", 0)) is Phase.START
    assert phase(("train", 1), cut_off='{"kin') is Phase.TRAINING
    with records.open("a") as file:
        file.write('d": "move"}\n')
    assert phase(("train", 102)) is Phase.EVALUATING
    assert progress.share == 0.34
    assert phase(("eval", 102)) is Phase.TRAINING
    kept = tmp_path / "checkpoints" / ".tmp-abc-step-000040-v000040"
    kept.mkdir(parents=True)
    assert phase(("train", 120)) is Phase.SAVING
    kept.rmdir()
    assert phase(("train", 300)) is Phase.ENDING
    records.write_text("")  # started once more
    assert phase(("eval", 0)) is Phase.START


def test_the_table_counts_what_was_tried_and_what_became_of_it() -> None:
    struck = (
        Struck(Failure(Phase.START, 0.1, Kind.KILL, 0), Phase.START),
        Struck(Failure(Phase.SAVING, 0.5, Kind.KILL, 2), Phase.SAVING),
        Struck(Failure(Phase.ENDING, 0.5, Kind.TERM, 2), Phase.ENDING),
    )
    trial = Trial(0, SHAPES[0], tuple(each.failure for each in struck))
    verdicts = [
        Verdict(trial, struck, Outcome.COMPLETED, goodput=0.75),
        Verdict(trial, struck[:2], Outcome.HUNG),
        Verdict(trial, (), Outcome.COMPLETED, goodput=0.25),
    ]
    head, *rows, ended, speed = chaos.table(verdicts).splitlines()
    assert head.split() == [*Phase, *Outcome]
    assert [row.split() for row in rows] == [
        ["kill", "server", *"2000010001"],
        ["kill", "worker", *"0002010001"],
        ["term", *"0000110000"],
    ]
    assert ended == "3 jobs, 5 failures: 2 completed, 1 HUNG; 66.7% completed"
    assert speed == "speed of those that completed, of the undisturbed: 0.75 (median)"
