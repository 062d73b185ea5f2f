"""Recorded runs of every mode end with the same bits in a replay, whatever the timing."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, die, die_at, train

from psdp.audit.auditing import Audit
from psdp.errors import ReplayError
from psdp.servers.ending import Ended

pytestmark = pytest.mark.timeout(90)

MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "sync", "backup_workers": 1},
    {"mode": "async"},
    {"mode": "ssp", "staleness": 1},
    {"mode": "async", "lag_compensation": "dc-asgd"},
    {"mode": "async", "lag_compensation": "inverse"},
    {"mode": "local", "local_steps": 3},
    {"mode": "local", "local_steps": 5, "merge": "async", "outer_optimizer": "nesterov"},
    {"mode": "easgd", "local_steps": 2},
    {"mode": "async", "balance": "dynamic"},
    {"mode": "ssp", "staleness": 1, "overlap": True},
]
COMMON: dict[str, Any] = {"workers": 3, "max_steps": 15, "lr": 1e-2, "dropout": 0.1}


def mode_name(mode: dict[str, Any]) -> str:
    return "-".join(str(value) for value in mode.values())


def at_random(seed: int, slow: int) -> Any:
    """Let workers take their time, one of them more than the others."""

    def prepare(run: Training) -> None:
        for number in range(run.workers):
            rng = random.Random(seed * 100 + number)
            most_s = 4e-3 if number == slow else 1e-3

            def action(_count: int, rng: random.Random = rng, most_s: float = most_s) -> None:
                time.sleep(rng.random() * most_s)

            before_gradient(run.worker(number), action)

    return prepare


def same(a: Training, b: Training) -> None:
    np.testing.assert_array_equal(a.weights, b.weights)
    assert a.summary["version_lag"] == b.summary["version_lag"]
    assert a.summary["dropped"] == b.summary["dropped"]
    assert a.summary["val_loss"] == b.summary["val_loss"]


def events(folder: Path) -> list[list[Any]]:
    """Return the events of a start without their hashes; of pushes without when they came and what
    they cost."""
    lines = (folder / "events-000000.jsonl").read_text().splitlines()
    return [json.loads(line)[:-1][:8] for line in lines[1:]]


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_replay_ends_with_the_bits_of_its_record(
    tmp_path: Path, mode: dict[str, Any], servers: int
) -> None:
    settings = COMMON | {"servers": servers, "eval_every": 5} | mode
    run = train(tmp_path / "run", prepare=at_random(1, slow=0), record=True, **settings)
    again = train(
        tmp_path / "again",
        prepare=at_random(2, slow=2),
        record=True,
        replay=str(run.folder),
        **settings,
    )
    same(again, run)
    assert events(again.folder) == events(run.folder)


def test_without_its_record_the_same_run_ends_elsewhere(tmp_path: Path) -> None:
    """Or the tests above would show nothing."""
    settings = COMMON | {"mode": "async"}
    runs = [
        train(tmp_path / str(seed), prepare=at_random(seed, slow=seed), **settings)
        for seed in (0, 1, 2)
    ]
    assert len({run.weights_sha256 for run in runs}) > 1


def do_without(run: Training) -> None:
    """Let a run do without the workers of a rank that is lost, as those of before 0.2 did."""
    membership = run.leader.membership
    membership.lost = lambda rank, why: membership.done(rank)  # type: ignore[method-assign]


@pytest.mark.parametrize("lost", ["move", "leave"])
@pytest.mark.parametrize("mode", [MODES[2], MODES[3], MODES[7]], ids=mode_name)
def test_the_loss_of_a_rank_is_replayed_too(
    tmp_path: Path, mode: dict[str, Any], lost: str
) -> None:
    settings = COMMON | mode | {"eval_every": 5}

    def dies(run: Training) -> None:
        if lost == "leave":
            do_without(run)
        die_at(run.worker(1), 7)

    run = train(tmp_path / "run", prepare=dies, record=True, **settings)
    assert [lost, 2] in [event[:2] for event in events(run.folder)]
    again = train(
        tmp_path / "again", prepare=at_random(4, slow=0), replay=str(run.folder), **settings
    )
    np.testing.assert_array_equal(again.weights, run.weights)


@pytest.mark.parametrize("lost", ["move", "leave"])
@pytest.mark.parametrize("mode", [MODES[2], MODES[3], MODES[7]], ids=mode_name)
def test_a_rank_that_was_lost_while_it_evaluated(
    tmp_path: Path, mode: dict[str, Any], lost: str
) -> None:
    """Others did its part then, and do so again, though its twin reports that part too."""
    settings = COMMON | mode | {"eval_every": 3}

    def dies(run: Training) -> None:
        if lost == "leave":
            do_without(run)

        def evaluate(*_args: Any) -> Any:
            die(run.worker(1))

        run.worker(1).replica.model.evaluate = evaluate  # type: ignore[method-assign]

    run = train(tmp_path / "run", prepare=dies, record=True, **settings)
    assert [lost, 2] in [event[:2] for event in events(run.folder)]
    again = train(
        tmp_path / "again", prepare=at_random(5, slow=2), replay=str(run.folder), **settings
    )
    np.testing.assert_array_equal(again.weights, run.weights)
    assert again.summary["val_loss"] == run.summary["val_loss"]


@pytest.mark.parametrize("lost", ["move", "leave"])
@pytest.mark.parametrize("then", ["goes home", "dies"])
def test_the_twin_of_a_lost_rank_is_not_waited_for(tmp_path: Path, then: str, lost: str) -> None:
    """What it was to evaluate is gone when it asks; and it may be gone itself."""
    settings = COMMON | MODES[2] | {"eval_every": 3}

    def dies(run: Training) -> None:
        if lost == "leave":
            do_without(run)

        def evaluate(*_args: Any) -> Any:
            die(run.worker(1))

        run.worker(1).replica.model.evaluate = evaluate  # type: ignore[method-assign]

    def late(run: Training) -> None:
        worker, leader = run.worker(1), run.leader
        pull_snapshot = worker.exchange.pull_snapshot

        def asking(version: int) -> None:
            while not leader.deciding.policy.drained or leader.serving.giving.snapshots.get(
                version
            ):
                time.sleep(0.001)
            if then == "dies":
                die(worker)
            pull_snapshot(version)

        worker.exchange.pull_snapshot = asking  # type: ignore[method-assign]

    run = train(tmp_path / "run", prepare=dies, record=True, **settings)
    again = train(tmp_path / "again", prepare=late, replay=str(run.folder), **settings)
    np.testing.assert_array_equal(again.weights, run.weights)
    assert again.summary["val_loss"] == run.summary["val_loss"]


def test_an_early_stop_is_replayed_where_it_was(tmp_path: Path) -> None:
    settings = COMMON | {"mode": "async", "max_steps": 200, "lr": 0.0, "eval_every": 1}
    settings |= {"early_stop_patience": 2}
    run = train(tmp_path / "run", prepare=at_random(1, slow=0), record=True, **settings)
    again = train(
        tmp_path / "again", prepare=at_random(2, slow=2), replay=str(run.folder), **settings
    )
    assert again.summary["stopped_by"] == run.summary["stopped_by"] == "early_stop"
    assert again.summary["version"] == run.summary["version"]


def test_a_run_that_was_stopped_is_replayed_as_far_as_it_came(tmp_path: Path) -> None:
    settings = COMMON | {"mode": "async", "max_steps": 100}
    told: list[bool] = []

    def watch(run: Training) -> None:
        before_gradient(run.worker(0), lambda count: told.append(True) if count == 9 else None)

    with pytest.raises(Ended):
        train(
            tmp_path / "run",
            prepare=watch,
            signalled=lambda rank: "SIGTERM" if told and rank == 0 else None,
            record=True,
            **settings,
        )
    again = Training(
        tmp_path / "again",
        settings.pop("workers"),
        None,
        settings | {"replay": str(tmp_path / "run")},
    )
    with pytest.raises(Ended, match="ends before its run did\nthe weights so far are in") as ended:
        again.run()
    assert ended.value.status == ReplayError.exit_code, "no signal ended it"
    pushes = sum(event[0] == "push" for event in events(tmp_path / "run"))
    assert again.progress.version == pushes


def test_a_divergence_is_told_at_its_first_gradient(tmp_path: Path) -> None:
    settings = COMMON | {"mode": "ssp", "staleness": 2}
    run = train(tmp_path / "run", record=True, **settings)
    lines = (run.folder / "events-000000.jsonl").read_text().splitlines()
    pushes = [number for number, line in enumerate(lines, start=1) if "push" in line]
    other = pushes[12]

    def spoil(run: Training) -> None:
        rank, clock = json.loads(lines[other - 1])[1:3]
        worker = run.worker(rank - 1)

        def action(count: int) -> None:
            if count == clock:
                worker.replica.weights[3] += 1e-9

        before_gradient(worker, action)

    with pytest.raises(ReplayError, match=rf"diverges at line {other} of .*expected gradient"):
        train(tmp_path / "again", prepare=spoil, replay=str(run.folder), **settings)


def test_a_record_without_hashes_whose_steps_were_changed_is_told_by_them(tmp_path: Path) -> None:
    settings = COMMON | {"mode": "local", "local_steps": 3}
    run = train(tmp_path / "run", record=True, **settings)
    record = run.folder / "events-000000.jsonl"
    lines = [json.loads(line)[:-1] for line in record.read_text().splitlines()[1:]]
    push = next(line for line in lines if line[0] == "push")
    push[4] += 1
    record.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    summary = run.folder / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"events": None}))
    told = (
        r"expected what 4 steps from gradient 0 on made .*, but it was what 3 steps from gradient 0"
    )
    with pytest.raises(ReplayError, match=told):
        train(tmp_path / "again", replay=str(run.folder), **settings)


def test_a_resumed_start_has_a_record_of_its_own(tmp_path: Path) -> None:
    settings = COMMON | {"mode": "async", "checkpoint_every": 5}
    train(tmp_path / "run", record=True, **settings)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000005-v000015"
    rest = train(tmp_path / "rest", resume=checkpoint, record=True, **settings)
    assert [path.name for path in rest.folder.glob("events-*")] == ["events-000015.jsonl"]
    again = train(
        tmp_path / "again", resume=checkpoint, replay=str(rest.folder),
        prepare=at_random(5, slow=1), **settings,
    )  # fmt: skip
    np.testing.assert_array_equal(again.weights, rest.weights)


def test_each_start_is_replayed_with_the_settings_that_it_had(tmp_path: Path) -> None:
    """A resumed run may have another learning rate, and other numbers of ranks and servers."""
    first = COMMON | {"mode": "async", "max_steps": 5, "record": True}
    run = train(tmp_path / "run", **first)
    kept = run.weights.copy()
    changed = {"lr": 1e-3, "max_steps": 10}
    ranks = {"workers": 2, "servers": 2}
    more = train(tmp_path / "run", resume=tmp_path / "run", **(first | changed | ranks))
    (resumed,) = more.metrics("resume")
    assert resumed["changed"] == {
        "lr": [COMMON["lr"], 1e-3],
        "max_steps": [5, 10],
        "servers": [1, 2],
    }
    assert not Audit(tmp_path / "run").check().contradicted
    own = {"replay": str(run.folder), "record": False}
    again = train(tmp_path / "first", **(first | own))
    np.testing.assert_array_equal(again.weights, kept)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000005-v000015"
    again = train(tmp_path / "second", resume=checkpoint, **(first | changed | ranks | own))
    np.testing.assert_array_equal(again.weights, more.weights)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "takes the folder of a run that was made with --record"), ("x\n[]\n", "line 1 is no")],
)
def test_a_record_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    run = train(tmp_path / "run", **COMMON)
    if text is not None:
        (run.folder / "events-000000.jsonl").write_text(text)
    with pytest.raises(ReplayError, match=message):
        train(tmp_path / "again", replay=str(run.folder), **COMMON)
    assert not (tmp_path / "again").exists(), "a start that fails leaves no folder"


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_norms_of_the_version_that_summed_them_otherwise_are_taken_but_for_their_last_bits(
    tmp_path: Path, version: str
) -> None:
    settings = COMMON | {"mode": "async", "grad_clip": 0.0}
    run = train(tmp_path / "run", record=True, **settings)
    file = run.folder / "events-000000.jsonl"
    # As it recorded: no line says what is recorded, and none has a hash.
    lines = [json.loads(line)[:-1] for line in file.read_text().splitlines()[1:]]
    told = json.loads((run.folder / "summary.json").read_text())
    (run.folder / "summary.json").write_text(json.dumps(told | {"events": None}))
    for line in lines:
        if line[0] == "push":
            line[7] *= 1 + 1e-7
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = run.folder / "config.json"
    record = json.loads(config.read_text())
    record["versions"]["psdp"] = version
    config.write_text(json.dumps(record))
    if version == "0.1.0":
        same(run, train(tmp_path / "again", replay=str(run.folder), **settings))
    else:
        with pytest.raises(ReplayError, match="diverges at line"):
            train(tmp_path / "again", replay=str(run.folder), **settings)


def test_what_a_replay_held_back_counts_before_anybody_is_let_go(tmp_path: Path) -> None:
    """Or a worker whose report of an evaluation was held would be told to evaluate again what the
    server has forgotten by then."""
    still = {"lr": 0.0, "min_lr": 0.0}  # no evaluation is better than the first: none is kept
    common = {**COMMON, "backup_workers": 1, "eval_every": 10, **still}

    def evaluates_until_the_end(run: Training) -> None:
        model = run.worker(1).replica.model
        evaluate = model.evaluate

        def late(batch: Any) -> Any:
            deadline = time.monotonic() + 20
            while 10 <= run.progress.version < 15 and time.monotonic() < deadline:
                time.sleep(1e-3)
            return evaluate(batch)

        model.evaluate = late  # type: ignore[method-assign]

    def others_are_slow(run: Training) -> None:
        for number in (0, 2):
            before_gradient(run.worker(number), lambda _count: time.sleep(0.02))

    first = train(tmp_path / "first", record=True, prepare=evaluates_until_the_end, **common)
    again = train(
        tmp_path / "again", replay=str(tmp_path / "first"), prepare=others_are_slow, **common
    )
    same(again, first)
