"""Which mode is chosen, where it can be computed by hand which is fastest."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from statistics import fmean, variance

import pytest

from psdp.protocol import Choice, Chooser
from psdp.protocol.choice import RISE, ROUNDS, WINDOW, Speeds

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


def test_what_was_seen_is_told_in_milliseconds() -> None:
    speeds = Speeds({1: 0.12345, 2: 0.22345}, 1.5, 0.012345, 0.0012345, local_steps=8)
    told, _, rates = str(speeds).partition("; ")
    assert told == (
        "a step takes 123 to 223 ms on average, the slowest of a turn 335 ms, "
        "an exchange 12.3 ms, an update 1.23 ms"
    )
    assert rates == "gradients/s would be sync 5.73, ssp 8.44, local 12.4"
    assert speeds.worth("async") == 0.0  # which is never proposed


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_differ_by_chance_are_taken_for_equal(workers: int) -> None:
    dice = random.Random(5)
    choice = after(
        *(Chooser(8), "sync", lambda _worker, _turn: 0.1 + 0.02 * dice.random()),
        workers=workers,
        exchange_s=0.1,
    )
    assert choice is not None
    assert re.match(r"a step takes (\S+) to \1 ms", choice.reason)


def test_in_a_mode_of_rounds_a_turn_is_as_long_as_its_slowest_step() -> None:
    choice = after(Chooser(8), "sync", jitter(), exchange_s=0.002)
    assert choice is not None
    mean, turn = re.findall(
        r"to (\d+) ms on average, the slowest of a turn (\d+) ms", choice.reason
    )[0]
    assert int(turn) > 1.3 * int(mean)
    # What one has not seen of turns is not made up.
    choice = after(Chooser(8), "local", equal, exchange_s=0.0)
    assert choice is not None
    assert "to 100 ms on average, the slowest of a turn 100 ms" in choice.reason


@pytest.mark.parametrize(("mode", "pushes"), [("sync", WINDOW), ("ssp", WINDOW), ("local", ROUNDS)])
def test_a_decision_waits_for_so_many_exchanges_of_each(mode: str, pushes: int) -> None:
    chooser, turns = Chooser(8), 0

    def counted(worker: int, _turn: int) -> float:
        nonlocal turns
        turns += worker == 0
        return straggler(worker, 0) if mode != "local" else 0.1

    assert after(chooser, mode, counted, exchange_s=0.0) is not None
    assert turns == pushes + 1  # of the first, nobody knows when its weights had come


def test_a_push_that_follows_no_answer_tells_of_no_exchange() -> None:
    chooser = Chooser(8)
    for worker in range(4):
        chooser.answered(worker, 0.0)
        for turn in range(2 * WINDOW):
            chooser.pushed(worker, turn + 0.4, 1, straggler(worker, turn), 3.0)
    assert chooser.choose("sync", 4, 0.0) is None


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


def test_the_way_back_is_to_the_mode_before_and_says_by_how_much_it_was_worse() -> None:
    chooser = Chooser(8)
    assert after(chooser, "ssp", straggler, loss=lambda turn: 3.0 + 0.1 * (turn % 2))
    back = after(chooser, "local", straggler, loss=lambda turn: 3.3 + 0.1 * (turn % 2))
    assert back is not None
    assert back.mode == "ssp"
    then = [3.0 + 0.1 * (turn % 2) for turn in range(WINDOW) for _ in range(4)]
    now = [3.3 + 0.1 * (turn % 2) for turn in range(ROUNDS + 1) for _ in range(4)]
    error = (variance(then) / len(then) + variance(now) / len(now)) ** 0.5
    assert f", {(fmean(now) - fmean(then)) / error:.1f} standard errors; it" in back.reason
    # Not to one that was given up before: to the first.
    assert after(chooser, "local", equal, exchange_s=0.0, loss=lambda turn: 3.0 + 0.1 * (turn % 2))
    back = after(chooser, "ssp", equal, loss=lambda turn: 3.5 + 0.1 * (turn % 2))
    assert back is not None
    assert back.mode == "sync"


def test_losses_are_compared_with_those_right_before_the_change() -> None:
    chooser = Chooser(8)
    dice = random.Random(3)
    assert after(chooser, "sync", straggler, loss=lambda _turn: 3.0 + 0.1 * dice.random())
    assert after(chooser, "local", straggler, loss=lambda _turn: 3.0 + 0.1 * dice.random()) is None
    assert after(chooser, "local", straggler, loss=lambda _turn: 3.5 + 0.1 * dice.random()) is None


def test_losses_that_were_noisier_before_are_compared_all_the_same() -> None:
    chooser = Chooser(8)
    dice = random.Random(3)
    assert after(chooser, "sync", straggler, loss=lambda _turn: 3.0 + dice.random())
    assert after(chooser, "local", straggler, loss=lambda _turn: 3.5 + 0.01 * dice.random()) is None


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
    chooser.left(9)  # of whom nothing was seen
    assert chooser.choose("sync", 4, 0.0) is None


def test_who_has_left_is_not_waited_for() -> None:
    chooser = Chooser(8)
    for turn in range(WINDOW + 1):
        for worker in range(4):
            chooser.pushed(worker, turn + straggler(worker, turn), 1, straggler(worker, turn), 3.0)
            chooser.answered(worker, turn + 1.0)
    chooser.left(2)
    assert chooser.choose("sync", 3, 0.0) is None  # which are equal
