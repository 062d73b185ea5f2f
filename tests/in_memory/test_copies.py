"""Whole jobs whose checkpoints are copied elsewhere, and go on from there."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train
from losses import check, die_with
from stores import Store, fake_store, refused

from psdp.checkpoint import find_checkpoint, read_best
from psdp.errors import CheckpointError, ConfigError
from psdp.servers import copying
from psdp.servers.ending import Ended
from psdp.transport import messages

pytestmark = pytest.mark.timeout(60)

URL = "fake://bucket/run"
SETTINGS: dict[str, Any] = {"workers": 2, "servers": 2, "max_steps": 8, "dropout": 0.2}
SAVED = SETTINGS | {"checkpoint_every": 2, "eval_every": 2, "keep_checkpoints": 2}
COPIED = SAVED | {"checkpoint_to": URL}


@pytest.fixture
def store() -> Iterator[type[Store]]:
    with fake_store() as store:
        yield store


def stop_at(version: int) -> dict[str, Any]:
    """Return arguments by which a run is ended at a version, for a while."""
    job: list[Training] = []

    def signalled(rank: int) -> str | None:
        return "SIGUSR1" if rank == 0 and job[0].progress.version >= version else None

    return {"prepare": job.append, "signalled": signalled}


MODES: list[dict[str, Any]] = [{"mode": "sync"}, {"mode": "async", "workers": 1}]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_run_goes_on_from_a_url_alone_with_the_bits_of_one_that_was_never_ended(
    store: type[Store], tmp_path: Path, mode: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "whole", **SAVED | mode)
    with pytest.raises(Ended) as ended:
        train(tmp_path / "here", record=True, **COPIED | mode, **stop_at(5))
    (note,) = ended.value.__notes__
    kept = find_checkpoint(tmp_path / "here")
    assert note == f"the weights so far are in {kept} and {URL}"
    capsys.readouterr()
    rest = train(tmp_path / "there", resume=URL, **COPIED | mode)
    assert rest.weights_sha256 == whole.weights_sha256
    said = f"psdp: fetching the newest checkpoint at {URL} into {tmp_path / 'there'}\n"
    assert capsys.readouterr().err == said
    lines = (tmp_path / "there" / "metrics.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("resume") == 1
    assert (tmp_path / "there" / "events-000000.jsonl").read_bytes() == (
        tmp_path / "here" / "events-000000.jsonl"
    ).read_bytes()
    best = read_best(tmp_path / "there" / "checkpoints")
    assert best == read_best(tmp_path / "whole" / "checkpoints")
    there = train(tmp_path / "again", resume=URL, **SETTINGS | mode)
    np.testing.assert_array_equal(there.weights, whole.weights)


def test_copies_are_counted_and_recorded(store: type[Store], tmp_path: Path) -> None:
    run = train(tmp_path / "run", **COPIED)
    copies = run.metrics("copy")
    assert run.summary["copies"] == len(copies) >= 1
    assert run.summary["copies_failed"] == 0
    latest = find_checkpoint(tmp_path / "run").name
    assert latest in {copy["checkpoint"] for copy in copies}
    assert all(copy["bytes"] > 0 <= copy["copy_s"] for copy in copies)
    assert f"bucket/run/checkpoints/{latest}/checkpoint.json" in store.objects
    assert train(tmp_path / "plain", **SETTINGS).summary["copies"] == 0


def test_who_takes_over_goes_on_copying(store: type[Store], tmp_path: Path) -> None:
    """What was under way is copied again, and what is there is found by its hash."""
    holds = threading.Event()

    def prepare(run: Training) -> None:
        def hold(operation: str, path: str) -> None:
            if operation == "write" and "shard" in path and not run.network.is_dead(0):
                holds.wait(10)
                raise refused(path)

        store.breaks = staticmethod(hold)
        die_with(run, 0, messages.Answer, 9)

    run = train(tmp_path / "run", prepare=prepare, standby=True, **COPIED)
    holds.set()
    check(run)
    latest, best = find_checkpoint(run.folder), read_best(run.folder / "checkpoints")
    assert best is not None
    for name in latest.name, best.name:
        manifest = (run.folder / "checkpoints" / name / "checkpoint.json").read_bytes()
        assert store.objects[f"bucket/run/checkpoints/{name}/checkpoint.json"] == manifest
    assert run.summary["copies"] == len(run.metrics("copy")) >= 1
    rest = train(tmp_path / "there", resume=URL, **SETTINGS | {"max_steps": 9})
    other = train(tmp_path / "run", resume=run.folder, **SETTINGS | {"max_steps": 9})
    assert rest.weights_sha256 == other.weights_sha256


def test_who_takes_over_at_the_end_copies_the_summary(store: type[Store], tmp_path: Path) -> None:
    def prepare(run: Training) -> None:
        die_with(run, 0, messages.Finish, 2)
        slow = lambda *_: time.sleep(0.1 * run.network.is_dead(0))  # noqa: E731
        store.breaks = staticmethod(slow)

    run = train(tmp_path / "run", prepare=prepare, standby=True, **COPIED)
    assert run.summary["takeovers"] == 1
    assert json.loads(store.objects["bucket/run/summary.json"]) == run.summary


def test_the_summary_is_copied_when_the_run_is_over(store: type[Store], tmp_path: Path) -> None:
    run = train(tmp_path / "run", **COPIED)
    assert json.loads(store.objects["bucket/run/summary.json"]) == run.summary
    with pytest.raises(Ended):
        train(tmp_path / "run", resume=URL, **COPIED | {"max_steps": 12}, **stop_at(10))
    assert json.loads(store.objects["bucket/run/summary.json"])["stopped_by"] == "preempted"


def test_a_store_that_fails_is_told_of_and_the_run_goes_on(
    store: type[Store],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "PAUSES_S", (0.01, 0.01))
    whole = train(tmp_path / "whole", **SAVED)
    tries: list[str] = []

    def refuse(operation: str, path: str) -> None:
        if operation == "write" and "shard" in path:
            tries.append(path)
            raise refused(path)

    monkeypatch.setattr(store, "breaks", staticmethod(refuse))
    run = train(tmp_path / "run", **COPIED)
    assert run.weights_sha256 == whole.weights_sha256
    assert run.summary["copies"] == 0
    failed = run.metrics("copy_failed")
    assert run.summary["copies_failed"] == len(failed) >= 1
    assert len(tries) == 3 * len(failed)
    assert failed[0]["reason"] == f"fake://{tries[2]}: Permission denied"
    said = capsys.readouterr().err.splitlines()
    assert said == [f"psdp: a copy has failed: {record['reason']}" for record in failed]
    monkeypatch.setattr(store, "breaks", staticmethod(lambda _asked, _path: None))
    train(tmp_path / "run", resume=tmp_path / "run", **COPIED)
    latest = find_checkpoint(tmp_path / "run").name
    assert f"bucket/run/checkpoints/{latest}/checkpoint.json" in store.objects


def test_the_end_of_a_run_waits_for_the_last_copy_so_long_and_says_so(
    store: type[Store],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "SAID_S", 0.0)
    monkeypatch.setattr(copying, "LAST_COPY_S", 0.2)
    with hanging(store, monkeypatch):
        run = train(tmp_path / "run", **COPIED | {"quiet": False})
    assert (run.summary["stopped_by"], run.summary["copies_failed"]) == ("budget", 1)
    said = capsys.readouterr()
    assert f"waiting for the last copy to {URL}, at most 0.2 s\n" in said.out
    assert f"the last copy to {URL} was not complete within 0.2 s\n" in said.err


def test_a_signal_is_not_kept_waiting_by_a_copy(
    store: type[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.servers.ending.PREEMPTED_SAVE_S", 1.0)
    with hanging(store, monkeypatch), pytest.raises(Ended) as ended:
        train(tmp_path / "run", **COPIED, **stop_at(5))
    kept = find_checkpoint(tmp_path / "run")
    assert ended.value.__notes__ == [f"the weights so far are in {kept}, not yet in {URL}"]


def test_nothing_sent_for_long_is_told_once(
    store: type[Store],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "LAST_COPY_S", 0.5)
    monkeypatch.setattr(copying, "STALLED_S", 0.1)
    with hanging(store, monkeypatch):
        run = train(tmp_path / "run", **COPIED)
    assert run.summary["copies_failed"] == 2
    stalled = f"a copy has failed: nothing has gone to {URL} for 0.1 s; still trying\n"
    assert capsys.readouterr().err.count(stalled) == 1


@contextlib.contextmanager
def hanging(store: type[Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a store answer nothing about shards meanwhile."""
    released = threading.Event()

    def hang(operation: str, path: str) -> None:
        if operation == "write" and "shard" in path:
            released.wait(30)
            raise refused(path)

    monkeypatch.setattr(store, "breaks", staticmethod(hang))
    try:
        yield
    finally:
        released.set()


def test_where_copies_cannot_go_is_found_at_the_start(store: type[Store], tmp_path: Path) -> None:
    store.breaks = staticmethod(lambda _, path: (_ for _ in ()).throw(refused(path)))
    with pytest.raises(CheckpointError, match=f"{URL}/.psdp-probe-.*: Permission denied"):
        train(tmp_path / "run", **COPIED)
    assert not (tmp_path / "run").exists()


def test_another_runs_copies_are_spared(store: type[Store], tmp_path: Path) -> None:
    train(tmp_path / "one", **COPIED)
    before = dict(store.objects)
    with pytest.raises(ConfigError, match=f"{URL} holds another run; .* by --resume {URL}"):
        train(tmp_path / "two", **COPIED)
    with pytest.raises(ConfigError, match=f"{URL} holds another run"):  # which begins there
        train(tmp_path / "fork", resume=tmp_path / "one", **COPIED)
    assert store.objects == before


def test_a_later_copy_is_not_overwritten_and_a_later_checkpoint_here_neither(
    store: type[Store], tmp_path: Path
) -> None:
    with pytest.raises(Ended):
        train(tmp_path / "first", **COPIED, **stop_at(4))
    train(tmp_path / "second", resume=URL, **COPIED)
    with pytest.raises(ConfigError, match=r"holds a later checkpoint of this run, step-000008-"):
        train(tmp_path / "first", resume=tmp_path / "first", **COPIED)
    train(tmp_path / "first", resume=tmp_path / "first", **SETTINGS | {"max_steps": 10})
    with pytest.raises(ConfigError, match=r"first holds a later checkpoint, step-000010-"):
        train(tmp_path / "first", resume=URL, **SETTINGS)
    train(tmp_path / "other", **SETTINGS)
    with pytest.raises(ConfigError, match="holds another run"):
        train(tmp_path / "other", resume=URL, **SETTINGS)


def test_a_run_is_brought_into_a_folder_that_holds_some_of_it(
    store: type[Store], tmp_path: Path
) -> None:
    with pytest.raises(Ended):
        train(tmp_path / "first", **COPIED, **stop_at(4))
    rest = train(tmp_path / "second", resume=URL, **COPIED)
    same = train(tmp_path / "first", resume=URL, **SETTINGS)
    assert same.weights_sha256 == rest.weights_sha256
    assert "resume" in (tmp_path / "first" / "metrics.jsonl").read_text()


def test_nothing_at_a_url_is_an_error_and_leaves_nothing(
    store: type[Store], tmp_path: Path
) -> None:
    nothing = rf"no checkpoint at {URL}: {URL}/checkpoints: there is nothing; expected what was"
    with pytest.raises(CheckpointError, match=nothing):
        train(tmp_path / "run", resume=URL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["checkpoint_to", "resume"])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://me:secret@bucket/run", r"s3://\*\*\*@bucket/run: passwords and options do not"),
        ("s3://bucket/run?key=secret", r"s3://bucket/run\?\*\*\*: passwords and options do not"),
        ("s3://", "names no place"),
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(
    tmp_path: Path, flag: str, url: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} .*{why}") as error:
        train(tmp_path / "run", **{flag: url})
    assert "secret" not in str(error.value)
