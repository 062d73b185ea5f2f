"""Settings of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.fields import setting
from psdp.modes import Merge


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, which runs on the servers, and its schedule, which advances with tokens."""

    optimizer: str = setting(
        "adamw", "update rule", choices=("sgd", "momentum", "adagrad", "adam", "adamw")
    )
    lr: float = setting(1e-3, "highest learning rate", low=0)
    min_lr: float | None = setting(None, "where a decay ends (default lr / 10)", low=0)
    lr_schedule: str = setting(
        "cosine",
        "shape after the warm-up",
        choices=("constant", "linear", "cosine", "inverse-sqrt"),
    )
    warmup_steps: int | None = setting(
        None, "steps of linear warm-up (default a twentieth of --max-steps, at most 100)", low=0
    )
    beta1: float | None = setting(
        None,
        "decay of Adam's first moment",
        low=0,
        below=1,
    )
    beta2: float = setting(0.99, "decay of Adam's second moment", low=0, below=1)
    momentum: float = setting(0.9, "of the momentum optimizer", low=0, below=1)
    weight_decay: float = setting(0.1, "on matrices; decoupled in adamw, l2 elsewhere", low=0)
    l1: float = setting(0.0, "l1 penalty on matrices", low=0)
    grad_clip: float = setting(1.0, "largest global gradient norm (0: no limit)", low=0)
    grad_clip_value: float = setting(0.0, "largest gradient element (0: no limit)", low=0)
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
