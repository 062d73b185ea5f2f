"""What the time of a gradient is made of, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import change_json, write_run

from psdp.report.breakdown import Breakdown, breakdown_of
from psdp.report.runs import Run, read_runs


def worker(mean_s: float, own_s: float, own_std_s: float = 0.0) -> dict[str, float]:
    return {"n": 9, "mean_s": mean_s, "std_s": 0.0, "own_s": own_s, "own_std_s": own_std_s}


ROUNDS = {"n": 9, "mean_s": 0.8, "slowest_s": 1.0, "own_s": 0.4, "slowest_own_s": 0.55}
TIMES = {"workers": {"1": worker(0.9, 0.5, 0.1), "2": worker(0.7, 0.3, 0.03)}, "rounds": ROUNDS}
"""Two workers, of which one is slower, on half as many cores as they need."""


def run(path: Path, times: Any = None, apply_s: float = 0.6, **settings: Any) -> Run:
    """Return a run of ten gradients a worker, which waits 7 s for answers."""
    write_run(path, wait_s=(6.0, 6.5), **settings)
    times = TIMES if times is None else times
    change_json(path / "summary.json", apply_s=apply_s, step_times=times)
    (found,), _ = read_runs([path])
    return found


def known(*runs: Run) -> Breakdown:
    found = breakdown_of(runs)
    assert found is not None
    return found


def test_a_round_is_the_mean_step_the_slowest_the_update_and_the_exchange(tmp_path: Path) -> None:
    found = known(run(tmp_path / "a"))
    # Of a gradient a worker does not compute for 0.7 s, 0.2 of which it waits for the slowest.
    assert found.step_s == pytest.approx(0.4)
    assert found.behind_s == pytest.approx(0.1), "the slower worker's mean is 0.5"
    assert found.chance_s == pytest.approx(0.05)
    assert found.update_s == pytest.approx(0.06 / 2), "with enough cores"
    assert found.exchange_s == pytest.approx((0.5 - 0.06) / 2)
    assert found.total_s == pytest.approx(1.0 + 0.5)
    assert found.cores_s == pytest.approx(1.5 - found.own_s)
    assert (found.steps_s, found.varies) == ((0.5, 0.3), pytest.approx(0.15))
    assert found.share(found.step_s) == pytest.approx(0.4 / (0.55 + 0.25))
    assert found.exchanged_bytes == 640 * 2 / 20


def test_links_are_as_slow_with_any_cores(tmp_path: Path) -> None:
    for name, changes in [("a", {"transport": "messages"}), ("b", {"link_mbps": 100.0})]:
        assert known(run(tmp_path / name, **changes)).exchange_s == pytest.approx(0.5 - 0.06)


def test_without_rounds_nobody_waits_for_the_slowest(tmp_path: Path) -> None:
    times = TIMES | {"rounds": None}
    found = known(run(tmp_path / "a", times, mode="async"))
    assert (found.behind_s, found.chance_s) == (0.0, 0.0)
    assert found.update_s == pytest.approx(0.03 / 2), "its own"
    assert found.exchange_s == pytest.approx((0.7 - 0.03) / 2)
    busy = known(run(tmp_path / "b", times, apply_s=8.0, mode="async"))
    assert busy.update_s == pytest.approx(0.4 * 2 * 0.8 / 2), "and of those that come before"


def test_of_several_runs_it_is_the_mean(tmp_path: Path) -> None:
    slower = {"workers": TIMES["workers"], "rounds": ROUNDS | {"slowest_own_s": 0.75}}
    found = known(run(tmp_path / "a"), run(tmp_path / "b", slower, seed=2))
    assert found.chance_s == pytest.approx((0.05 + 0.25) / 2)
    assert found.steps_s == pytest.approx((0.5, 0.3))


@pytest.mark.parametrize(
    "changes",
    [
        {"step_times": None},
        {"step_times": {"workers": {}, "rounds": None}},
        {"step_times": TIMES | {"workers": {"1": worker(0.9, 0.5)}}},
        {"apply_s": None},
        {"dropped": {"2": 1}},
    ],
)
def test_of_a_run_that_did_not_measure_it_there_is_none(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = run(tmp_path / "a")
    path = write_run(tmp_path / "b", seed=2)
    change_json(path / "summary.json", **{"apply_s": 1.0, "step_times": TIMES} | changes)
    (other,), _ = read_runs([path])
    assert breakdown_of([other]) is None
    assert breakdown_of([whole, other]) is None


def test_a_run_in_several_modes_has_none(tmp_path: Path) -> None:
    assert breakdown_of([run(tmp_path / "a", mode="auto")]) is None
