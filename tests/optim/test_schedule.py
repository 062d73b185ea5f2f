"""The learning rate against closed forms and PyTorch's schedulers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psdp.config import OptimConfig
from psdp.optim import Schedule

SHAPES = ("constant", "linear", "cosine", "inverse-sqrt", "wsd")


def schedule(
    shape: str,
    *,
    warmup: int = 10,
    max_steps: int = 100,
    lr: float = 1.0,
    min_lr: float = 0.1,
    **more: Any,
) -> Schedule:
    config = OptimConfig(lr=lr, min_lr=min_lr, lr_schedule=shape, warmup_steps=warmup, **more)
    return Schedule(config, max_steps)


@pytest.mark.parametrize("shape", SHAPES)
def test_warmup_rises_linearly_from_above_zero_to_lr(shape: str) -> None:
    lr = schedule(shape, warmup=4, lr=0.5).lr
    assert [lr(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert lr(1.5) == pytest.approx(0.25)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_warmup_the_first_step_has_the_full_lr(shape: str) -> None:
    assert schedule(shape, warmup=0).lr(0) == 1.0


def test_constant_never_falls() -> None:
    lr = schedule("constant").lr
    assert lr(10) == lr(99) == lr(1000) == 1.0


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_decays_are_half_way_at_half_time_and_stay_at_the_end(shape: str) -> None:
    lr = schedule(shape).lr
    assert lr(10) == 1.0
    assert lr(55) == pytest.approx(0.55)
    assert lr(100) == lr(100.5) == lr(1e9) == 0.1


def test_inverse_sqrt_halves_when_steps_are_four_times_the_warmup() -> None:
    lr = schedule("inverse-sqrt").lr
    assert [lr(10), lr(40), lr(90)] == pytest.approx([1.0, 1 / 2, 1 / 3])
    assert lr(1e9) == 0.1
    assert schedule("inverse-sqrt", warmup=0).lr(3) == pytest.approx(1 / 2)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_decays_equal_pytorchs(shape: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference: torch.optim.lr_scheduler.LRScheduler
    if shape == "linear":
        reference = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=100)
    else:
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0.1)
    ours = schedule(shape, warmup=0)
    for step in range(101):
        assert ours.lr(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(("shape", "half_way"), [("linear", 0.55), ("1-sqrt", 1 - 0.9 / 2**0.5)])
def test_wsd_is_stable_until_it_falls_at_the_end(shape: str, half_way: float) -> None:
    lr = schedule("wsd", decay_fraction=0.2, decay_shape=shape).lr
    assert lr(10) == lr(50) == lr(80) == 1.0
    assert lr(90) == pytest.approx(half_way)
    assert lr(100) == lr(1000) == 0.1
    assert schedule("wsd", decay_fraction=0.0).lr(99.9) == 1.0
    always = schedule("wsd", decay_fraction=0.95)  # but for the warm-up
    assert always.lr(55) == pytest.approx(schedule("linear").lr(55))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [100, 150])
def test_a_warmup_as_long_as_the_budget_is_no_error(shape: str, warmup: int) -> None:
    lr = schedule(shape, warmup=warmup).lr
    assert lr(99) == pytest.approx(100 / (warmup + 1))
    assert lr(warmup) in (0.1, 1.0)


@given(
    shape=st.sampled_from(SHAPES),
    warmup=st.integers(0, 50),
    max_steps=st.integers(1, 200),
    steps=st.floats(0, 500),
    ahead=st.floats(0, 500),
)
def test_after_the_warmup_it_never_rises_and_never_leaves_its_bounds(
    shape: str, warmup: int, max_steps: int, steps: float, ahead: float
) -> None:
    lr = schedule(shape, warmup=warmup, max_steps=max_steps).lr
    early, late = lr(warmup + steps), lr(warmup + steps + ahead)
    assert 0.1 <= late <= early <= 1.0


@given(shape=st.sampled_from(SHAPES), warmup=st.integers(1, 50))
def test_the_decay_begins_where_the_warmup_ends(shape: str, warmup: int) -> None:
    lr = schedule(shape, warmup=warmup, max_steps=1000).lr
    assert lr(math.nextafter(warmup, 0)) == pytest.approx(1.0, rel=1e-12)
    assert lr(math.nextafter(warmup, math.inf)) == pytest.approx(1.0, rel=1e-12)
