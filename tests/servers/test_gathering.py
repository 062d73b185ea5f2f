"""A checkpoint waits for what workers have for themselves, but for nobody who will not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from psdp.checkpoint import CheckpointId
from psdp.protocol import Hosting
from psdp.servers.gathering import GONE, LATE, WORKERS_S, Gathering
from psdp.transport import messages as m

AT = CheckpointId(step=4, version=8)
SHA256 = "0" * 64


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Case:
    """Workers 1 to 3 on the ranks 1 and 2."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.sent: list[tuple[int, m.Message]] = []
        self.clock = Clock()
        endpoint: Any = SimpleNamespace(
            send=lambda rank, message: self.sent.append((rank, message))
        )
        job: Any = SimpleNamespace(keeps_inner=keeps)
        self.hosting = Hosting((1, 2, 3), (1, 2))
        self.gathering = Gathering(job, endpoint, self.hosting, self.clock)

    def ask(self) -> None:
        self.gathering.ask(AT, {1: 4, 2: 4, 3: 6})


@pytest.fixture
def case() -> Case:
    return Case()


def saved(worker: int, version: int = AT.version) -> m.WorkerSaved:
    return m.WorkerSaved(worker, version, file_bytes=10, sha256=SHA256)


def entry(worker: int) -> dict[str, Any]:
    return {"name": f"worker-000{worker}.safetensors", "bytes": 10, "sha256": SHA256}


def test_each_rank_is_asked_for_its_workers_as_they_were(case: Case) -> None:
    case.ask()
    assert case.sent == [
        (1, m.SaveWorker(1, 4, 4, 8)),
        (1, m.SaveWorker(2, 4, 4, 8)),
        (2, m.SaveWorker(3, 6, 4, 8)),
    ]
    case.ask()
    assert len(case.sent) == 3, "once"


def test_it_is_complete_when_all_have_answered(case: Case) -> None:
    case.ask()
    case.gathering.answered(1, saved(1))
    case.gathering.answered(1, m.WorkerUnsaved(2, 8, "the disk is full"))
    assert not case.gathering.complete(8)
    case.gathering.answered(2, saved(3))
    assert case.gathering.complete(8)
    assert case.gathering.take(8) == ({1: entry(1), 3: entry(3)}, {2: "the disk is full"})


def test_what_nobody_asked_for_changes_nothing(case: Case) -> None:
    case.ask()
    case.gathering.answered(2, saved(1))
    case.gathering.answered(1, saved(1, version=9))
    case.gathering.answered(1, saved(1))
    case.gathering.answered(1, m.WorkerUnsaved(1, 8, "changed its mind"))
    case.gathering.gone(1)
    case.gathering.gone(2)
    assert case.gathering.take(8) == ({1: entry(1)}, {2: GONE, 3: GONE})


def test_a_rank_that_is_gone_is_not_asked(case: Case) -> None:
    case.gathering.gone(2)
    case.ask()
    assert [rank for rank, _ in case.sent] == [1, 1]
    case.gathering.answered(1, saved(1))
    case.gathering.answered(1, saved(2))
    assert case.gathering.complete(8)
    assert case.gathering.take(8)[1] == {3: GONE}


def test_its_heir_is_asked_in_its_place(case: Case) -> None:
    case.gathering.gone(2)
    case.hosting.move(3, 1)
    case.ask()
    assert [rank for rank, _ in case.sent] == [1, 1, 1]


def test_who_takes_too_long_is_done_without(case: Case) -> None:
    case.ask()
    case.clock.now_s += WORKERS_S / 2
    case.gathering.give_up(late_only=True)
    assert not case.gathering.complete(8)
    case.clock.now_s += WORKERS_S / 2
    case.gathering.give_up(late_only=True)
    assert case.gathering.take(8) == ({}, {1: LATE, 2: LATE, 3: LATE})


def test_a_run_that_ends_waits_for_nobody_any_more(case: Case) -> None:
    case.ask()
    case.gathering.answered(1, saved(2))
    case.gathering.give_up()
    assert case.gathering.take(8) == ({2: entry(2)}, {1: LATE, 3: LATE})


def test_nobody_is_asked_where_nothing_is_kept() -> None:
    case = Case(keeps=False)
    case.ask()
    assert case.sent == []
    assert case.gathering.complete(8)
    assert case.gathering.take(8) == ({}, {})
