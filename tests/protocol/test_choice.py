"""Which mode is chosen, where it can be computed by hand which is fastest."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, variance

import pytest

from psdp import modes
from psdp.modes import CANDIDATES
from psdp.protocol import Choice, Chooser
from psdp.protocol.choice import LOOKS, MARGIN, RISE, ROUNDS, WINDOW, Forecast, Speeds

StepS = Callable[[int, int], float]
"""Seconds of a step, of a worker and the number of the step."""


@pytest.fixture(autouse=True)
def as_good_as_each_other(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Let a gradient be worth as much in each candidate, or as a test says."""
    worths = dict.fromkeys(CANDIDATES, 1.0)
    monkeypatch.setattr(modes.Candidate, "worth_of", lambda one, _workers: worths[one.name])
    return worths


def after(
    chooser: Chooser,
    mode: str,
    step_s: StepS,
    *,
    workers: int = 4,
    exchange_s: float = 0.01,
    apply_s: float = 0.001,
    loss: Callable[[int], float] = lambda turn: 4.0 - 0.001 * turn,
) -> Choice:
    """Return what is chosen after as many turns as it takes to choose at all, and no sooner."""
    alone = CANDIDATES[mode].mode.own_optimizer
    steps = 8 if alone else 1
    now_s = 100.0
    for turn in range(40):
        taken = [step_s(worker, turn) for worker in range(workers)]
        for worker in range(workers):
            pushed_s = now_s + steps * taken[worker] + exchange_s
            chooser.pushed(worker, pushed_s, steps, taken[worker], loss(turn))
        now_s += steps * max(taken) + exchange_s
        for worker in range(workers):
            chooser.answered(worker, now_s)
        chosen = chooser.choose(mode, workers, apply_s)
        if chosen is not None:
            return chosen
    raise AssertionError("nothing was chosen")


def rates(chosen: Choice) -> dict[str, float]:
    """Return gradients/s beside those of the first candidate."""
    first, *_ = chosen.compared
    return {one.mode: one.gradients_per_s / first.gradients_per_s for one in chosen.compared}


def equal(_rank: int, _turn: int) -> float:
    return 0.1


def straggler(worker: int, _turn: int) -> float:
    return 0.4 if worker == 2 else 0.1


def jitter() -> StepS:
    dice = random.Random(7)
    return lambda _rank, _turn: 0.4 if dice.random() < 0.1 else 0.1


@pytest.mark.parametrize("mode", ["sync", "ssp", "async"])
def test_equal_workers_with_short_exchanges_stay_as_they_are(mode: str) -> None:
    chosen = after(Chooser(8), mode, equal)
    assert chosen.mode == mode
    assert chosen.margin == 1 + MARGIN
    assert "which none has" in chosen.reason


@pytest.mark.parametrize("mode", ["sync", "ssp"])
def test_a_worker_that_is_always_slow_is_best_not_waited_for(
    mode: str, as_good_as_each_other: dict[str, float]
) -> None:
    as_good_as_each_other["async"] = 1.2
    chosen = after(Chooser(8), mode, straggler)
    assert chosen.mode == "async"
    # 4 / (0.4 + 0.011); 3 / (0.1 + 0.011) + 1 / (0.4 + 0.011); steps alone by pace, 8 and 2.
    round_s, pushed_s = 0.4 + 0.011, 0.8 + 8 * 0.001 + 0.011
    expected = {
        "sync": 4 / round_s,
        "async": 3 / 0.111 + 1 / round_s,
        "ssp": 4 / round_s,
        "local": 26 / pushed_s,
        "local-async": 24 / pushed_s + 2 / (0.8 + 2 * 0.001 + 0.011),
    }
    assert rates(chosen) == pytest.approx(
        {name: each * round_s / 4 for name, each in expected.items()}
    )


def test_now_one_and_now_another_slow_worker_is_a_case_for_not_waiting_in_turns() -> None:
    chosen = after(Chooser(8), "sync", jitter(), exchange_s=0.002)
    assert rates(chosen)["ssp"] == rates(chosen)["async"] > 1.3
    assert 1 < rates(chosen)["local"] < rates(chosen)["local-async"]
    assert not CANDIDATES[chosen.mode].in_rounds


def test_long_exchanges_are_a_case_for_training_alone() -> None:
    chosen = after(Chooser(8), "sync", equal, exchange_s=0.1)
    assert CANDIDATES[chosen.mode].mode.own_optimizer
    assert rates(chosen)["async"] == pytest.approx(1)


def test_what_one_gradient_is_worth_decides_between_equal_speeds(
    as_good_as_each_other: dict[str, float],
) -> None:
    as_good_as_each_other["ssp"] = 2.0
    chosen = after(Chooser(8), "sync", equal)
    assert chosen.mode == "ssp"
    (ssp,) = (one for one in chosen.compared if one.mode == "ssp")
    assert (ssp.worth, ssp.progress_per_s) == (2.0, 2.0 * ssp.gradients_per_s)


def test_the_numbers_that_are_told_lead_to_the_choice() -> None:
    for step_s in (equal, straggler, jitter()):
        chosen = after(Chooser(8), "sync", step_s)
        now, *_ = chosen.compared
        best = max(chosen.compared, key=lambda one: one.progress_per_s)
        goes = best.progress_per_s > chosen.margin * now.progress_per_s
        assert chosen.mode == (best.mode if goes else "sync")
        assert [one.mode for one in chosen.compared] == list(CANDIDATES)
        told = ", ".join(map(str, chosen.compared))
        needed = f"{chosen.margin * now.progress_per_s:.3g}"
        who = f"which {best.mode} has" if goes else "which none has"
        assert chosen.reason.startswith(
            f"gradients/s, times what one is worth: {told}; to change takes {chosen.margin:.3g} "
            f"times sync's, {needed}, {who}; a step takes "
        )


@pytest.mark.parametrize(("measured", "told"), [(True, " (measured)"), (False, "")])
def test_a_forecast_is_told_with_what_it_is_made_of(measured: bool, told: str) -> None:
    forecast = Forecast("ssp", 12.3456, measured, 0.5, 6.1728)
    assert str(forecast) == f"ssp 12.3 x 0.50 = 6.17{told}"


def test_the_speed_of_the_present_mode_is_what_was_measured() -> None:
    """And the others fall as short of what steps and exchanges say."""
    full, half = (turning(Chooser(8), period_s) for period_s in (0.111, 0.222))
    assert [one.measured for one in full.compared] == [True, False, False, False, False]
    assert rates(full) == pytest.approx(rates(half))
    for chosen, period_s in ((full, 0.111), (half, 0.222)):
        assert chosen.compared[0].gradients_per_s == pytest.approx(4 / period_s)


def turning(chooser: Chooser, period_s: float) -> Choice:
    """Return what is chosen where four workers push and are answered this often."""
    for turn in range(WINDOW + 1):
        for worker in range(4):
            chooser.pushed(worker, turn * period_s + 0.11, 1, 0.1, 3.0)
        for worker in range(4):
            chooser.answered(worker, (turn + 1) * period_s)
        chosen = chooser.choose("sync", 4, 0.001)
    assert chosen is not None
    return chosen


def test_what_was_seen_is_told_in_milliseconds() -> None:
    speeds = Speeds(
        {1: 0.12345, 2: 0.22345}, 1.5, 0.012345, 0.004994, 0.001994, 0.0012345, 0.0012345, 8
    )
    assert str(speeds) == (
        "a step takes 123 to 223 ms on average, the slowest of a turn 335 ms, an exchange 12.3 ms "
        "and 4.99 ms more for each that goes on beside it, averaging 1.99 ms, an update 1.23 ms"
    )


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_differ_by_chance_are_taken_for_equal(workers: int) -> None:
    dice = random.Random(5)
    chosen = after(
        *(Chooser(8), "sync", lambda _worker, _turn: 0.1 + 0.02 * dice.random()),
        workers=workers,
        exchange_s=0.1,
    )
    assert re.search(r"a step takes (\S+) to \1 ms", chosen.reason)


def test_in_a_mode_of_rounds_a_turn_is_as_long_as_its_slowest_step() -> None:
    chosen = after(Chooser(8), "sync", jitter(), exchange_s=0.002)
    mean, turn = re.findall(
        r"to ([\d.]+) ms on average, the slowest of a turn ([\d.]+) ms", chosen.reason
    )[0]
    assert float(turn) > 1.3 * float(mean)
    # What one has not seen of turns is not made up.
    chosen = after(Chooser(8), "local", equal, exchange_s=0.0, apply_s=0.0)
    assert "to 100 ms on average, the slowest of a turn 100 ms" in chosen.reason


@pytest.mark.parametrize(("mode", "pushes"), [("sync", WINDOW), ("ssp", WINDOW), ("local", ROUNDS)])
def test_to_stay_is_said_after_so_many_exchanges_of_each(mode: str, pushes: int) -> None:
    turns = 0

    def counted(worker: int, _turn: int) -> float:
        nonlocal turns
        turns += worker == 0
        return 0.1

    assert after(Chooser(8), mode, counted, exchange_s=0.0).mode == mode
    assert turns == pushes + 1  # of the first, nobody knows when its weights had come


@pytest.mark.parametrize(("gain", "part"), [(1.7, LOOKS[0]), (1.5, LOOKS[1]), (1.2, LOOKS[2])])
def test_the_clearer_it_is_the_sooner_it_is_decided(
    gain: float, part: float, as_good_as_each_other: dict[str, float]
) -> None:
    turns = 0

    def counted(worker: int, _turn: int) -> float:
        nonlocal turns
        turns += worker == 0
        return 0.1

    as_good_as_each_other["async"] = gain
    chosen = after(Chooser(8), "sync", counted, exchange_s=0.0)
    assert (chosen.mode, turns) == ("async", WINDOW * part + 1)
    assert chosen.margin == 1 + MARGIN / part < gain


def test_a_push_that_follows_no_answer_tells_of_no_exchange() -> None:
    chooser = Chooser(8)
    for worker in range(4):
        chooser.answered(worker, 0.0)
        for turn in range(2 * WINDOW):
            chooser.pushed(worker, turn + 0.4, 1, straggler(worker, turn), 3.0)
    assert chooser.choose("sync", 4, 0.0) is None


def test_one_update_of_each_gradient_and_one_link_are_what_bounds_those_that_do_not_wait() -> None:
    narrow = Speeds(dict.fromkeys(range(8), 0.1), 3.0, 0.01, 0.0, 0.0, 0.05, 0.0, local_steps=8)
    assert narrow.of(CANDIDATES["ssp"]) == pytest.approx(1 / 0.05)
    assert narrow.of(CANDIDATES["async"]) == pytest.approx(1 / 0.05)
    assert narrow.of(CANDIDATES["sync"]) == pytest.approx(8 / (3 * 0.1 + 0.06))
    averaged = replace(narrow, average_s=0.04)
    assert averaged.of(CANDIDATES["sync"]) == pytest.approx(8 / (0.3 + 0.06 + 0.04))
    assert averaged.of(CANDIDATES["ssp"]) == narrow.of(CANDIDATES["ssp"])
    queued = replace(narrow, queue_s=0.04, apply_s=0.0)
    assert queued.of(CANDIDATES["async"]) == pytest.approx(1 / 0.04)
    assert queued.of(CANDIDATES["local-async"]) == pytest.approx(64 / (8 * 0.1 + 0.01))
    assert queued.of(CANDIDATES["sync"]) == pytest.approx(8 / (0.3 + 0.01 + 7 * 0.04))


def test_once_workers_are_equal_again_local_is_left_where_a_gradient_teaches_less(
    as_good_as_each_other: dict[str, float],
) -> None:
    chooser = Chooser(8)
    as_good_as_each_other |= {"local": 0.75, "local-async": 0.7}
    assert after(chooser, "ssp", straggler, loss=lambda _turn: 3.0).mode == "async"
    chosen = after(chooser, "local", equal, exchange_s=0.0, loss=lambda _turn: 3.0)
    assert chosen.mode in ("sync", "ssp", "async")
    # With one step alone there is nothing that local gains.
    alone = Speeds({0: 0.1, 1: 0.1}, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, local_steps=1)
    assert alone.of(CANDIDATES["local"]) == 20.0


def test_a_step_alone_has_an_update_of_its_own() -> None:
    """Of the whole vector, where each server makes but a part of one."""
    for servers in (1, 2):
        chosen = after(Chooser(8, servers), "local", equal, exchange_s=0.0, apply_s=0.01)
        own_s = 0.1 - servers * 0.01
        expected = (32 / (0.8 + 0.01)) / (4 / (own_s + 0.01))
        assert rates(chosen)["local"] == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["local", "async"])
def test_a_mode_in_which_the_loss_rises_is_left_and_not_tried_again(
    mode: str, as_good_as_each_other: dict[str, float]
) -> None:
    chooser = Chooser(8)
    as_good_as_each_other[mode] = 2.0
    dice = random.Random(3)
    chosen = after(chooser, "sync", straggler, loss=lambda _turn: 3.0 + 0.1 * dice.random())
    assert chosen.mode == mode
    back = after(chooser, mode, straggler, loss=lambda _turn: 3.2 + 0.1 * dice.random())
    assert back.mode == "sync"
    assert f"since the change to {mode} the loss rose from 3.0" in back.reason
    assert after(chooser, "sync", straggler).mode not in ("sync", mode)


def test_the_way_back_is_to_the_mode_before_and_says_by_how_much_it_was_worse(
    as_good_as_each_other: dict[str, float],
) -> None:
    chooser = Chooser(8)
    as_good_as_each_other["local"] = 2.0
    chosen = after(chooser, "ssp", straggler, loss=lambda turn: 3.0 + 0.1 * (turn % 2))
    assert chosen.mode == "local"
    back = after(chooser, "local", straggler, loss=lambda turn: 3.3 + 0.1 * (turn % 2))
    assert back.mode == "ssp"
    # After the first exchanges of all four: the first push of each told of none.
    then = [3.0 + 0.1 * (turn % 2) for turn in range(1, 1 + WINDOW // 4) for _ in range(4)]
    now = [3.3 + 0.1 * (turn % 2) for turn in range(1, 2) for _ in range(4)]
    error = (variance(then) / len(then) + variance(now) / len(now)) ** 0.5
    assert f", {(fmean(now) - fmean(then)) / error:.1f} standard errors; it" in back.reason
    # Not to one that was given up before: to the first.
    as_good_as_each_other |= {"local": 1.0, "ssp": 3.0}
    flat = {"exchange_s": 0.0, "loss": lambda turn: 3.0 + 0.1 * (turn % 2)}
    assert after(chooser, "local", equal, **flat).mode == "ssp"  # type: ignore[arg-type]
    back = after(chooser, "ssp", equal, loss=lambda turn: 3.5 + 0.1 * (turn % 2))
    assert back.mode == "sync"


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (lambda dice: 3.0 + dice.random(), lambda dice: 3.1 + dice.random()),
        (lambda dice: 3.0 + dice.random(), lambda dice: 3.5 + 0.01 * dice.random()),
    ],
    ids=["within what chance does", "noisier before"],
)
def test_a_rise_within_what_chance_does_is_no_reason(
    before: Callable[[random.Random], float], now: Callable[[random.Random], float]
) -> None:
    chooser = Chooser(8)
    dice = random.Random(3)
    chosen = after(chooser, "sync", straggler, loss=lambda _turn: before(dice))
    assert after(chooser, chosen.mode, straggler, loss=lambda _turn: now(dice)).mode == chosen.mode
    assert RISE > 2


def test_losses_are_compared_with_those_right_before_the_change() -> None:
    chooser = Chooser(8)
    dice = random.Random(3)
    mode = after(chooser, "sync", straggler, loss=lambda _turn: 3.0 + 0.1 * dice.random()).mode
    for loss in (3.0, 3.5):
        chosen = after(chooser, mode, straggler, loss=lambda _, at=loss: at + 0.1 * dice.random())  # type: ignore[misc]
        assert chosen.mode == mode


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
            if worker == 2 and turn > 2:
                continue
            chooser.pushed(worker, turn + straggler(worker, turn), 1, straggler(worker, turn), 3.0)
            chooser.answered(worker, turn + 1.0)
        assert chooser.choose("sync", 4, 0.0) is None
    chooser.left(2)
    chosen = [chooser.choose("sync", 3, 0.0) for _ in LOOKS]
    assert chosen[:2] == [None, None]
    assert chosen[2] is not None
    assert chosen[2].mode == "sync", "the others are equal"


@pytest.mark.parametrize("mode", CANDIDATES)
def test_a_single_worker_waits_for_nobody(mode: str) -> None:
    chooser = Chooser(8)
    for step_s in (equal, lambda _worker, _turn: 0.0):
        chosen = after(chooser, mode, step_s, workers=1, exchange_s=0.0, apply_s=0.0)
        assert chosen.mode == mode
        assert " and 0 ms more for each" in chosen.reason


def test_after_a_change_one_loss_alone_says_nothing(
    as_good_as_each_other: dict[str, float],
) -> None:
    as_good_as_each_other["local"] = 2.0
    chooser = Chooser(8)
    assert after(chooser, "sync", equal, workers=1).mode == "local"
    assert after(chooser, "local", equal, workers=1, loss=lambda _turn: 9.0).mode == "sync"
