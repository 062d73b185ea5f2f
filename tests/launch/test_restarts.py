"""What is started after a failure: from where, on which hosts, and how often."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from psdp.errors import CheckpointError
from psdp.launch.__main__ import why
from psdp.launch.options import Job
from psdp.launch.ranks import Rank
from psdp.launch.restarts import Restarts, host_in
from psdp.launch.supervisor import Outcome

JOB = Job(3, None, ("-m", "psdp.worker"), ("--mode", "ssp"), restarts=2)


def ended(status: int, folder: Path | None) -> Outcome:
    return Outcome(status, None, {}, None, None if folder is None else str(folder))


@pytest.fixture(autouse=True)
def _whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every checkpoint for a whole one."""

    def find(run: Path) -> Path:
        found = sorted((run / "checkpoints").glob("step-*"))
        if not found:
            raise CheckpointError("there is none")
        return found[-1]

    monkeypatch.setattr("psdp.checkpoint.find_checkpoint", find)


def save(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    return folder


def restarts(job: Job, said: list[str], there: Sequence[str] = ()) -> Restarts:
    return Restarts(job, lambda hosts: set(hosts) & set(there), said.append)


def test_a_failure_goes_on_from_the_newest_checkpoint_as_often_as_was_asked(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    after = restarts(JOB, said).after
    resumed = replace(JOB, flags=("--mode", "ssp", "--resume", str(tmp_path)))
    kept = save(tmp_path, 10)
    assert after(ended(137, tmp_path)) == resumed
    assert said == [
        f"failed with exit status 137; starting again from {kept}, 1 more left after this"
    ]
    save(tmp_path, 20)
    assert after(ended(137, tmp_path)) == resumed
    save(tmp_path, 30)
    assert after(ended(137, tmp_path)) is None


@pytest.mark.parametrize("status", [0, 2, 3, 8, 75])
def test_what_would_end_the_same_is_not_started_again(tmp_path: Path, status: int) -> None:
    save(tmp_path, 10)
    said: list[str] = []
    assert restarts(JOB, said).after(ended(status, tmp_path)) is None
    assert said == []


def test_the_same_failure_without_progress_is_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    after = restarts(JOB, said).after
    save(tmp_path, 10)
    assert after(ended(1, tmp_path)) is not None
    assert after(ended(1, tmp_path)) is None
    assert said[-1] == "failed with exit status 1 again, with nothing new saved since; giving up"


def test_what_has_saved_nothing_makes_way_and_is_kept(tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert restarts(JOB, said).after(ended(137, run)) == JOB
    assert not run.exists()
    assert (tmp_path / "run-failed-1" / "config.json").exists()
    assert "starting again from the beginning (it had saved nothing yet; its records" in said[0]


def test_a_start_that_loses_a_rank_is_made_once_more_three_times() -> None:
    said: list[str] = []
    after = restarts(replace(JOB, restarts=0), said).after
    rank = Rank(2, "here", 7, gone=True)
    lost = Outcome(137, None, {2: rank}, rank, None)
    assert [after(lost) for _ in range(4)] == [*3 * [replace(JOB, restarts=0)], None]
    assert said == 3 * ["a rank was lost before the run had begun: starting once more"]
    refused = replace(rank, status=2)
    told = Outcome(2, 2, {2: refused}, refused, None)
    assert restarts(replace(JOB, restarts=0), said).after(told) is None


@pytest.mark.parametrize(("status", "again"), [(9, True), (137, True), (11, True), (1, False)])
def test_a_start_in_which_a_rank_was_killed_before_any_could_call_is_made_once_more(
    status: int, again: bool
) -> None:
    assert Outcome(status, None, {}, None, None).lost_at_start is again


def test_who_went_first_is_named_as_far_as_it_is_known() -> None:
    rank = Rank(2, "here", 7, gone=True)
    start = "the job has failed: rank 2 on here"
    lost = Outcome(9, None, {2: rank}, rank, None)
    assert why(lost, 1).startswith(f"{start} went first, before MPI had started; ")
    unheard = f"{start}, or one that had not called yet, went first, before MPI had started; "
    assert why(lost, 3).startswith(unheard)
    rank.started = True
    assert why(lost, 3).startswith(f"{start} went first; ")
    nobody = "the job has failed: a rank was killed, or crashed, before any could call; "
    assert why(Outcome(9, None, {}, None, None), 3).startswith(nobody)
    asked = why(Outcome(143, None, {2: rank}, rank, None, signal.SIGTERM), 3)
    assert asked == "stopped by SIGTERM; the run had not begun yet, and nothing was saved"


def test_a_start_is_made_once_more_though_others_have_said_that_they_miss_the_rank() -> None:
    first, other = Rank(1, "here", 7, gone=True), Rank(0, "here", 6, gone=True, status=5)
    assert Outcome(5, 5, {0: other, 1: first}, other, None).lost_at_start
    assert not Outcome(5, 5, {0: other, 1: first}, first, "run").lost_at_start


def test_a_start_that_loses_a_host_is_tried_once_more_on_the_others(tmp_path: Path) -> None:
    file, said = tmp_path / "hosts", list[str]()
    file.write_text("a slots=2\nb slots=2\n")
    chosen = restarts(replace(JOB, restarts=0, hostfile=str(file)), said, ["a"])
    again = chosen.after(Outcome(1, None, {}, Rank(2, "b", 7), None))
    assert again is not None
    assert again.hostfile is not None
    assert Path(again.hostfile).read_text() == "a slots=2\n"
    assert said == [
        "without b, which starts no programs any more",
        "a rank was lost before the run had begun: starting once more",
    ]
    chosen.close()


def test_hosts_that_start_nothing_are_left_out(tmp_path: Path) -> None:
    file, said = tmp_path / "hosts", list[str]()
    file.write_text("# mine\na slots=2\nb slots=2\nc:4 # big\n")
    job = replace(JOB, hostfile=str(file))
    chosen = restarts(job, said, ["a", "c"])
    again = chosen.after(ended(1, None))
    assert again is not None
    assert again.hostfile is not None
    assert Path(again.hostfile).read_text() == "a slots=2\nc:4 # big\n"
    assert again.crowded
    chosen.close()
    assert not Path(again.hostfile).exists()
    assert said[0] == "without b, which starts no programs any more"
    assert restarts(job, said, ["a", "b", "c"]).after(ended(1, None)) == job
    assert restarts(job, said).after(ended(1, None)) is None
    assert said[-1] == f"failed with exit status 1, and no host of --hostfile {file} answers"


def test_the_host_of_a_line_is_read_as_launchers_write_it() -> None:
    lines = ["a slots=2", "b:2", "  c", "# d", ""]
    assert [host_in(line) for line in lines] == ["a", "b", "c", None, None]
