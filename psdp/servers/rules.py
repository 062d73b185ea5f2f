"""How a server takes what workers push: a rule for each kind of push of the job's mode.

A rule is an optimizer with its learning rate and its limits. Nothing here knows when it is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from psdp.backend import Backend
from psdp.backend.squares import clip_coefficient
from psdp.job import Job
from psdp.modes import CANDIDATES, Pushed
from psdp.optim import Elastic, OnDevice, Optimizer, Outer, Schedule, make_optimizer
from psdp.params import Array, Part


@dataclass(frozen=True)
class Rule:
    """What is done with one kind of push.

    Attributes:
        lr: the learning rate after so many steps' worth of units.
        clip: the largest global norm; 0 for no limit.
        clip_value: the largest element; 0 for no limit.
    """

    optimizer: Optimizer
    lr: Callable[[float], float]
    clip: float = 0.0
    clip_value: float = 0.0


class Rules:
    """The rules of one shard. The optimizer of the first one is what is saved; any other one begins
    anew whenever its kind comes after another kind.

    Args:
        rules: by kind of push, none of which may be missing that comes.
    """

    def __init__(self, rules: Mapping[Pushed, Rule]) -> None:
        self._rules = dict(rules)
        self._saved = self._last = next(iter(self._rules))

    @property
    def optimizer(self) -> Optimizer:
        """The one whose state is saved."""
        return self._rules[self._saved].optimizer

    @property
    def updates(self) -> int:
        """Updates that were begun, by all rules together."""
        return sum(rule.optimizer.updates for rule in self._rules.values())

    def begin(self) -> None:
        """A term begins: what is not saved begins anew in it."""
        self._last = self._saved

    def lr(self, kind: Pushed, steps: float) -> float:
        """Return the learning rate of a kind of push after so many steps' worth of units."""
        return self._rules[kind].lr(steps)

    def update(self, kind: Pushed, weights: Array, pushed: Array, norm: float, lr: float) -> None:
        """Update ``weights`` (S,) in place by ``pushed`` (S,), which is part of something of this
        global norm."""
        rule = self._rules[kind]
        if kind not in (self._last, self._saved):
            rule.optimizer.clear()
        self._last = kind
        scale = clip_coefficient(norm, rule.clip)
        rule.optimizer.step(weights, pushed, lr, scale=scale, clip_value=rule.clip_value)


def make_rules(job: Job, part: Part, backend: Backend, device: Backend | None = None) -> Rules:
    """Return the rules of the shard that holds a part of the flat vector.

    Args:
        backend: of the vectors that are updated.
        device: a GPU that keeps the optimizers' vectors and updates, if that is another one.
    """

    def on(make: Callable[[Backend], Optimizer]) -> Optimizer:
        return make(backend) if device is None else OnDevice(make(device), backend)

    def rule_of(kind: Pushed) -> Rule:
        job = jobs[kind]
        optim = job.config.optim
        match kind:
            case Pushed.CHANGE | Pushed.SHARE:
                assert optim.outer_optimizer is not None, "settings are resolved"
                how: dict[str, Any] = {
                    "kind": optim.outer_optimizer,
                    "momentum": optim.outer_momentum or 0.0,
                    "arrivals": len(job.workers) if kind is Pushed.SHARE else 1,
                }
                lr = outer_lr(job)
                return Rule(on(lambda where: Outer(part, where, **how)), lambda _steps: lr)
            case Pushed.WEIGHTS:
                rate = job.elastic_rate
                return Rule(on(lambda where: Elastic(part, where)), lambda _steps: rate)
            case Pushed.GRADIENT | Pushed.NOTHING:
                # Where nothing is pushed it is the workers' optimizer, whose state is adopted.
                own = on(lambda where: make_optimizer(optim, part, where))
                schedule = Schedule(optim, job.config.run.max_steps)
                return Rule(own, schedule.lr, optim.grad_clip, optim.grad_clip_value)

    jobs = dict.fromkeys(job.pushes, job)
    if job.mode.chooses:
        jobs |= {kind: job.within(one) for one in CANDIDATES.values() for kind in one.pushes}
    return Rules({kind: rule_of(kind) for kind in job.pushes})


def outer_lr(job: Job) -> float:
    """Return the learning rate of the outer optimizer, which takes what workers changed on their
    own."""
    # A worker that is merged alone moves the weights by its share of 1 / workers, and goes on from
    # there: less than it has moved itself. Measured: docs/results.md.
    lr = job.config.optim.outer_lr
    return min(2.0, len(job.workers)) if lr is None else lr
