"""Failures on a schedule from a seed: what is to happen, whom it meets, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import breakable
import chaos
import pytest
from chaos import Outcome, Struck, Undisturbed, Verdict
from failing import Failure, Kind, Phase, Shape, Trial, phase_of, pid_of, schedule, strike
from hypothesis import given
from hypothesis import strategies as st

SHAPES = [Shape("sync", 1, 3, standby=False, spares=1), Shape("async", 2, 3, True, 0)]


@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 4), st.booleans())
def test_a_schedule_has_so_many_failures_and_spares_none_of_its_rules(
    seed: int, count: int, most: int, servers_too: bool
) -> None:
    trials = list(schedule(seed, count, SHAPES, list(Kind), most, servers_too=servers_too))
    assert trials == list(schedule(seed, count, SHAPES, list(Kind), most, servers_too=servers_too))
    assert sum(len(trial.failures) for trial in trials) == count
    for trial in trials:
        ranks = [failure.rank for failure in trial.failures]
        assert 1 <= len(set(ranks)) == len(ranks) <= most
        assert servers_too or set(ranks) <= set(trial.shape.working)
        assert max(ranks) < trial.shape.ranks
        moments = [failure.at for failure in trial.failures]
        assert moments == sorted(moments)


def test_standbys_and_spares_are_ranks_too() -> None:
    assert [shape.ranks for shape in SHAPES] == [5, 7]
    assert [list(shape.working) for shape in SHAPES] == [[1, 2, 3, 4], [2, 3, 4]]


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


def test_a_failure_meets_the_rank_of_its_own_job() -> None:
    jobs = [
        subprocess.Popen(
            ["sleep", "30"],
            start_new_session=True,
            env=os.environ | {"OMPI_COMM_WORLD_RANK": str(rank)},
        )
        for rank in (1, 2)
    ]
    try:
        assert pid_of(jobs[0].pid, 1) == jobs[0].pid
        assert not strike(jobs[0].pid, Failure(0.5, Kind.KILL, 2))
        assert strike(jobs[1].pid, Failure(0.5, Kind.KILL, 2))
        assert jobs[1].wait(10) == -9
        assert jobs[0].poll() is None
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def test_what_a_job_has_written_tells_how_far_it_is(tmp_path: Path) -> None:
    records = tmp_path / "metrics.jsonl"

    def phase(*lines: tuple[str, int], cut_off: str = "") -> Phase:
        whole = [json.dumps({"kind": kind, "version": version}) + "\n" for kind, version in lines]
        records.write_text("".join(whole) + cut_off)
        return phase_of(tmp_path, last_version=300)

    assert phase_of(tmp_path, 300) is Phase.START
    assert phase(("eval", 0)) is Phase.START
    assert phase(("eval", 0), ("train", 1), cut_off='{"kin') is Phase.TRAINING
    assert phase(("eval", 0), ("train", 100)) is Phase.EVALUATING
    assert phase(("train", 100), ("eval", 100)) is Phase.TRAINING
    assert phase(("train", 300)) is Phase.ENDING
    (tmp_path / "checkpoints" / ".tmp-abc-step-000040-v000040").mkdir(parents=True)
    assert phase(("train", 41)) is Phase.SAVING


def test_moments_are_shared_out_between_the_start_and_the_rest() -> None:
    plain = Undisturbed(10.0, 2.0, "", 300)
    assert plain.moment_s(0.0) == 0.0
    assert plain.moment_s(chaos.START_SHARE) == pytest.approx(2.0)
    assert plain.moment_s(1.0) == pytest.approx(10.0)


def test_the_table_counts_what_was_tried_and_what_became_of_it() -> None:
    struck = (
        Struck(Failure(0.1, Kind.KILL, 1), Phase.START),
        Struck(Failure(0.5, Kind.KILL, 2), Phase.SAVING),
    )
    trial = Trial(0, SHAPES[0], tuple(each.failure for each in struck))
    verdicts = [Verdict(trial, struck, Outcome.COMPLETED), Verdict(trial, (), Outcome.HUNG)]
    head, kill, last = chaos.table(verdicts).splitlines()
    assert Counter(kill.split()) == Counter(["kill", "1", "0", "0", "1", "0"])
    assert head.split() == [phase.value for phase in Phase]
    assert last == "2 jobs, 2 failures: 1 completed, 1 HUNG; 50.0% completed"
