"""Settings of the optimizer. What an update rule has of its own, it says itself (psdp.optim)."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import Field, dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Any

from psdp.fields import setting
from psdp.modes import Merge
from psdp.optim import OPTIMIZERS


@dataclass(frozen=True)
class ScheduleConfig:
    """The optimizer, which runs on the servers, and its schedule, which advances with tokens."""

    optimizer: str = setting(next(iter(OPTIMIZERS)), "update rule", choices=tuple(OPTIMIZERS))
    lr: float | None = setting(None, "highest learning rate", low=0)
    min_lr: float | None = setting(None, "where a decay ends (default lr / 10)", low=0)
    lr_schedule: str = setting(
        "cosine",
        "shape after the warm-up",
        choices=("constant", "linear", "cosine", "inverse-sqrt", "wsd"),
    )
    decay_fraction: float = setting(
        0.2, "of the steps, the last ones, in which wsd falls (else it is stable)", low=0, below=1
    )
    decay_shape: str = setting("linear", "of that fall", choices=("linear", "1-sqrt"))
    warmup_steps: int | None = setting(
        None, "steps of linear warm-up (default a twentieth of --max-steps, at most 100)", low=0
    )


@dataclass(frozen=True)
class LimitsConfig:
    """What a gradient is held to, and what servers do with what is no plain gradient."""

    weight_decay: float | None = setting(
        None, "on matrices; decoupled in adamw and muon, l2 elsewhere", low=0
    )
    l1: float = setting(0.0, "l1 penalty on matrices", low=0)
    label_smoothing: float = setting(
        0.0,
        "part of a target's probability that is spread over all tokens, in training alone",
        low=0,
        below=1,
    )
    grad_clip: float = setting(1.0, "largest global gradient norm (0: no limit)", low=0)
    grad_clip_value: float = setting(0.0, "largest gradient element (0: no limit)", low=0)
    ema: float = setting(
        0.0,
        "evaluate an exponential moving average of the weights, and keep it in checkpoints: what "
        "of it is left after a step, such as 0.99 (0: none)",
        low=0,
        below=1,
    )
    lag_compensation: str = setting(
        "none",
        "of a gradient that is L versions late: inverse divides the "
        "learning rate by L, dc-asgd corrects the gradient by how far the weights have moved",
        choices=("none", "inverse", "dc-asgd"),
    )
    outer_optimizer: str | None = setting(
        None,
        "what the server does with what workers changed",
        choices=("average", "momentum", "nesterov"),
    )
    outer_lr: float | None = setting(
        None,
        f"learning rate of the outer optimizer (default 1; to average with --merge {Merge.EACH} 2, "
        "or 1 for a lone worker)",
        low=0,
    )
    outer_momentum: float | None = setting(
        None,
        "of the outer optimizer (default 0.5 with momentum, 0.65 with nesterov)",
        low=0,
        below=1,
    )
    elastic_rate: float | None = setting(
        None,
        "how far server and worker move towards one another at an exchange (default 0.9 / workers)",
        low=0,
        below=1,
    )


def _own() -> Iterator[Field[Any]]:
    """Yield the fields of the rules' own settings, each once."""
    shared = {f.name for f in fields(LimitsConfig)}
    for rule in OPTIMIZERS.values():
        for f in fields(rule.settings_type):
            if f.name not in shared:
                shared.add(f.name)
                yield f


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class OptimConfig(ScheduleConfig, LimitsConfig):
        """These, and between them what any rule has of its own: a field each."""

        def __getattr__(self, name: str) -> Any: ...

else:
    OptimConfig = make_dataclass(
        "OptimConfig",
        [
            (f.name, f.type, copy(f))
            for f in (*fields(ScheduleConfig), *_own(), *fields(LimitsConfig))
        ],
        namespace={"__doc__": ScheduleConfig.__doc__, "__module__": __name__},
        frozen=True,
    )
