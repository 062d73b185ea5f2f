"""What the report says in plain words, on rows made for each regime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from psdp.modes import MODES
from psdp.report.measures import Stat
from psdp.report.regimes import regimes
from psdp.report.rows import Row
from psdp.report.scenarios import Scenario
from psdp.report.verdict import unserved_line, verdict

PLAIN = {"backup_workers": 0, "overlap": False, "balance": "static", "staleness": None}


def row(label: str, speed: float, took: float | None = None, **changes: Any) -> Row:
    """Return a row of three runs that makes ``speed`` steps/s (± 0.1) and reaches the target after
    ``took`` seconds (± 0.5), if at all."""
    mode = label.split()[0].rstrip(",")
    own = {name: changes.pop(name) for name in tuple(changes) if name in PLAIN}
    values: dict[str, Any] = {
        "label": label,
        "mode": mode,
        "settings": PLAIN | own,
        "names": ("a", "b", "c"),
        "seeds": (1, 2, 3),
        "steps_per_s": Stat(speed, 0.1, 3),
        "tokens_per_s": Stat(100 * speed, 10.0, 3),
        "val_loss": Stat(2.0, 0.01, 3),
        "best_val_loss": Stat(2.0, 0.01, 3),
        "equal_tokens_loss": Stat(2.0, 0.01, 3),
        "reached": 0 if took is None else 3,
        "target_s": None if took is None else Stat(took, 0.5, 3),
        "lags": {0: 10},
        "gaps": {0: 10},
        "max_gap": 0,
        "bytes": Stat(8e6, 0.0, 3),
        "bytes_per_step": Stat(8e4, 0.0, 3),
        "bytes_per_token": Stat(800.0, 0.0, 3),
        "dropped": 0,
        "shares": (share(0.9),) * 4,
        "step_s": (0.1,) * 4,
        "steps_ratio": speed / 10,
        "tokens_ratio": speed / 10,
    }
    return Row(**values | changes)


def share(compute: float, transfer: float = 0.0) -> dict[str, float]:
    waits = 1 - compute - transfer
    return {"compute": compute, "push": transfer, "wait": waits, "pull": 0.0, "other": 0.0}


def scenario(*rows: Row, **changes: Any) -> Scenario:
    values: dict[str, Any] = {
        "workers": 4,
        "stragglers": {},
        "jitter": None,
        "link_mbps": 0.0,
        "differs": "",
        "target": 2.02,
        "target_from": "as asked for",
        "equal_tokens": 5000,
        "rows": rows,
    }
    return Scenario(**values | changes)


def said(*rows: Row, **changes: Any) -> str:
    return "\n".join(verdict(scenario(*rows, **changes)))


# The regime


@pytest.mark.parametrize(
    ("settings", "names", "text"),
    [
        ({}, ["equal workers"], "nothing is slowed on purpose; steps take 100 to 100 ms"),
        (
            {"stragglers": {4: 3.0}},
            ["constant straggler"],
            "worker 4 takes 3 times as long a step, on purpose",
        ),
        (
            {"jitter": "bernoulli:0.1:4"},
            ["random stragglers"],
            "slowed by chance, bernoulli:0.1:4, on purpose",
        ),
        ({"link_mbps": 100.0}, ["slow link"], "(100 Mbit/s, on purpose)"),
        (
            {"jitter": "uniform:4:4"},
            ["equal workers"],
            "All steps of all workers are slowed alike, 4 times (uniform:4:4).",
        ),
        (
            {"stragglers": {2: 4.0}, "jitter": "uniform:4:4", "link_mbps": 10.0},
            ["constant straggler", "slow link"],
            "on purpose; 10 Mbit/s, on purpose). All steps",
        ),
    ],
)
def test_the_regime_is_what_was_set_on_purpose(
    settings: dict[str, Any], names: list[str], text: str
) -> None:
    of = scenario(row("sync", 10.0, 20.0), row("async", 20.0, 10.0), **settings)
    assert regimes(of) == names
    first = verdict(of)[0]
    assert first.startswith(f"Regime: {' and '.join(names)} (")
    assert text in first


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        (
            {"step_s": (0.1, 0.1, 0.1, 0.3)},
            "constant straggler",
            "measured: worker 4 takes 3.00 times as long a step as the fastest",
        ),
        ({"shares": (share(0.6),) * 4}, "random stragglers", "40 % of its time not computing"),
        (
            {"shares": (share(0.6, 0.2),) * 4, "linked": True},
            "slow link",
            "40 % of its time not computing, 20 % pushing and pulling",
        ),
        ({"shares": (share(0.6, 0.2),) * 4}, "random stragglers", "uneven by chance"),
        ({"shares": (share(0.75),) * 4}, "equal workers", "nothing is slowed on purpose"),
        ({"step_s": None, "shares": ()}, "equal workers", "nothing is slowed on purpose"),
    ],
)
def test_where_nothing_was_set_the_regime_is_measured(
    changes: dict[str, Any], name: str, text: str
) -> None:
    rows = row("sync", 10.0, 20.0, **changes), row("async", 20.0, 10.0, step_s=None)
    assert regimes(scenario(*rows)) == [name]
    assert text in verdict(scenario(*rows))[0]


def test_a_straggler_that_was_set_needs_no_measurement() -> None:
    slow = row("sync", 10.0, 20.0, step_s=(0.1, 0.1, 0.1, 0.4))
    assert regimes(scenario(slow, link_mbps=10.0)) == ["slow link"]


# Speed and time to the loss


def test_who_is_fastest_and_soonest_and_by_how_much() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 35.0, 5.0), stragglers={4: 4.0})
    assert "Fastest: async with 35.0 ± 0.1 steps/s. That is 3.50 times sync's 10.0 ± 0.1." in text
    assert (
        "Soonest at the target loss 2.020: async after 5.00 ± 0.50 s; that is 75 % sooner than sync"
        " (20.0 ± 0.5 s)." in text
    )
    assert text.endswith("async wins here: nothing reaches the target loss sooner.")
    assert "Sync wins" not in text


def test_where_sync_wins_the_verdict_says_so() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 9.0, 30.0))
    assert "So no mode makes more steps/s than sync beyond the spread." in text
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner.")


def test_sync_wins_on_time_to_loss_though_async_makes_more_steps() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 30.0, 40.0))
    assert "Fastest: async" in text
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner.")


def test_differences_within_the_spread_are_none() -> None:
    slow = row("easgd H=8", 9.0, 30.0)
    text = said(row("sync", 10.0, 20.0), row("async", 10.15, 19.5), slow)
    assert "Fastest: sync and async, not told apart" in text
    assert "So no mode makes more steps/s than sync beyond the spread." in text
    assert "async after 19.5 ± 0.5 s, not told apart from sync." in text
    assert "Sync wins here: nothing reaches the target loss sooner beyond the spread; async cannot"
    assert "async cannot be told apart from it, and sync is exact." in text


def test_allreduce_is_sync_without_a_server() -> None:
    text = said(row("sync", 10.0, 20.0), row("allreduce", 12.0, 15.0), row("async", 9.0, 30.0))
    assert text.endswith(
        "Allreduce, which is sync without a server, wins here: nothing reaches the target loss "
        "sooner."
    )


def test_rows_that_miss_the_target_are_named_and_cannot_win() -> None:
    late = row("async", 50.0, 5.0, reached=2)
    text = said(row("sync", 10.0, 20.0), late, row("easgd H=8", 20.0))
    missed = "async (2 of 3 runs) and easgd H=8 (0 of 3 runs)"
    assert f"Not reached within its budget: the target loss 2.020, by {missed}." in text
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner.")


def test_if_none_reaches_the_target_throughput_decides() -> None:
    text = said(row("sync", 10.0), row("async", 20.0))
    assert "async wins here: nothing trains on more tokens/s (no row reached" in text


def test_a_step_with_backup_workers_is_smaller() -> None:
    backup = row("sync, 1 backup", 30.0, 10.0, backup_workers=1, tokens_ratio=2.25)
    text = said(row("sync", 10.0, 20.0), backup)
    assert (
        "A step of sync, 1 backup is 3 gradients of 4: in tokens/s it is 2.25 times sync." in text
    )
    assert text.endswith("sync, 1 backup wins here: nothing reaches the target loss sooner.")


def test_sync_that_is_not_plain_wins_under_its_own_name() -> None:
    text = said(row("sync", 10.0, 20.0), row("sync, overlap", 12.0, 15.0, overlap=True))
    assert text.endswith("sync, overlap wins here: nothing reaches the target loss sooner.")


def test_single_runs_are_said_to_have_no_spread() -> None:
    def alone(label: str, speed: float) -> Row:
        return row(label, speed, None, names=("a",), seeds=(1,), steps_per_s=Stat(speed, None, 1))

    text = said(alone("sync", 10.0), alone("async", 10.1))
    assert "Rows of a single run have no spread" in text
    assert "Fastest: sync and async, not told apart" in text, "one per cent is chance"
    assert "no spread" not in said(row("sync", 10.0), row("async", 10.1))


def test_without_sync_nothing_is_said_of_it() -> None:
    text = said(row("async", 10.0, 20.0), row("easgd H=8", 12.0, 10.0))
    assert "There is no sync run here" in text
    assert "times sync" not in text
    assert text.endswith("easgd H=8 wins here: nothing reaches the target loss sooner.")


def test_one_row_has_nothing_to_win_against() -> None:
    text = said(row("async", 10.0, 20.0))
    assert text.endswith("Only async was run here: nothing to compare.")


def test_without_evaluations_no_time_to_a_loss() -> None:
    bare = {"val_loss": None, "best_val_loss": None, "equal_tokens_loss": None}
    text = said(row("sync", 10.0, **bare), row("async", 20.0, **bare), target=None)
    assert "No run was evaluated" in text
    assert "validation loss" not in text


# Loss at equal tokens


def test_a_worse_loss_at_equal_tokens_is_said_and_a_better_one_and_an_equal_one() -> None:
    text = said(
        row("sync", 10.0, 20.0),
        row("async", 35.0, 5.0, equal_tokens_loss=Stat(2.1, 0.02, 3)),
        row("local H=50 average", 35.0, 5.0, equal_tokens_loss=Stat(2.3, 0.0, 3)),
        row("easgd H=8", 35.0, 5.0, equal_tokens_loss=Stat(1.9, 0.0, 3)),
        row("ssp S=0", 10.0, 20.0, staleness=0, equal_tokens_loss=Stat(2.015, 0.01, 3)),
    )
    at = "at equal tokens (5,000), where sync has 2.000 ± 0.010"
    worse = "async 2.100 ± 0.020 and local H=50 average 2.300 ± 0.000"
    assert f"Worse than sync in validation loss {at}: {worse}." in text
    assert f"Better than sync in validation loss {at}: easgd H=8 1.900 ± 0.000." in text
    assert f"Within the spread of sync's validation loss {at}: ssp S=0." in text
    assert "update of every gradient" not in text


def test_why_async_can_be_better_at_equal_tokens() -> None:
    text = said(
        row("sync", 10.0, 20.0), row("async", 10.0, 5.0, equal_tokens_loss=Stat(1.9, 0.02, 3))
    )
    assert "async and ssp make an update of every gradient, 4 where sync makes one" in text


# The bound of ssp


def bounded(speed: float = 10.5, **changes: Any) -> Row:
    gaps = {"gaps": {0: 25, 4: 75}, "max_gap": 4}
    return row("ssp S=4", speed, 20.0, staleness=4, **gaps | changes)


def test_ssp_falls_back_to_the_slowest_worker_once_its_bound_is_reached() -> None:
    text = said(row("sync", 10.0, 20.0), bounded(), stragglers={4: 4.0})
    assert (
        "ssp S=4 fell back to the slowest worker once its bound was reached (clock gap 4, at 75 % "
        "of the times that a worker was told to go on); over the whole run it makes 1.05 times "
        "sync's steps/s." in text
    )


def test_it_is_said_without_sync_and_without_counted_gaps_too() -> None:
    text = said(row("async", 35.0, 5.0), bounded(gaps=None), stragglers={4: 4.0})
    assert "fell back to the slowest worker once its bound was reached (clock gap 4). A" in text


def test_of_a_straggler_that_was_only_measured_too() -> None:
    slow = (0.1, 0.1, 0.1, 0.4)
    text = said(row("sync", 10.0, 20.0, step_s=slow), bounded(step_s=slow))
    assert "ssp S=4 fell back to the slowest worker" in text


def test_a_bound_that_was_never_reached_makes_ssp_async() -> None:
    free = bounded(35.0, gaps={0: 10, 3: 1}, max_gap=3)
    text = said(row("sync", 10.0, 20.0), free, stragglers={4: 4.0})
    assert "ssp S=4 never came to its bound (widest clock gap 3): here it is the same as" in text
    assert "fell back" not in text


def test_without_a_constant_straggler_ssp_only_waits_at_times() -> None:
    text = said(row("sync", 10.0, 20.0), bounded(14.0), jitter="bernoulli:0.1:4")
    assert "ssp S=4 came to its bound (clock gap 4, at 75 % of the times" in text
    assert "fell back" not in text


def test_a_bound_of_nothing_is_lock_step() -> None:
    text = said(row("sync", 10.0, 20.0), row("ssp S=0", 10.0, 20.0, staleness=0))
    assert "ssp S=0 is lock-step" in text


# Bytes


def test_fewer_bytes_are_said_against_sync() -> None:
    local = {"bytes": Stat(2e5, 0.0, 3), "bytes_per_token": Stat(16.0, 0.0, 3)}
    text = said(row("sync", 10.0, 20.0), row("local H=50 nesterov", 12.0, 30.0, **local))
    assert (
        "Bytes a token, against sync (8.00 MB in all): local H=50 nesterov 50.0 times fewer (200 kB"
        " in all)." in text
    )
    assert "Bytes a token" not in said(row("sync", 10.0, 20.0), row("async", 12.0, 30.0))


# Modes that the table has not yet


def test_what_is_said_of_a_mode_is_said_of_any_that_is_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twice = replace(MODES["sync"], name="sync-every-2", order=9)
    bounded = replace(MODES["ssp"], name="bounded", order=10)
    known = {**MODES, twice.name: twice, bounded.name: bounded}
    monkeypatch.setattr("psdp.report.rows.MODES", known)
    rows = (row("sync-every-2", 10.0, 30.0), row("bounded", 12.0, 40.0, staleness=4))
    text = said(*rows)
    assert "There is no sync" not in text
    assert "That is 1.20 times sync-every-2's 10.0" in text
    assert "bounded never came to its bound" in text
    assert "Sync-every-2 wins here: nothing reaches the target loss sooner." in text
    text = said(row("sync", 20.0, 20.0), *rows)
    assert "Fastest: sync with 20.0 ± 0.1 steps/s. So no mode makes more" in text
    assert "Sync wins here: nothing" in text


# Allreduce


def test_every_report_has_a_line_on_the_allreduce_baseline() -> None:
    rows = (
        row("sync", 10.0, allreduce_ratio=0.8),
        row("allreduce", 12.5, allreduce_ratio=1.0),
        row("async", 25.0, allreduce_ratio=2.0),
    )
    assert unserved_line(scenario(*rows)) == (
        "Allreduce baseline: 12.5 ± 0.1 steps/s, validation loss 2.000 ± 0.010; steps/s over it: "
        "sync 0.800, async 2.00."
    )
    missing = unserved_line(scenario(rows[0]))
    assert missing.startswith("Allreduce baseline: none among these runs")
    assert "--mode allreduce" in missing
