"""What benchmarks read of a run folder, and what they make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from records import TrainRecord, largest_difference, read_train_records, tokens_per_s, totals

RECORDS = [
    TrainRecord(version=1, time_s=2.0, tokens=100, loss=4.0),
    TrainRecord(version=3, time_s=3.0, tokens=300, loss=3.0),
    TrainRecord(version=5, time_s=3.5, tokens=500, loss=2.0),
]


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "wall_s": 10.0,
        "compute_s": {"1": 8.0, "2": 7.0},
        "push_s": {"1": 0.5, "2": 0.25},
        "wait_s": {"1": 1.0, "2": 2.0},
        "pull_s": {"1": 0.5, "2": 0.75},
        "server_cpu_s": {"0": 0.75},
    } | changes


def test_train_records_are_read_in_order_and_others_left_out(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "version": 1, "time_s": 0.5, "tokens": 64, "loss": 4.5, "lr": 0.1},
        {"kind": "eval", "version": 1, "time_s": 0.6, "tokens": 64, "val_loss": 4.4},
        {"kind": "train", "version": 2, "time_s": 0.9, "tokens": 128, "loss": 4.0, "lr": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_train_records(tmp_path) == [
        TrainRecord(version=1, time_s=0.5, tokens=64, loss=4.5),
        TrainRecord(version=2, time_s=0.9, tokens=128, loss=4.0),
    ]


def test_throughput_counts_from_the_end_of_the_warm_up() -> None:
    assert tokens_per_s(RECORDS, first=3, last=5) == 400
    assert tokens_per_s(RECORDS, first=1, last=5) == pytest.approx(400 / 1.5)


def test_throughput_refuses_a_version_without_a_record() -> None:
    with pytest.raises(KeyError, match="2"):
        tokens_per_s(RECORDS, first=2, last=5)


def test_totals_name_every_workers_seconds_and_the_servers_share_of_a_core() -> None:
    of = totals(summary())
    assert of.wall_s == 10.0
    assert of.workers["2"] == {"compute_s": 7.0, "push_s": 0.25, "wait_s": 2.0, "pull_s": 0.75}
    assert of.server_percent == {"0": pytest.approx(7.5)}


@pytest.mark.parametrize("field", ["push_s", "pull_s", "server_cpu_s"])
def test_totals_refuse_a_summary_without_a_field(field: str) -> None:
    incomplete = summary()
    del incomplete[field]
    with pytest.raises(KeyError, match=field):
        totals(incomplete)


def test_losses_are_compared_with_the_mean_over_the_same_steps() -> None:
    # Records speak of step 1, of steps 2 and 3, of steps 4 and 5.
    assert largest_difference(RECORDS, [4.0, 3.5, 2.5, 2.25, 1.75], up_to=5) == 0
    assert largest_difference(RECORDS, [4.0, 3.5, 2.5, 2.5, 2.0], up_to=5) == pytest.approx(0.25)


def test_losses_after_the_compared_steps_may_differ() -> None:
    assert largest_difference(RECORDS, [4.0, 3.5, 2.5, 9.0, 9.0], up_to=4) == 0
