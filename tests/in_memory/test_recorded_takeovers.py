"""Recorded runs whose servers die: the record goes on at who takes over, all of it is proved, and a
job without any that stand by replays it to the same bits."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_turns import Turns
from jobs import Training, before_gradient, train
from losses import WHERE, check, die_at_message, die_with
from test_lost_ranks import MODES, OFTEN, seeds

from psdp.audit.auditing import Audit
from psdp.audit.findings import UNTOLD, Verdict
from psdp.records.events import NewTerm, events_file, read_record, with_hash
from psdp.transport import messages as m

SOME: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "async"},
    {"mode": "local", "local_steps": 2},
]

pytestmark = pytest.mark.timeout(90)


def proved(run: Path, recompute: int = 0) -> Audit:
    """See that nothing of a run is contradicted, and all could be checked."""
    audit = Audit(run)
    audit.check()
    if recompute:
        audit.recompute(recompute, seed=1)
    others = [each for each in audit.findings.all if each.verdict is not Verdict.PROVED]
    assert [str(each) for each in others if each.why != UNTOLD] == []
    return audit


def terms(run: Training) -> list[NewTerm]:
    events = [happened.event for happened in read_record(events_file(run.folder, 0)).happened]
    return [event for event in events if isinstance(event, NewTerm)]


def uneven(run: Training, dice: random.Random) -> None:
    """Let workers take their time."""
    for number in range(len(run.job.computing)):
        before_gradient(run.worker(number), lambda _count: time.sleep(dice.random() * 2e-3))


def victims(dice: random.Random, servers: int, ranks: int) -> list[int]:
    """Return ranks that may die together: of each shard one at most, and not all that work."""
    standbys = servers + ranks
    lost = [dice.choice([0, standbys])]
    if servers == 2:
        other = dice.choice([1, standbys + 1])
        lost = dice.choice([lost, [other], [*lost, other]])
    return [*lost, servers] if ranks > 1 and dice.random() < 0.3 else lost


@pytest.mark.parametrize("seed", seeds(len(MODES)))
def test_the_record_is_gone_on_with_whoever_dies(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    mode = MODES[seed % len(MODES)]
    servers, ranks = dice.choice([1, 2]), dice.randint(1, 3)
    common: dict[str, Any] = {"workers": ranks, "servers": servers, "dropout": 0.1, **OFTEN, **mode}
    common["virtual_workers"] = dice.randint(1, 3)
    ends = {rank: dice.randrange(1, 70) for rank in victims(dice, servers, ranks)}

    def prepare(run: Training) -> None:
        for rank, number in ends.items():
            die_at_message(run, rank, number)
        uneven(run, dice)

    with Turns(seed):
        run = train(tmp_path / "run", prepare=prepare, standby=True, record=True, **common)
    check(run)
    proved(run.folder, recompute=1)
    lost = {rank for term in terms(run) for rank in term.lost}
    told = {of["from"] for kind in ("takeover", "standby") for of in run.metrics(kind)}
    assert lost == told <= {*ends}
    with Turns(seed + 1):
        again = train(
            tmp_path / "again",
            prepare=lambda again: uneven(again, dice),
            replay=str(run.folder),
            record=True,
            **common,
        )
    np.testing.assert_array_equal(again.weights, run.weights)
    assert again.summary["val_loss"] == run.summary["val_loss"]
    proved(again.folder)


@pytest.mark.parametrize("mode", SOME, ids=lambda mode: mode["mode"])
@pytest.mark.parametrize(
    ("kind", "number"), [*WHERE.values(), *((m.Noted, number) for number in (1, 2, 3, 8, 11, 17))]
)
def test_rank_0_may_die_anywhere(
    tmp_path: Path, kind: type[Any], number: int, mode: dict[str, Any]
) -> None:
    common = {"workers": 2, "servers": 2, "eval_every": 1, "checkpoint_every": 2, **mode}
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, kind, number),
        standby=True,
        record=True,
        **common,
    )
    check(run)
    proved(run.folder)
    again = train(tmp_path / "again", replay=str(run.folder), **common)
    np.testing.assert_array_equal(again.weights, run.weights)


def test_a_replay_goes_by_the_terms_of_its_record_and_may_be_replayed_itself(
    tmp_path: Path,
) -> None:
    common = {"workers": 2, "mode": "async", "eval_every": 2, "max_steps": 8}
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, m.Answer, 12),
        standby=True,
        record=True,
        **common,
    )
    (term,) = terms(run)
    assert (term.number, term.lost) == (1, (0,))
    again = train(tmp_path / "again", replay=str(run.folder), record=True, **common)
    (same,) = terms(again)
    assert (same.number, same.version, same.lost) == (1, term.version, ())
    third = train(tmp_path / "third", replay=str(again.folder), **common)
    np.testing.assert_array_equal(third.weights, run.weights)


def test_a_term_that_did_not_begin_where_the_run_was_is_contradicted(tmp_path: Path) -> None:
    run = train(
        tmp_path / "run",
        prepare=lambda run: die_with(run, 0, m.Answer, 12),
        standby=True,
        record=True,
        workers=2,
        mode="async",
    )
    path = events_file(run.folder, 0)
    lines = [json.loads(line)[:-1] for line in path.read_text().splitlines()]
    number = next(number for number, line in enumerate(lines) if line[0] == NewTerm.NAME)
    for change in ({2: lines[number][2] + 1}, {3: lines[number][3] + 1}, {4: [1]}):
        forged = [*lines]
        forged[number] = [change.get(n, value) for n, value in enumerate(lines[number])]
        before, text = "", ""
        for line in forged:
            whole, before = with_hash(before, line)
            text += whole + "\n"
        path.write_text(text)
        found = Audit(run.folder).check().all
        assert ("updates", Verdict.CONTRADICTED) in [(each.check, each.verdict) for each in found]


def test_a_job_that_began_with_a_takeover_is_gone_on_with(tmp_path: Path) -> None:
    common = {"workers": 2, "lr_schedule": "constant", "checkpoint_every": 2, "record": True}
    out = tmp_path / "run"
    train(out, prepare=lambda run: die_at_message(run, 0, 25), standby=True, **common)
    rest = train(out, resume=out, max_steps=9, **common)
    proved(out)
    assert rest.summary["version"] == 9
