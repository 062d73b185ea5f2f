"""From runs to rows and scenarios: what is taken together, and numbers worked out by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import change_json, mark_as_tuned, write_run

from psdp.intervals import half_width
from psdp.report.lost import Lost
from psdp.report.measures import Stat
from psdp.report.regimes import regime_sentence
from psdp.report.rows import lag_percentiles
from psdp.report.runs import read_runs
from psdp.report.scenarios import Scenario, compare
from psdp.report.settings import differing
from psdp.report.text import facts
from psdp.report.verdict import verdict


class Folder:
    """Makes runs, then scenarios of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[Path] = []

    def run(self, **settings: Any) -> Path:
        self.made.append(write_run(self.path / f"run-{len(self.made)}", **settings))
        return self.made[-1]

    def scenarios(self, target: float | None = None) -> list[Scenario]:
        runs, left_out = read_runs(self.made)
        return compare(runs, target, [run for run in left_out if isinstance(run, Lost)])

    def scenario(self, target: float | None = None) -> Scenario:
        (scenario,) = self.scenarios(target)
        return scenario


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_runs_that_differ_in_their_seed_are_a_row_with_mean_and_spread(folder: Folder) -> None:
    for seed, speed, loss in [(1, 64.0, 2.0), (2, 96.0, 2.5)]:
        ends = [(0.0, 0, 4.0), (10.0, 320, loss)]
        folder.run(seed=seed, tokens_per_s=speed, evaluations=ends, sent=320 * seed)
    (row,) = folder.scenario().rows
    assert (row.label, row.seeds, row.names) == ("sync", (1, 2), ("run-0", "run-1"))
    assert row.steps_per_s == Stat(2.5, pytest.approx(12.706205 / 2), 2, {1: 2.0, 2: 3.0})
    assert row.tokens_per_s.mean == 80.0
    assert row.val_loss == Stat(2.25, pytest.approx(12.706205 / 4), 2, {1: 2.0, 2: 2.5})
    assert row.bytes.mean == 480
    assert row.bytes_per_step is not None
    assert row.bytes_per_step.mean == 48.0


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (0.1, "over seeds, and those of speeds and times also over .* off: 10.0 %, in the runs"),
        (None, "over seeds alone: by how much the costs of these virtual jobs are off is not"),
    ],
)
def test_times_of_virtual_jobs_are_as_sure_as_their_costs(
    folder: Folder, error: float | None, known: str
) -> None:
    for mode in ("sync", "async"):
        for seed, ends_s in ((1, 10.0), (2, 10.2)):
            ends = [(0.0, 0, 4.0), (ends_s, 320, 2.0)]
            run = folder.run(mode=mode, seed=seed, evaluations=ends)
            costs = {"step_ms": 50.0, "calibrate_error": error}
            change_json(run / "config.json", hosts=["virtual"] * 3, costs=costs)
    scenario = folder.scenario(target=3.0)
    row = scenario.rows[0]
    for timed in (row.steps_per_s, row.tokens_per_s, row.target_s):
        assert timed is not None
        assert timed.half is not None
        by_seeds = half_width(list(timed.by_seed.values()))
        off = 1.959964 * (error or 0.0) * timed.mean
        assert timed.half == pytest.approx(math.hypot(by_seeds, off))
    assert row.val_loss is not None
    assert row.val_loss.half == 0.0
    (line,) = (line for line in facts(scenario) if line.startswith("Intervals"))
    assert re.search(f"^Intervals are {known}", line)


def test_rows_that_differ_in_what_takes_no_time_are_off_alike(folder: Folder) -> None:
    for changes in ({}, {"lr": 0.1}, {"mode": "async"}):
        for seed in (1, 2):
            run = folder.run(seed=seed, **changes)
            costs = {"calibrate_error": 0.1}
            change_json(run / "config.json", hosts=["virtual"] * 3, costs=costs)
    slow, fast, free = folder.scenario().rows
    assert fast.steps_per_s.half is not None
    assert fast.steps_per_s.half > 0
    assert fast.steps_per_s.minus(slow.steps_per_s).half == 0
    assert free.steps_per_s.minus(slow.steps_per_s).half > 0


def test_intervals_of_measured_times_need_no_word(folder: Folder) -> None:
    folder.run()
    assert not [line for line in facts(folder.scenario()) if "Intervals" in line]


def test_ratios_are_to_sync_and_allreduce_of_the_same_scenario(folder: Folder) -> None:
    folder.run(tokens_per_s=64.0)
    folder.run(mode="async", tokens_per_s=96.0)
    folder.run(straggler="2:4", tokens_per_s=16.0)
    folder.run(straggler="2:4", mode="async", tokens_per_s=48.0)
    folder.run(backup_workers=1, tokens_per_s=32.0)
    equal, slow = folder.scenarios()
    assert [(row.label, row.steps_ratio) for row in equal.rows] == [
        ("sync", 1.0),
        ("sync, 1 backup", 1.0),  # of half the tokens
        ("async", 1.5),
    ]
    assert equal.rows[1].tokens_ratio == 0.5
    assert [(row.label, row.steps_ratio) for row in slow.rows] == [("sync", 1.0), ("async", 3.0)]
    assert slow.stragglers == {2: 4.0}
    assert slow.title == "2 workers, worker 2: 4 times slower"
    assert {row.allreduce_ratio for row in equal.rows} == {None}


def test_what_changes_sync_is_compared_with_plain_sync(folder: Folder) -> None:
    folder.run(overlap=True, tokens_per_s=48.0)
    folder.run(mode="async", tokens_per_s=96.0)
    assert [row.steps_ratio for row in folder.scenario().rows] == [1.0, 2.0], "the only sync"
    folder.run(balance="dynamic", tokens_per_s=64.0)
    folder.run()
    assert [(row.label, row.steps_ratio) for row in folder.scenario().rows] == [
        ("sync", 1.0),
        ("sync, dynamic", 2.0),
        ("sync, overlap", 1.5),
        ("async", 3.0),
    ]


def test_a_straggler_is_a_worker_not_a_rank(folder: Folder) -> None:
    folder.run(straggler="2:4")
    folder.run(straggler="3:4", servers=2)
    assert [row.label for row in folder.scenario().rows] == ["sync, servers 1", "sync, servers 2"]


def test_a_worker_that_is_slowed_by_nothing_is_not_slow(folder: Folder) -> None:
    folder.run(straggler="2:1")
    folder.run(mode="async")
    scenario = folder.scenario()
    assert (scenario.title, len(scenario.rows)) == ("2 workers", 2)


def test_who_is_slow_for_a_while_is_another_scenario_and_its_title_says_when(
    folder: Folder,
) -> None:
    folder.run(straggler="2:4")
    folder.run(straggler="2:4@5-8")
    folder.run(link_mbps=100.0, slow_link="10@2s-")
    assert [scenario.title for scenario in folder.scenarios()] == [
        "2 workers, worker 2: 4 times slower",
        "2 workers, worker 2: 4 times slower from step 5 to 8",
        "2 workers, links of 100 Mbit/s, links 10 times slower from 2 s",
    ]
    assert "worker 2 takes 4 times as long a step for a while" in regime_sentence(
        folder.scenarios()[1]
    )


def test_other_models_corpora_or_numbers_of_workers_are_not_compared(folder: Folder) -> None:
    folder.run()
    folder.run(n_layer=2)
    folder.run(workers=3, compute_s=(1.0,) * 3, wait_s=(1.0,) * 3)
    change_json(folder.run() / "config.json", corpus={"sha256": "decaf"})
    titles = [scenario.title for scenario in folder.scenarios()]
    assert titles == [
        "2 workers, n-layer 4, corpus c0ffee",
        "2 workers, n-layer 2, corpus c0ffee",
        "3 workers, n-layer 4, corpus c0ffee",
        "2 workers, n-layer 4, corpus decaf",
    ]


def test_labels_say_what_tells_rows_apart_and_stand_in_order(folder: Folder) -> None:
    folder.run(mode="easgd")
    folder.run(mode="local", local_steps=16)
    folder.run(mode="local", local_steps=4, merge="async")
    folder.run(mode="local", local_steps=4)
    folder.run(mode="ssp", staleness=16)
    folder.run(mode="ssp", staleness=2)
    folder.run(mode="async", lag_compensation="dc-asgd")
    folder.run(mode="async")
    folder.run()
    assert [row.label for row in folder.scenario().rows] == [
        "sync",
        "ssp S=2",
        "ssp S=16",
        "async",
        "async, dc-asgd",
        "local H=4 nesterov",
        "local H=4 average, merge async",
        "local H=16 nesterov",
        "easgd H=8",
    ]


def test_settings_that_tell_rows_of_a_mode_apart_are_in_the_label(folder: Folder) -> None:
    folder.run(grad_clip=1.0)
    folder.run(grad_clip=0.5, tokens_per_s=16.0)
    folder.run(grad_clip=0.5, mode="async")
    folder.run(mode="local", outer_lr=0.5)
    folder.run(mode="local", outer_lr=0.7)
    rows = folder.scenario().rows
    assert [row.label for row in rows] == [
        "sync, grad-clip 0.5",
        "sync, grad-clip 1",
        "async",  # there is but one
        "local H=50 nesterov, outer-lr 0.5",
        "local H=50 nesterov, outer-lr 0.7",
    ]
    # Each against the sync that is most like it, that against the first.
    assert [row.steps_ratio for row in rows] == [1.0, 2.0, 2.0, 1.0, 1.0]


def test_the_target_is_a_hundredth_above_the_mean_of_what_sync_ends_with(folder: Folder) -> None:
    folder.run(seed=1)
    folder.run(seed=2, evaluations=[(0.0, 0, 4.0), (8.0, 320, 2.2)])
    folder.run(mode="async", evaluations=[(0.0, 0, 4.0), (5.0, 320, 3.0)])
    scenario = folder.scenario()
    assert scenario.target == pytest.approx(2.121)
    assert scenario.target_from == "1 % above the mean of what sync ends with"
    sync, late = scenario.rows
    assert (sync.reached, sync.all_reached) == (1, False)
    assert sync.target_s is not None
    assert sync.target_s.mean == pytest.approx(10 * (4 - 2.121) / 2)
    assert (late.reached, late.target_s, late.all_reached) == (0, None, False)


def test_of_several_rows_of_sync_the_one_that_ends_highest_sets_the_target(folder: Folder) -> None:
    for beta1, loss in [(0.9, 2.0), (0.5, 2.5)]:
        folder.run(beta1=beta1, evaluations=[(0.0, 0, 4.0), (8.0, 320, loss)])
    scenario = folder.scenario()
    assert scenario.target == pytest.approx(2.525)
    assert scenario.target_from.endswith("(of its 2 rows the one that ends highest)")
    assert [row.label for row in scenario.rows] == ["sync, beta1 0.5", "sync, beta1 0.9"]


def test_each_row_is_compared_with_the_sync_whose_settings_it_has(folder: Folder) -> None:
    folder.run(beta1=0.9, tokens_per_s=64.0)
    folder.run(beta1=0.5, tokens_per_s=32.0)
    folder.run(mode="async", tokens_per_s=128.0)
    found = {row.label: row.steps_ratio for row in folder.scenario().rows}
    # Rows of sync itself are compared with the first of them.
    assert found == {"sync, beta1 0.5": 1.0, "sync, beta1 0.9": 2.0, "async": 4.0}


def test_a_seed_that_was_run_again_says_nothing_of_others(folder: Folder) -> None:
    ends = [(0.0, 0, 4.0), (5.0, 320, 1.0)]
    for _ in range(2):
        folder.run()
        folder.run(mode="async", tokens_per_s=64.0, evaluations=ends)
    scenario = folder.scenario()
    assert [(row.seeds, row.val_loss) for row in scenario.rows] == [
        ((1337,), Stat(2.0, None, 1, {1337: 2.0})),
        ((1337,), Stat(1.0, None, 1, {1337: 1.0})),
    ]
    assert "No winner is named: of single seeds" in verdict(scenario)[-1]
    folder.run(seed=1, evaluations=[(0.0, 0, 4.0), (5.0, 320, 3.0)])
    assert folder.scenario().target == pytest.approx(1.01 * 2.5)


def test_runs_that_diverged_or_failed_count_against_their_rows(folder: Folder) -> None:
    for seed in (1, 2):
        folder.run(seed=seed)
        folder.run(mode="ssp", seed=seed, stopped_by="non-finite weights")
    folder.run(mode="async", seed=1)
    folder.run(mode="async", seed=2, stopped_by="error")
    folder.run(mode="local", stopped_by="signal")
    scenario = folder.scenario()
    assert [(row.label, row.runs, row.lost) for row in scenario.rows] == [
        ("sync", 2, ()),
        ("async", 2, (2,)),
    ]
    assert not scenario.rows[1].all_reached
    assert [(row.label, row.lost) for row in scenario.lost] == [("ssp S=4", (1, 2))]


def test_rows_whose_runs_are_tuned_are_called_so(folder: Folder) -> None:
    folder.run(seed=1)
    folder.run(mode="async", seed=1)
    mark_as_tuned(folder.run(mode="async", seed=1, lr=0.002, tokens_per_s=64.0), lr=0.002)
    mark_as_tuned(folder.run(seed=1, lr=0.1, tokens_per_s=32.0), lr=0.1)
    scenario = folder.scenario()
    assert [(row.label, row.tuned, row.steps_ratio) for row in scenario.rows] == [
        ("sync", False, 1.0),
        ("sync, tuned", True, 1.0),
        ("async", False, 1.0),
        ("async, tuned", True, 2.0),
    ]


def test_a_run_that_diverged_may_be_tuned_too(folder: Folder) -> None:
    folder.run()
    mark_as_tuned(folder.run(mode="async", stopped_by="non-finite weights"), beta1=0.5)
    (lost,) = folder.scenario().lost
    assert (lost.label, lost.tuned) == ("async, tuned", True)


def test_settings_that_were_changed_since_are_not_those_of_the_search(folder: Folder) -> None:
    mark_as_tuned(folder.run(lr=0.1), lr=0.2)
    (row,) = folder.scenario().rows
    assert (row.label, row.tuned) == ("sync", False)


def test_without_sync_the_target_is_what_all_reach_and_it_can_be_chosen(folder: Folder) -> None:
    folder.run(mode="async")
    folder.run(mode="ssp", evaluations=[(0.0, 0, 4.0), (5.0, 320, 3.0)])
    scenario = folder.scenario()
    assert (scenario.target, scenario.target_from[:10]) == (3.0, "what the w")
    assert all(row.all_reached for row in scenario.rows)
    chosen = folder.scenario(target=2.5)
    assert [row.reached for row in chosen.rows] == [0, 1]  # ssp comes first


def test_losses_are_compared_at_tokens_that_all_have(folder: Folder) -> None:
    folder.run(evaluations=[(0.0, 0, 4.0), (5.0, 160, 3.0), (10.0, 320, 2.0)])
    folder.run(mode="async", evaluations=[(0.0, 0, 4.0), (6.0, 240, 2.5)])
    scenario = folder.scenario()
    assert scenario.equal_tokens == 240
    losses = [row.equal_tokens_loss for row in scenario.rows]
    assert losses == [Stat(2.5, None, 1, {1337: 2.5})] * 2


def test_losses_are_compared_at_the_time_at_which_the_first_row_is_done(folder: Folder) -> None:
    for seed, later in ((1, 0.0), (2, 2.0)):
        ends = [(0.0, 0, 4.0), (20.0, 320, 2.0)]
        folder.run(seed=seed, evaluations=ends)
        ends = [(0.0, 0, 4.0), (9.0 + later, 320, 3.0)]
        folder.run(mode="async", seed=seed, evaluations=ends)
    scenario = folder.scenario()
    assert scenario.equal_time_s == 10.0
    losses = [row.equal_time_loss for row in scenario.rows]
    assert losses[0] == Stat(3.0, 0.0, 2, {1: 3.0, 2: 3.0})
    # Of its second run a loss between two evaluations; of the first, which is over, the last one.
    assert losses[1] is not None
    assert losses[1].by_seed == pytest.approx({1: 3.0, 2: 4 - 10 / 11})
    (line,) = (line for line in facts(scenario) if line.startswith("Equal time"))
    assert line.startswith("Equal time: 10.0 s, at which the first row was done, on the average")


def test_a_loss_at_equal_time_is_as_sure_as_the_costs(folder: Folder) -> None:
    ends = [(0.0, 0, 4.0), (10.0, 160, 3.0), (20.0, 320, 2.0)]
    for mode, off in (("sync", 2), ("async", 1)):
        for seed in (1, 2):
            own = [(time_s / off, tokens, loss) for time_s, tokens, loss in ends]
            run = folder.run(mode=mode, seed=seed, evaluations=own)
            costs = {"calibrate_error": 0.1}
            change_json(run / "config.json", hosts=["virtual"] * 3, costs=costs)
    sync, free = folder.scenario().rows
    assert sync.equal_time_loss is not None
    # It is done then: a second sooner it is 0.2 more, a second later no less.
    assert (sync.equal_time_loss.mean, sync.equal_time_loss.error) == (2.0, pytest.approx(0.2))
    assert free.equal_time_loss is not None
    assert (free.equal_time_loss.mean, free.equal_time_loss.error) == (3.0, pytest.approx(0.1))


def test_what_only_follows_from_the_mode_or_another_setting_is_no_difference(
    folder: Folder,
) -> None:
    folder.run(lr=0.003)
    folder.run(mode="ssp", record=True)
    folder.run(mode="local", merge="async")
    assert differing(folder.scenario().rows[:2]) == ["lr"]
    assert differing(folder.scenario().rows) == ["lr", "merge"]
    folder.run(mode="ssp", staleness=2)
    assert differing(folder.scenario().rows) == ["lr", "merge", "staleness"]


def test_a_label_has_short_numbers_and_nothing_that_only_follows(folder: Folder) -> None:
    folder.run(lr=0.003)
    folder.run(lr=0.001)
    assert [row.label for row in folder.scenario().rows] == ["sync, lr 0.001", "sync, lr 0.003"]
    folder.run(lr=0.003, min_lr=0.3 * 0.003)
    assert folder.scenario().rows[-1].label == "sync, lr 0.003, min-lr 0.0009"


def test_histograms_of_several_runs_are_added(folder: Folder) -> None:
    folder.run(mode="async", seed=1, lags={0: 10, 1: 8}, gaps={0: 1, 3: 1})
    folder.run(mode="async", seed=2, lags={1: 1, 9: 1}, gaps={3: 2})
    (row,) = folder.scenario().rows
    assert (row.lags, row.gaps, row.max_gap) == ({0: 10, 1: 9, 9: 1}, {0: 1, 3: 3}, 3)
    assert lag_percentiles(row) == (0, 1, 9)


def test_a_run_that_did_not_count_its_gaps_leaves_the_row_without(folder: Folder) -> None:
    folder.run(mode="async", seed=1, gaps={0: 1, 3: 1})
    change_json(folder.run(mode="async", seed=2) / "summary.json", without="clock_gap")
    (row,) = folder.scenario().rows
    assert (row.gaps, row.max_gap) == (None, 3)


def test_where_time_went_adds_up_to_all_of_it(folder: Folder) -> None:
    folder.run(seed=1, compute_s=(8.0, 2.0), wait_s=(1.0, 7.0))
    folder.run(seed=2, compute_s=(6.0, 2.0), wait_s=(1.0, 7.0))
    (row,) = folder.scenario().rows
    assert row.shares[0] == pytest.approx(
        {"compute": 0.7, "push": 0.05, "wait": 0.1, "pull": 0.025, "other": 0.125}
    )
    assert [sum(share.values()) for share in row.shares] == pytest.approx([1.0, 1.0])
    assert row.mean_share("compute") == pytest.approx(0.45)
    assert row.step_s == pytest.approx((0.7, 0.2))


def test_runs_without_evaluations_have_no_target(folder: Folder) -> None:
    path = folder.run()
    (path / "metrics.jsonl").write_text("")
    change_json(path / "summary.json", val_loss=None, best_val_loss=None)
    scenario = folder.scenario()
    assert (scenario.target, scenario.equal_tokens) == (None, None)
    assert scenario.rows[0].val_loss is None
