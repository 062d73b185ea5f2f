"""What a server does with each kind of push: a rule each, made from what the mode pushes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.config import Config
from psdp.job import Job
from psdp.language import Language
from psdp.modes import MODES, Pushed
from psdp.params import Part
from psdp.servers.rules import Rules, make_rules, outer_lr

SIZE = 20


def job(ranks: int = 3, **settings: Any) -> Job:
    small = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8, "dtype": "float64"}
    config = Config.from_flat(small | settings).resolved()
    return Job(config, ranks, Language(config, 10))


def rules(**settings: Any) -> Rules:
    return make_rules(job(**settings), Part(range(SIZE), 0), make_backend("cpu", "float64"))


@pytest.mark.parametrize("mode", list(MODES.values()), ids=str)
def test_every_kind_that_a_mode_pushes_has_a_rule_and_no_other(mode: Any) -> None:
    made = rules(mode=mode.name)
    for kind in Pushed:
        if kind in mode.pushes:
            assert made.lr(kind, 0.0) > 0
        else:
            with pytest.raises(KeyError):
                made.lr(kind, 0.0)


def test_a_gradient_is_followed_down_a_change_undone_and_weights_drawn_near() -> None:
    pushed = np.linspace(-1.0, 1.0, SIZE)
    start = np.full(SIZE, 3.0)
    for mode, kind, lr, expected in (
        ({"mode": "sync", "optimizer": "sgd"}, Pushed.GRADIENT, 0.5, start - 0.5 * pushed),
        ({"mode": "local", "outer_optimizer": "average"}, Pushed.CHANGE, 1.0, start - pushed),
        ({"mode": "easgd"}, Pushed.WEIGHTS, 0.25, start + 0.25 * (pushed - start)),
    ):
        weights = start.copy()
        rules(**mode).update(kind, weights, pushed, norm=0.1, lr=lr)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_gradients_are_clipped_by_the_norm_and_nothing_else_is() -> None:
    pushed, clip = np.ones(SIZE), {"grad_clip": 1.0}
    for mode, kind, scale in (
        ({"mode": "sync", "optimizer": "sgd"}, Pushed.GRADIENT, 1 / 10),
        ({"mode": "local", "outer_optimizer": "average"}, Pushed.CHANGE, 1),
        ({"mode": "easgd"}, Pushed.WEIGHTS, 1),
    ):
        weights = np.zeros(SIZE)
        rules(**mode, **clip).update(kind, weights, pushed, norm=10.0, lr=1.0)
        np.testing.assert_allclose(np.abs(weights), scale, rtol=1e-6)  # 1e-6 joins the norm


def test_an_outer_momentum_begins_anew_after_gradients() -> None:
    """In a run that has both; only the optimizer of gradients is saved, and keeps its state."""
    both = rules(mode="auto", outer_optimizer="momentum", outer_momentum=0.5, optimizer="momentum")
    change, gradient = np.ones(SIZE), np.zeros(SIZE)
    moved = []
    for kind in (Pushed.CHANGE, Pushed.CHANGE, Pushed.GRADIENT, Pushed.CHANGE):
        weights = np.zeros(SIZE)
        pushed = change if kind is Pushed.CHANGE else gradient
        both.update(kind, weights, pushed, norm=1.0, lr=1.0)
        moved.append(-float(weights[0]))
    assert moved == [1.0, 1.5, 0.0, 1.0]
    assert (set(both.optimizer.state()), both.optimizer.updates) == ({"velocity"}, 1)


def test_what_is_saved_goes_on_after_another_kind() -> None:
    both = rules(mode="auto", optimizer="momentum", momentum=0.5, weight_decay=0.0)
    moved = []
    for kind in (Pushed.GRADIENT, Pushed.CHANGE, Pushed.GRADIENT):
        weights = np.zeros(SIZE)
        both.update(kind, weights, np.full(SIZE, 0.1), norm=0.1, lr=1.0)
        moved.append(-float(weights[0]))
    assert moved[2] == pytest.approx(1.5 * moved[0])


@pytest.mark.parametrize(
    ("ranks", "settings", "expected"), [(3, {}, 2.0), (2, {}, 1.0), (2, {"outer_lr": 1.5}, 1.5)]
)
def test_workers_that_are_merged_alone_count_twice_their_share(
    ranks: int, settings: dict[str, Any], expected: float
) -> None:
    merged_alone = job(ranks, mode="local", merge="async", **settings)
    assert outer_lr(merged_alone) == expected
    made = make_rules(merged_alone, Part(range(SIZE), 0), make_backend("cpu", "float64"))
    assert made.lr(Pushed.SHARE, 7.0) == expected


def test_a_mode_that_chooses_takes_a_mean_with_momentum_and_each_alone_without() -> None:
    both = rules(mode="auto", outer_optimizer="nesterov", outer_momentum=0.5)
    assert (both.lr(Pushed.CHANGE, 7.0), both.lr(Pushed.SHARE, 7.0)) == (1.0, 2.0)
    moved = []
    for kind in (Pushed.CHANGE, Pushed.CHANGE, Pushed.SHARE, Pushed.SHARE, Pushed.CHANGE):
        weights = np.zeros(SIZE)
        both.update(kind, weights, np.ones(SIZE), norm=1.0, lr=both.lr(kind, 7.0))
        moved.append(-float(weights[0]))
    assert moved == [1.5, 1.75, 1.0, 1.0, 1.5]
