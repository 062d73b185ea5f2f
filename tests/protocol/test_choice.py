"""Which mode is chosen, where it can be computed by hand which is fastest."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from psdp.protocol import Choice, Chooser
from psdp.protocol.choice import RISE, WINDOW, Speeds

StepS = Callable[[int, int], float]
"""Seconds of a step, of a worker and the number of the step."""


def after(
    chooser: Chooser,
    mode: str,
    step_s: StepS,
    *,
    workers: int = 4,
    exchange_s: float = 0.01,
    apply_s: float = 0.001,
    loss: Callable[[int], float] = lambda turn: 4.0 - 0.001 * turn,
) -> Choice | None:
    """Return what is chosen after as many turns as it takes to choose at all, and no sooner."""
    steps = 8 if mode == "local" else 1
    now_s = 100.0
    for turn in range(40):
        taken = [step_s(worker, turn) for worker in range(workers)]
        for worker in range(workers):
            pushed_s = now_s + steps * taken[worker] + exchange_s
            chooser.pushed(worker, pushed_s, steps, taken[worker], loss(turn))
        now_s += steps * max(taken) + exchange_s
        for worker in range(workers):
            chooser.answered(worker, now_s)
        choice = chooser.choose(mode, workers, apply_s)
        if choice is not None:
            return choice
    return None


def equal(_rank: int, _turn: int) -> float:
    return 0.1


def straggler(worker: int, _turn: int) -> float:
    return 0.4 if worker == 2 else 0.1


def jitter() -> StepS:
    dice = random.Random(7)
    return lambda _rank, _turn: 0.4 if dice.random() < 0.1 else 0.1


@pytest.mark.parametrize("mode", ["sync", "ssp"])
def test_equal_workers_with_short_exchanges_stay_as_they_are(mode: str) -> None:
    assert after(Chooser(8), mode, equal) is None


@pytest.mark.parametrize("mode", ["sync", "ssp"])
def test_a_worker_that_is_always_slow_is_best_left_to_train_alone(mode: str) -> None:
    choice = after(Chooser(8), mode, straggler)
    assert choice is not None
    assert choice.mode == "local"
    assert "a step takes 100 to 400 ms on average, the slowest of a turn 400 ms" in choice.reason
    # 4 / (0.4 + 0.011), and 3 / (0.1 + 0.011 / 8) + 1 / (0.4 + 0.011 / 8)
    assert choice.reason.endswith("gradients/s would be sync 9.73, ssp 9.73, local 32.1")


def test_now_one_and_now_another_slow_worker_is_a_case_for_ssp() -> None:
    choice = after(Chooser(8), "sync", jitter(), exchange_s=0.002)
    assert choice is not None
    assert choice.mode == "ssp"


def test_long_exchanges_are_a_case_for_local() -> None:
    choice = after(Chooser(8), "sync", equal, exchange_s=0.1)
    assert choice is not None
    assert choice.mode == "local"


def test_one_update_of_each_gradient_is_what_bounds_ssp() -> None:
    speeds = Speeds(dict.fromkeys(range(8), 0.1), 3.0, 0.01, apply_s=0.05, local_steps=8)
    assert speeds.of("ssp") == pytest.approx(1 / 0.05)
    assert speeds.of("sync") == pytest.approx(8 / (3 * 0.1 + 0.06))


def test_once_workers_are_equal_again_local_is_left_where_a_token_teaches_less() -> None:
    chooser = Chooser(8)
    assert after(chooser, "sync", straggler, loss=lambda _turn: 3.0) is not None
    # 0.75 x 4 / (0.1 + 0.001 / 8) against 1.1 x 4 / (0.1 + 0.001).
    choice = after(chooser, "local", equal, exchange_s=0.0, loss=lambda _turn: 3.0)
    assert choice is not None
    assert choice.mode == "ssp"
    # With fewer steps alone there is nothing that local gains.
    assert Speeds({0: 0.1, 1: 0.1}, 1.0, 0.0, 0.0, local_steps=1).of("local") == 20.0


def test_a_mode_in_which_the_loss_rises_is_left_and_not_tried_again() -> None:
    chooser = Chooser(8)
    dice = random.Random(3)
    assert after(chooser, "sync", straggler, loss=lambda _turn: 3.0 + 0.1 * dice.random())
    back = after(chooser, "local", straggler, loss=lambda _turn: 3.2 + 0.1 * dice.random())
    assert back is not None
    assert back.mode == "sync"
    assert "since the change to local the loss rose from 3.0" in back.reason
    assert after(chooser, "sync", straggler) is None


def test_a_rise_within_what_chance_does_is_no_reason() -> None:
    chooser = Chooser(8)
    dice = random.Random(3)
    assert after(chooser, "sync", straggler, loss=lambda _turn: 3.0 + dice.random())
    assert after(chooser, "local", straggler, loss=lambda _turn: 3.1 + dice.random()) is None
    assert RISE > 2


def test_nothing_is_chosen_before_every_worker_was_seen() -> None:
    chooser = Chooser(8)
    for turn in range(3 * WINDOW):
        for worker in range(3):
            chooser.answered(worker, turn)
            chooser.pushed(worker, turn + 0.5, 1, 0.4, 3.0)
        assert chooser.choose("sync", 4, 0.0) is None
    chooser.left(2)
    assert chooser.choose("sync", 4, 0.0) is None
