"""Ranks that hold a shard die where others stand by: every gradient of the budget counts once,
records have no line twice, and sync ends with the bits of a run in which nothing was lost. That
they die anywhere is in test_lost_ranks.py."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from in_turns import Turns
from jobs import Training, before_gradient, train, unhurried
from losses import WHERE, check, die_at_message, die_with, told

from psdp.checkpoint import find_checkpoint, read_manifest
from psdp.errors import CheckpointError, ConfigError, PeerLost, RankFailed
from psdp.servers.ending import Ended
from psdp.transport import Lost
from psdp.transport import messages as m
from psdp.transport.in_memory import Parcel
from psdp.workers.worker import Worker


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(("kind", "number"), WHERE.values(), ids=WHERE)
def test_rank_0_may_die_anywhere(
    tmp_path: Path, kind: type[Any], number: int, servers: int
) -> None:
    common = {"workers": 2, "servers": servers, "eval_every": 1, "checkpoint_every": 2}
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, kind, number),
        standby=True,
        **common,
    )
    check(run)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    dead = run.network.is_dead(0)
    assert run.summary["takeovers"] == dead
    taken = [(record["from"], record["to"]) for record in run.metrics("takeover")]
    assert taken == ([(0, servers + 2)] if dead else [])


def hear_late(run: Training, rank: int, peers: Collection[int]) -> None:
    """Let what these have sent to a rank come after what others send meanwhile."""
    network, kept = run.network, deque[Parcel | Lost]()
    take = network.take

    def other() -> Parcel | Lost | None:
        while (parcel := take(rank)) is not None and parcel.peer in peers:
            kept.append(parcel)
        return parcel

    def taking(of: int) -> Parcel | Lost | None:
        if of != rank:
            return take(of)
        if (parcel := other()) is None and kept:
            time.sleep(0.003)
            parcel = other()
        return parcel or (kept.popleft() if kept else None)

    network.take = taking  # type: ignore[method-assign]


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("spares", [0, 1])
def test_a_push_waits_for_who_stands_by_to_have_made_the_update_before_it(
    tmp_path: Path, servers: int, spares: int
) -> None:
    """What several ranks send comes in any order."""

    def prepare(run: Training) -> None:
        hear_late(run, run.job.standbys[-1], run.job.holding)
        if spares:
            die_at_message(run, servers, 20)

    common = {"workers": 2, "servers": servers, "eval_every": 4, "max_steps": 8}
    settings = common | {"workers": 2 + spares, "spares": spares}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **settings)
    check(run)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))


@pytest.mark.parametrize("rank", [1, 5])
def test_another_may_die_while_a_term_begins(tmp_path: Path, rank: int) -> None:
    def prepare(run: Training) -> None:
        die_at_message(run, 0, 30)
        die_with(run, rank, m.Halted)

    common = {"workers": 2, "servers": 2}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert run.last_job.term.lost == {0, rank}


def test_who_leads_may_die_while_a_term_begins(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        die_at_message(run, 1, 30)
        die_with(run, 0, m.Close)

    common = {"workers": 2, "servers": 2}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert run.last_job.servers == (4, 5)


def test_who_leads_may_die_while_it_tells_that_a_term_ends(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        die_at_message(run, 1, 30)
        die_with(run, 0, m.Halt, 2)  # who leads next has not heard it, the other has

    common = {"workers": 2, "servers": 2}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert run.last_job.servers == (4, 5)


CALLS: Mapping[str, dict[int, tuple[type[Any], int]]] = {
    "after a takeover": {0: (m.Answer, 5), 1: (m.Gradient, 4)},
    "as another rank computes meanwhile": {1: (m.Gradient, 2), 0: (m.Moved, 1)},
    "as it is called": {1: (m.Gradient, 2), 0: (m.Prepare, 1)},
    "as it is to compute": {1: (m.Gradient, 2), 0: (m.Moved, 2)},
    "when others know that": {1: (m.Gradient, 2), 0: (m.Void, 2)},
}


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("ends", CALLS.values(), ids=CALLS)
def test_who_leads_by_then_calls_a_spare(
    tmp_path: Path, ends: dict[int, tuple[type[Any], int]], servers: int
) -> None:
    def prepare(run: Training) -> None:
        unhurried(run)
        for rank, (kind, number) in ends.items():
            die_with(run, servers if rank else 0, kind, number)

    common = {"workers": 2, "servers": servers, "eval_every": 4, "max_steps": 16}
    settings = common | {"workers": 4, "spares": 2}  # one of them may stand by before
    run = train(tmp_path / "run", prepare=prepare, standby=True, **settings)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    called = run.metrics("move")[-1]["to"]
    assert called in run.job.spares
    assert isinstance(run.worker(called - servers), Worker)


def test_who_is_lost_with_the_leader_is_told_of_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(run: Training) -> None:
        die_with(run, 1, m.Gradient, 3)
        leader = run.leader
        leader.membership.lost = lambda *_: run.ranks[0].endpoint.die()  # type: ignore[method-assign]

    common = {"workers": 2, "eval_every": 2}
    run = train(tmp_path / "run", prepare=prepare, standby=True, **common)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    (failure,) = run.metrics("failure")
    assert (failure["rank"], run.summary["failures"]) == (1, 2)
    with pytest.raises(PeerLost):
        train(tmp_path / "few", prepare=prepare, standby=True, max_failures=1, **common)
    assert "2 ranks have failed, --max-failures 1 allows no more" in capsys.readouterr().err


def test_the_second_loss_of_a_shard_ends_the_job_with_its_last_checkpoint(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        die_with(run, 0, m.Answer, 16)
        die_with(run, 3, m.Answer, 20)
        before_gradient(run.worker(0), lambda _count: time.sleep(0.02))  # for the disk to follow

    common = {"workers": 2, "max_steps": 30, "checkpoint_every": 1}
    with pytest.raises(PeerLost, match="rank 3 is gone"):
        train(tmp_path, prepare=prepare, standby=True, **common)
    assert read_manifest(find_checkpoint(tmp_path)).state["version"] > 0


def fail_at(run: Training, rank: int, version: int, error: BaseException) -> None:
    """Let a rank that holds a shard raise an error with its update to a version."""
    shard = run.role(rank).serving.shard
    update = shard.update

    def updating(*arguments: Any) -> Any:
        if shard.updates == version - 1:
            raise error
        return update(*arguments)

    shard.update = updating  # type: ignore[method-assign]


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), MemoryError(), SystemExit(3)])
@pytest.mark.parametrize("rank", [0, 1, 4, 5])
def test_an_error_costs_the_rank_that_it_comes_to(
    tmp_path: Path, rank: int, error: BaseException
) -> None:
    common = {"workers": 2, "servers": 2, "eval_every": 2}
    run = train(
        tmp_path / "run", prepare=lambda run: fail_at(run, rank, 3, error), standby=True, **common
    )
    check(run)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert run.last_job.term.lost == {rank}


def test_an_error_that_comes_to_both_ends_the_run_saved(tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        for rank in 0, 3:
            fail_at(run, rank, 4, RuntimeError("a mistake"))

    with pytest.raises(RuntimeError, match="a mistake") as ended:
        train(tmp_path, prepare=prepare, workers=2, standby=True)
    kept = find_checkpoint(tmp_path)
    assert ended.value.__notes__ == [f"the weights so far are in {kept}"]
    assert read_manifest(kept).state["version"] == 3


@pytest.mark.parametrize("rank", [0, 3])
def test_an_error_that_is_meant_ends_the_run_at_once(tmp_path: Path, rank: int) -> None:
    error = CheckpointError("the disk is full")
    with pytest.raises((CheckpointError, RankFailed)):
        train(tmp_path, prepare=lambda run: fail_at(run, rank, 4, error), workers=2, standby=True)


@pytest.mark.parametrize("rank", [1, 4, 5])
def test_a_signal_to_one_alone_is_a_notice_and_the_others_go_on(
    tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.servers.leaving.NOTICE_S", 0.0)
    job: list[Training] = []

    def signalled(asked: int) -> str | None:
        return "SIGTERM" if asked == rank and job[0].progress.version >= 3 else None

    common = {"workers": 2, "servers": 2, "eval_every": 2}
    asked = {"prepare": job.append, "signalled": signalled, "standby": True}
    run = train(tmp_path / "run", **asked, **common)
    check(run)
    assert told(run) == told(train(tmp_path / "undisturbed", **common))
    assert run.last_job.term.lost == {rank}
    assert run.summary["stopped_by"] == "budget"


def test_a_signal_to_all_that_hold_a_shard_ends_the_run_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.servers.leaving.NOTICE_S", 0.1)
    job: list[Training] = []

    def signalled(asked: int) -> str | None:
        return "SIGTERM" if asked in (1, 5) and job[0].progress.version >= 3 else None

    common = {"workers": 2, "servers": 2, "standby": True, "max_steps": 10000}
    with pytest.raises(Ended, match=r"stopped by a signal to rank [15]\nthe weights so far are in"):
        train(tmp_path, prepare=job.append, signalled=signalled, **common)
    assert job[0].summary["stopped_by"] == "signal"


def test_the_last_update_is_noted_before_the_clock_stops_however_slow_who_stands_by_is(
    tmp_path: Path,
) -> None:
    def prepare(run: Training) -> None:
        shard = run.role(3).serving.shard
        update = shard.update

        def slowly(*arguments: Any) -> None:
            time.sleep(0.1)
            update(*arguments)

        shard.update = slowly  # type: ignore[method-assign]

    with Turns(1):
        run = train(
            tmp_path / "run", prepare=prepare, workers=2, standby=True, log_every=4, eval_every=6
        )
    check(run)
    assert [record["version"] for record in run.metrics("train")] == [1, 4, 6]


def test_early_stopping_is_not_forgotten(tmp_path: Path) -> None:
    common = {"workers": 2, "max_steps": 40, "eval_every": 1, "early_stop_patience": 2, "lr": 0.5}
    undisturbed = train(tmp_path / "undisturbed", **common)
    assert undisturbed.summary["stopped_by"] == "early_stop"
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, m.DropSnapshot, 1),
        standby=True,
        **common,
    )
    assert run.summary["stopped_by"] == "early_stop"
    assert told(run) == told(undisturbed)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("lost", ["who leads", "who stands by"])
def test_the_best_is_saved_again_if_its_checkpoint_was_under_way(
    tmp_path: Path, servers: int, lost: str
) -> None:
    """All keep its weights until it is known as the best on the disk."""

    def prepare(run: Training) -> None:
        giving = run.leader.serving.giving
        giving.before_writing = lambda snapshot: None  # nothing is ever complete in this term
        if lost == "who leads":
            die_with(run, 0, m.Answer, 14)
        else:
            die_with(run, servers + 2, m.Follows, 14)

    # It gets worse from the first evaluation on.
    common = {"workers": 2, "servers": servers, "eval_every": 1, "max_steps": 8, "lr": 0.5}
    run = train(tmp_path, prepare=prepare, standby=True, **common)
    losses = {record["version"]: record["val_loss"] for record in run.metrics("eval")}
    (lost_at,) = [of["version"] for kind in ("takeover", "standby") for of in run.metrics(kind)]
    assert min(losses, key=lambda version: losses[version]) < lost_at
    check(run)


def test_a_run_that_was_taken_over_can_be_resumed(tmp_path: Path) -> None:
    common = {"workers": 2, "lr_schedule": "constant", "checkpoint_every": 2}
    train(
        tmp_path / "run",
        prepare=lambda run: die_at_message(run, 0, 25),
        standby=True,
        **common,
    )
    out = str(tmp_path / "run")
    rest = train(tmp_path / "run", workers=2, resume=tmp_path / "run", max_steps=9, out=out)
    other = train(tmp_path / "other", **common | {"max_steps": 9})
    assert rest.weights_sha256 == other.weights_sha256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "allreduce"}, "--standby True has a meaning with --mode"),
        ({"server_device": "gpu"}, "--standby does not go with --server-device gpu"),
    ],
)
def test_what_it_cannot_go_with_is_refused(
    tmp_path: Path, settings: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tmp_path, standby=True, **settings)


def test_too_few_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 of the job's 4 ranks hold a shard; start at least 5"):
        train(tmp_path, workers=0, servers=2, standby=True)
