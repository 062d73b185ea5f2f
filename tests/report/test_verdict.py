"""What the report says in plain words, on rows made for each regime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_rows import parts, row, scenario, search, stat

from psdp.modes import MODES, ONLY_WITH
from psdp.report.measures import Stat
from psdp.report.rows import LostRow, Row
from psdp.report.verdict import unserved_line, verdict


def said(*rows: Row, **changes: Any) -> str:
    return "\n".join(verdict(scenario(*rows, **changes)))


# Speed and time to the loss


def test_who_is_fastest_and_soonest_and_by_how_much() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 35.0, 5.0), stragglers={4: 4.0})
    assert "Fastest: async with 35.0 ± 0.2 steps/s. That is 3.50 times sync's 10.0 ± 0.2." in text
    assert (
        "Soonest at the target loss 2.020: async after 5.00 ± 1.24 s; that is 75 % sooner than sync"
        " (20.0 ± 1.2 s). [modes alone]" in text
    )
    assert text.endswith("async wins here: nothing reaches the target loss sooner. [modes alone]")
    assert "Sync wins" not in text


def test_where_sync_wins_the_verdict_says_so() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 9.0, 30.0))
    assert "So no row is known to make more steps/s than sync." in text
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner. [modes alone]")


def test_sync_wins_on_time_to_loss_though_async_makes_more_steps() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 30.0, 40.0))
    assert "Fastest: async" in text
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner. [modes alone]")


def test_differences_whose_intervals_hold_a_zero_are_none() -> None:
    slow = row("easgd H=8", 9.0, 30.0)
    near = {"steps_per_s": stat(10.15, -0.1), "target_s": stat(19.5, -0.5)}
    text = said(row("sync", 10.0, 20.0), row("async", 10.15, 19.5, **near), slow)
    assert "Fastest: sync and async, not told apart" in text
    assert "So no row is known to make more steps/s than sync." in text
    assert "async after 19.5 ± 1.2 s, not told apart from sync." in text
    assert text.endswith(
        "No winner is named: sync and async cannot be told apart, and nothing reaches the target "
        "loss sooner for sure. [modes alone]"
    )


def test_a_winner_is_found_by_the_seeds_that_both_have_alone() -> None:
    def times(**by_seed: float) -> Stat | None:
        return Stat.of((int(name[1:]), took) for name, took in by_seed.items())

    alike = row(
        "async", 10.0, names=("b", "c"), seeds=(2, 3), target_s=times(s2=9.0, s3=9.5), reached=2
    )
    missed = row("sync", 10.0, target_s=times(s2=9.0, s3=9.5), reached=2)
    assert "No winner is named: sync and async cannot be told apart" in said(missed, alike)
    all_three = row("async", 10.0, target_s=times(s1=9.0, s2=9.0, s3=9.5), reached=3)
    assert "async wins here" in said(missed, all_three), "sync missed it with a seed of both"
    later = replace(alike, seeds=(4, 5), target_s=times(s4=1.0, s5=1.1))
    assert said(missed, later).endswith(
        "of some rows fewer than two seeds are shared. [modes alone]"
    )


def test_a_difference_that_every_seed_shows_is_one_though_seeds_differ_more() -> None:
    seeds = {"target_s": stat(18.0, 2.0)}
    text = said(
        row("sync", 10.0, target_s=stat(20.0, 2.1), reached=3),
        row("async", 10.0, **seeds, reached=3),
    )
    assert "Soonest at the target loss 2.020: async after 18.0 ± 5.0 s; that is 10 % sooner" in text
    assert "async wins here" in text


def test_speeds_within_two_per_cent_are_equal_however_steady() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 10.1, 10.0))
    assert "Fastest: sync and async, not told apart" in text


def test_allreduce_is_sync_without_a_server() -> None:
    text = said(row("sync", 10.0, 20.0), row("allreduce", 12.0, 15.0), row("async", 9.0, 30.0))
    assert text.endswith(
        "Allreduce, which is sync without a server, wins here: nothing reaches the target loss "
        "sooner. [modes alone]"
    )


def test_rows_that_miss_the_target_are_named_and_cannot_win() -> None:
    late = row("async", 50.0, target_s=stat(5.0, 0.5, n=2), reached=2)
    text = said(row("sync", 10.0, 20.0), late, row("easgd H=8", 20.0))
    missed = "async (2 of 3 runs) and easgd H=8 (0 of 3 runs)"
    assert f"Not reached within its budget: the target loss 2.020, by {missed}." in text
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner. [modes alone]")


def test_if_none_reaches_the_target_none_wins() -> None:
    text = said(row("sync", 10.0), row("async", 20.0))
    assert text.endswith("No winner is named: no row reached the target loss. [modes alone]")


def test_a_step_with_backup_workers_is_smaller() -> None:
    backup = row("sync, 1 backup", 30.0, 10.0, backup_workers=1, tokens_ratio=2.25)
    text = said(row("sync", 10.0, 20.0), backup)
    assert (
        "A step of sync, 1 backup is 3 gradients of 4: in tokens/s it is 2.25 times sync." in text
    )
    assert text.endswith(
        "sync, 1 backup wins here: nothing reaches the target loss sooner. [settings alone: "
        "backup-workers]"
    )


def test_sync_that_is_not_plain_wins_under_its_own_name() -> None:
    text = said(row("sync", 10.0, 20.0), row("sync, overlap", 12.0, 15.0, overlap=True))
    assert text.endswith(
        "sync, overlap wins here: nothing reaches the target loss sooner. [settings alone: overlap]"
    )


def test_of_single_runs_no_difference_is_called_one() -> None:
    def alone(label: str, speed: float) -> Row:
        own = {"steps_per_s": stat(speed, 0.0, n=1), "target_s": stat(100 / speed, 0.0, n=1)}
        return row(label, speed, names=("a",), seeds=(1,), reached=1, **own)

    text = said(alone("sync", 10.0), alone("async", 50.0))
    assert "Rows of a single seed have no interval" in text
    assert "Fastest: sync and async, not told apart (the most: async, 50.0 steps/s)" in text
    assert "No winner is named: of single seeds" in text
    assert "single seed" not in said(row("sync", 10.0), row("async", 10.1))


def test_without_sync_nothing_is_said_of_it() -> None:
    text = said(row("async", 10.0, 20.0), row("easgd H=8", 12.0, 10.0))
    assert "There is no sync run here" in text
    assert "times sync" not in text
    assert text.endswith(
        "easgd H=8 wins here: nothing reaches the target loss sooner. [modes alone]"
    )


def test_one_row_has_nothing_to_win_against() -> None:
    text = said(row("async", 10.0, 20.0))
    assert text.endswith("Only async was run here: nothing to compare.")


def test_without_evaluations_no_time_to_a_loss() -> None:
    bare = {"val_loss": None, "best_val_loss": None, "equal_tokens_loss": None}
    text = said(row("sync", 10.0, **bare), row("async", 20.0, **bare), target=None)
    assert "No run was evaluated" in text
    assert "async wins here: nothing trains on more tokens/s (no run was evaluated)." in text
    assert "validation loss" not in text


# Loss at equal tokens


def test_a_worse_loss_at_equal_tokens_is_said_and_a_better_one_and_an_equal_one() -> None:
    text = said(
        row("sync", 10.0, 20.0),
        row("async", 35.0, 5.0, equal_tokens_loss=stat(2.1, 0.02)),
        row("local H=50 average", 35.0, 5.0, equal_tokens_loss=stat(2.3, 0.0)),
        row("easgd H=8", 35.0, 5.0, equal_tokens_loss=stat(1.9, 0.0)),
        row("ssp S=0", 10.0, 20.0, staleness=0, equal_tokens_loss=stat(2.015, -0.01)),
    )
    at = "at equal tokens (5,000), where sync has 2.000 ± 0.025"
    worse = "async 2.100 ± 0.050 and local H=50 average 2.300 ± 0.000"
    assert f"Worse than sync in validation loss {at}: {worse}. [modes alone]" in text
    assert f"Better than sync in validation loss {at}: easgd H=8 1.900 ± 0.000. [modes al" in text
    assert f"Not told apart from sync in validation loss {at}: ssp S=0 2.015 ± 0.025. [mo" in text
    assert "[modes and settings: staleness]" in text
    assert "update of every gradient" not in text


def test_why_async_can_be_better_at_equal_tokens() -> None:
    text = said(row("sync", 10.0, 20.0), row("async", 10.0, 5.0, equal_tokens_loss=stat(1.9, 0.02)))
    assert "async and ssp make an update of every gradient, 4 where sync makes one" in text


def test_losses_at_equal_time_are_compared_too() -> None:
    rows = (
        row("sync", 10.0, 20.0, equal_time_loss=stat(2.4, 0.0)),
        row("async", 10.0, 5.0, equal_time_loss=stat(2.1, 0.02)),
        row("easgd H=8", 10.0, 5.0, equal_time_loss=None),
    )
    text = said(*rows, equal_time_s=12.34)
    assert (
        "Better than sync in validation loss at equal time (12.3 s), where sync has 2.400 ± 0.000: "
        "async 2.100 ± 0.050. [modes alone]"
    ) in text


# Runs that diverged or failed


def test_a_row_of_which_a_run_diverged_wins_nothing_and_is_named_with_how_many() -> None:
    two = {"names": ("a", "b"), "seeds": (1, 2), "target_s": stat(5.0, 0.5, n=2), "reached": 2}
    text = said(row("sync", 10.0, 20.0), row("async", 35.0, **two, lost=(3,)))
    assert "diverged or failed: async (1 of 3 runs). Such a row wins nothing." in text
    assert "Fastest" not in text, "nothing else is to be compared"
    assert text.endswith("Sync wins here: nothing reaches the target loss sooner. [modes alone]")
    text = said(row("sync", 10.0, 20.0), row("async", 35.0, **two, lost=(4,)))
    assert "No winner is named: sync is not known to be ahead of all others." in text
    text = said(row("sync", 10.0, 20.0, lost=(4,)), row("async", 35.0, 5.0, lost=(4,)))
    assert "No winner is named: of every row some run diverged or failed." in text
    assert "Runs of sync are lost, so whether sync would win is not known." in text


def test_a_row_that_is_lost_as_a_whole_is_one_all_the_same() -> None:
    settings = {"mode": "async", "beta1": 0.9}
    lost = LostRow("async", settings, tuple(ONLY_WITH), {}, (1, 2))
    text = said(row("sync", 10.0, 20.0, beta1=0.5), lost=(lost,))
    assert "diverged or failed: async (2 of 2 runs). Such a row wins nothing." in text
    assert "beta1 0.5 (sync) or 0.9 (async)" in text
    assert text.endswith(
        "Sync wins here: nothing reaches the target loss sooner. [modes and settings: beta1]"
    )


# The bound of ssp

SLOW = parts((0.1, 0.1, 0.1, 0.4))


def bounded(speed: float = 10.5, **changes: Any) -> Row:
    gaps = {"gaps": {0: 25, 4: 75}, "max_gap": 4}
    return row("ssp S=4", speed, 20.0, staleness=4, **gaps | changes)


def test_ssp_falls_back_to_the_slowest_worker_once_its_bound_is_reached() -> None:
    text = said(row("sync", 10.0, 20.0, breakdown=SLOW), bounded())
    assert (
        "ssp S=4 fell back to the slowest worker once its bound was reached (clock gap 4, at 75 % "
        "of the times that a worker was told to go on); over the whole run it makes 1.05 times "
        "sync's steps/s." in text
    )


def test_it_is_said_without_sync_and_without_counted_gaps_too() -> None:
    text = said(row("async", 35.0, 5.0, breakdown=SLOW), bounded(gaps=None))
    assert "fell back to the slowest worker once its bound was reached (clock gap 4). A" in text


def test_of_a_straggler_that_was_set_and_not_measured_too() -> None:
    older = {"breakdown": None}
    text = said(row("sync", 10.0, 20.0, **older), bounded(**older), stragglers={4: 4.0})
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
    local = {"bytes": stat(2e5, 0.0), "bytes_per_token": stat(16.0, 0.0)}
    text = said(row("sync", 10.0, 20.0), row("local H=50 nesterov", 12.0, 30.0, **local))
    assert (
        "Bytes a token, against sync (8.00 MB in all): local H=50 nesterov 50.0 times fewer (200 kB"
        " in all)." in text
    )
    assert "Bytes a token" not in said(row("sync", 10.0, 20.0), row("async", 12.0, 30.0))


# What is compared: modes alone, or settings too


def test_every_setting_that_differs_is_named_and_what_compares_it_says_so() -> None:
    text = said(
        row("sync", 10.0, 20.0, beta1=0.9),
        row("async", 35.0, 5.0, beta1=0.5, equal_tokens_loss=stat(2.1, 0.02)),
        row("local H=50 average", 35.0, 5.0, beta1=0.9, equal_tokens_loss=stat(2.3, 0.0)),
    )
    assert (
        "Rows differ in more than their modes: beta1 0.9 (sync and local H=50 average) or 0.5 "
        "(async). What compares such rows says so." in text
    )
    assert "async 2.100 ± 0.050. [modes and settings: beta1]" in text
    assert "local H=50 average 2.300 ± 0.000. [modes alone]" in text
    assert "At equal settings (beta1 0.9): local H=50 average wins here" in text
    assert text.endswith(
        "No winner is named: async and local H=50 average cannot be told apart, and nothing "
        "reaches the target loss sooner for sure. [modes and settings: beta1]"
    )


def test_two_rows_of_sync_have_names_and_each_row_is_compared_with_the_one_like_it() -> None:
    text = said(
        row("sync, beta1 0.5", 10.0, 15.0, beta1=0.5, equal_tokens_loss=stat(1.9, 0.01)),
        row("sync, beta1 0.9", 10.0, 20.0, beta1=0.9),
        row("async", 10.0, 18.0, beta1=0.5, equal_tokens_loss=stat(1.95, 0.02)),
    )
    at = "where sync, beta1 0.5 has 1.900 ± 0.025"
    assert (
        f"Worse than sync, beta1 0.5 in validation loss at equal tokens (5,000), {at}: async"
        in text
    )
    worse = "sync, beta1 0.9 2.000 ± 0.025. [settings alone: beta1]"
    assert (
        f"Worse than sync, beta1 0.5 in validation loss at equal tokens (5,000), {at}: {worse}"
        in text
    )
    assert "At equal settings (beta1 0.5): Sync, beta1 0.5 wins here" in text
    assert text.endswith(
        "Sync, beta1 0.5 wins here: nothing reaches the target loss sooner. "
        "[modes and settings: beta1]"
    )


def test_rows_that_are_tuned_are_compared_with_each_other_and_the_others_too() -> None:
    def rows(mode: str, lr: float, loss: float, took: float) -> tuple[Row, Row]:
        better = {"equal_tokens_loss": stat(loss, 0.01)}
        return (
            row(mode, 10.0, 20.0, lr=0.001),
            row(f"{mode}, tuned", 10.0, took, lr=lr, search=search(lr=lr), **better),
        )

    text = said(*rows("sync", 0.09, 1.8, 15.0), *rows("async", 0.009, 1.9, 18.0))
    assert "Worse than sync, tuned in validation loss at equal tokens (5,000), where" in text
    assert "async, tuned 1.900 ± 0.025. [modes and settings: lr]" in text
    assert "Not told apart from sync in validation loss" in text
    assert "At equal settings (lr 0.001): No winner is named: sync and async cannot" in text
    assert "Each tuned: Sync, tuned wins here" in text


def test_searches_that_are_not_as_long_are_named() -> None:
    text = said(
        row("sync", 10.0, 20.0, lr=0.001),
        row("sync, tuned", 10.0, 15.0, lr=0.09, search=search(lr=0.09)),
        row("async, tuned", 10.0, 18.0, lr=0.009, search=search(50, lr=0.009)),
    )
    assert "Each tuned, though by unlike searches: Sync, tuned wins here" in text


def test_another_machine_is_named_like_a_setting() -> None:
    text = said(
        row("sync", 10.0, 20.0, circumstances={"machine": "a", "psdp": "0.2"}),
        row("async", 35.0, 5.0, circumstances={"machine": "b", "psdp": "0.2"}),
    )
    assert "Rows differ in more than their modes: machine a (sync) or b (async)." in text
    assert text.endswith("[modes and settings: machine]")


def test_where_nothing_else_differs_that_is_said() -> None:
    text = said(
        row("sync", 10.0, 20.0, beta1=0.9), row("ssp S=4", 9.0, 30.0, beta1=0.9, staleness=4)
    )
    assert "All rows have the same settings beside what belongs to a mode alone." in text


def test_a_setting_that_has_a_meaning_in_some_rows_alone_is_a_difference_all_the_same() -> None:
    text = said(
        row("sync", 10.0, 20.0),
        row("async", 35.0, 5.0, lag_compensation="none"),
        row("async, dc-asgd", 35.0, 5.0, lag_compensation="dc-asgd"),
        row("async, overlap", 36.0, 4.0, overlap=True, lag_compensation="none"),
        row("local H=2", 9.0, 30.0, local_steps=2),
    )
    for told in (
        "local-steps 2 (local H=2)",
        "overlap no (sync; async; and async, dc-asgd) or yes (async, overlap)",
        "lag-compensation none (async; and async, overlap) or dc-asgd (async, dc-asgd)",
    ):
        assert told in next(line for line in text.splitlines() if line.startswith("Rows differ"))
    assert "async wins here" in text.split("At equal settings")[1]
    assert text.endswith("[modes and settings: lag-compensation, local-steps, overlap]")


def test_a_mode_at_its_default_is_the_mode_alone_and_at_another_it_is_not() -> None:
    usual, wide = row("ssp S=4", 10.0, 20.0, staleness=4), row("ssp S=8", 35.0, 5.0, staleness=8)
    text = said(row("sync", 10.0, 20.0), usual, wide)
    assert "Rows differ in more than their modes: staleness 4 (ssp S=4) or 8 (ssp S=8)." in text
    assert text.endswith("[modes and settings: staleness]")
    assert "[modes alone]" in said(row("sync", 10.0, 20.0), usual)
    assert "At equal settings (staleness 4): No winner is named: sync and ssp S=4 cannot" in text


def test_what_is_said_of_a_row_that_missed_the_target_is_compared_too() -> None:
    text = said(
        row("sync", 10.0, circumstances={"machine": "a"}),
        row("async", 35.0, 5.0, circumstances={"machine": "b"}),
    )
    missed = "sync did not reach it in every run. [modes and settings: machine]"
    assert missed in text


def test_the_pace_of_a_bound_says_what_it_compares() -> None:
    text = said(row("sync", 10.0, 20.0, breakdown=SLOW, beta1=0.9), bounded(beta1=0.5))
    assert "always slow. [modes and settings: beta1]" in text


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
    assert "Fastest: sync with 20.0 ± 0.2 steps/s. So no row is known to make more" in text
    assert "Sync wins here: nothing" in text


# Allreduce


def test_every_report_has_a_line_on_the_allreduce_baseline() -> None:
    rows = (
        row("sync", 10.0, allreduce_ratio=0.8),
        row("allreduce", 12.5, allreduce_ratio=1.0),
        row("async", 25.0, allreduce_ratio=2.0),
    )
    assert unserved_line(scenario(*rows)) == (
        "Allreduce baseline: 12.5 ± 0.2 steps/s, validation loss 2.000 ± 0.025; steps/s over it: "
        "sync 0.800, async 2.00. [modes alone]"
    )
    other = row("allreduce", 12.5, beta1=0.9)
    told = unserved_line(scenario(*(row("sync", 10.0, allreduce_ratio=0.8, beta1=0.5), other)))
    assert told.endswith("steps/s over it: sync 0.800. [modes and settings: beta1]")
    missing = unserved_line(scenario(rows[0]))
    assert missing.startswith("Allreduce baseline: none among these runs")
    assert "--mode allreduce" in missing
