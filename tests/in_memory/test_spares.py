"""Ranks that wait for the place of one that is lost: small until they are called, then in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Rank, Training, before_gradient, corpus, die_at, train, unhurried
from losses import die_with

from psdp.errors import DataError, RankFailed
from psdp.startup import Waiting
from psdp.startup import spare as spares
from psdp.transport import Endpoint
from psdp.transport import messages as m
from psdp.transport.in_memory import InMemoryEndpoint
from psdp.workers.spare import Spare
from psdp.workers.worker import Worker

SYNC: dict[str, Any] = {"mode": "sync", "dropout": 0.1, "eval_every": 4, "max_steps": 12}


def role_of(rank: Rank) -> Spare:
    assert isinstance(rank.role, Spare)
    return rank.role


def called(run: Training) -> list[bool]:
    """Return which of the spare ranks have been called."""
    return [role_of(run.ranks[rank]).worker is not None for rank in run.job.spares]


def computing(run: Training) -> dict[int, int]:
    """Return which rank computed for each worker that has moved, at the end."""
    return {move["worker"]: move["to"] for move in run.metrics("move")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the weights of a run of two workers that nothing happens to."""
    return train(tmp_path_factory.mktemp("whole") / "run", workers=2, **SYNC).weights_sha256


def test_spares_that_nobody_calls_wait_and_end_with_the_others(
    tmp_path: Path, undisturbed: str
) -> None:
    run = train(tmp_path / "run", workers=4, spares=2, **SYNC)
    assert called(run) == [False, False]
    assert all(isinstance(run.ranks[rank].ready, Waiting) for rank in (3, 4))
    assert run.weights_sha256 == undisturbed


@pytest.mark.parametrize("servers", [1, 2])
def test_they_take_the_places_of_those_that_are_lost(
    tmp_path: Path, undisturbed: str, servers: int
) -> None:
    def dies(run: Training) -> None:
        unhurried(run)
        die_at(run.worker(0), 1)
        die_at(run.worker(1), 4)

    run = train(tmp_path / "run", workers=4, spares=2, servers=servers, prepare=dies, **SYNC)
    assert called(run) == [True, True]
    assert run.weights_sha256 == undisturbed
    first, second = run.metrics("move")[:2]
    assert [(each["worker"], each["to"]) for each in (first, second)] == [
        *((1, servers + 1), (1, servers + 2)),  # the other one has it in the meantime
    ]
    assert {*computing(run).values()} == {servers + 2, servers + 3}


@pytest.mark.parametrize("mode", [{"mode": "async"}, {"mode": "local", "local_steps": 2}])
def test_so_they_do_in_other_modes(tmp_path: Path, mode: dict[str, Any]) -> None:
    def dies(run: Training) -> None:
        unhurried(run)
        die_at(run.worker(1), 3)

    run = train(tmp_path / "run", workers=3, spares=1, prepare=dies, **mode)
    assert called(run) == [True]
    assert sum(run.progress.clocks.values()) == run.job.gradients


def test_a_spare_takes_several_workers(tmp_path: Path, undisturbed: str) -> None:
    run = train(
        tmp_path / "run",
        workers=2,
        spares=1,
        virtual_workers=2,
        prepare=lambda run: die_at(run.worker(0), 3),
        **SYNC,
    )
    assert [(move["worker"], move["to"]) for move in run.metrics("move")] == [(1, 2), (2, 2)]
    assert run.weights_sha256 == undisturbed


def test_the_next_one_is_called_where_a_spare_dies_as_it_makes_what_it_needs(
    tmp_path: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_part = spares.take_part

    def fails(waiting: Waiting, endpoint: Endpoint, *others: Any) -> Worker:
        if waiting.rank == 3:
            assert isinstance(endpoint, InMemoryEndpoint)
            endpoint.die()
        return take_part(waiting, endpoint, *others)

    def dies(run: Training) -> None:
        unhurried(run)
        die_at(run.worker(1), 2)

    monkeypatch.setattr(spares, "take_part", fails)
    run = train(tmp_path / "run", workers=4, spares=2, prepare=dies, **SYNC)
    assert [move["to"] for move in run.metrics("move")] == [1, 4]
    assert called(run) == [False, True]
    assert run.weights_sha256 == undisturbed


def test_spares_that_die_without_work_are_not_what_fails_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(waiting: Waiting, endpoint: Endpoint, *others: Any) -> Worker:
        assert isinstance(endpoint, InMemoryEndpoint)
        endpoint.die()

    def dies(run: Training) -> None:
        unhurried(run)
        die_at(run.worker(1), 2)
        die_with(run, 0, m.Answer, 30)
        die_with(run, 3, m.Gradient, 14)

    monkeypatch.setattr(spares, "take_part", fails)
    monkeypatch.setattr(spares, "join", fails)
    run = train(
        tmp_path / "run", workers=5, spares=2, standby=True, prepare=dies, max_failures=3, **SYNC
    )
    failures = [(each["rank"], each["spare"]) for each in run.metrics("failure")]
    assert failures == [(2, False), (4, True), (5, True), (3, False)]
    counts = [run.summary[name] for name in ("failures", "spares_failed", "takeovers")]
    assert counts == [5, 2, 1]


def test_one_that_finds_another_corpus_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where ranks are killed one by one it would be lost; here one that fails ends all."""

    def changes(run: Training) -> None:
        other = tmp_path / "other.npy"
        np.save(other, np.concatenate(corpus())[::-1])
        other.replace(tmp_path / "corpus.npy")  # the others have the first one open
        unhurried(run)
        die_at(run.worker(0), 2)

    with pytest.raises(RankFailed, match="rank 3 failed") as failed:
        train(tmp_path / "run", workers=3, spares=1, prepare=changes, mode="async")
    assert failed.value.exit_code == DataError.exit_code
    assert "rank 3 read a corpus with sha256" in capsys.readouterr().err


def test_a_spare_that_alone_is_asked_to_end_leaves(tmp_path: Path, undisturbed: str) -> None:
    def waits(run: Training) -> None:
        def until_the_spare_has_left(count: int) -> None:
            deadline_s = time.monotonic() + 10
            while count == 1 and run.leader.membership.has(3) and time.monotonic() < deadline_s:
                time.sleep(0.01)

        before_gradient(run.worker(0), until_the_spare_has_left)

    job: list[Training] = []
    run = train(
        tmp_path / "run",
        workers=3,
        spares=1,
        prepare=lambda run: (job.append(run), waits(run))[0],
        signalled=lambda rank: "SIGTERM" if rank == 3 and job else None,
        **SYNC,
    )
    assert not run.leader.membership.has(3)
    assert run.summary["stopped_by"] == "budget"
    assert run.weights_sha256 == undisturbed


@pytest.mark.parametrize("transport", ["auto", "messages"])
def test_a_run_with_spares_replays_and_goes_on(tmp_path: Path, transport: str) -> None:
    def dies(run: Training) -> None:
        unhurried(run)
        die_at(run.worker(1), 2)

    run = train(
        tmp_path / "run",
        workers=4,
        spares=1,
        prepare=dies,
        record=True,
        transport=transport,
        mode="async",
        checkpoint_every=3,
    )
    assert computing(run)[2] == 4
    again = train(tmp_path / "again", workers=4, replay=str(run.folder))
    assert again.weights_sha256 == run.weights_sha256
    rest = train(tmp_path / "rest", workers=5, resume=run.checkpoints()[3])
    assert [*rest.job.spares] == [4, 5]
    assert sum(rest.progress.clocks.values()) == run.job.gradients
