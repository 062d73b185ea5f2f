"""Update rules and the learning-rate schedule, as the servers run them.

Everything works in place on the flat vectors of one shard. One rule a file; what a rule computes
is what PyTorch's optimizer of that name computes. No MPI, no clock and no parameter names here.
"""

from __future__ import annotations

from psdp.backend import Backend
from psdp.config import OptimConfig
from psdp.optim.adagrad import Adagrad
from psdp.optim.adam import Adam, AdamW
from psdp.optim.base import Optimizer
from psdp.optim.delay import DelayCompensation
from psdp.optim.momentum import Momentum
from psdp.optim.on_device import OnDevice
from psdp.optim.outer import Elastic, Outer
from psdp.optim.schedule import Schedule
from psdp.optim.sgd import SGD

__all__ = [
    "DelayCompensation",
    "Elastic",
    "OnDevice",
    "Optimizer",
    "Outer",
    "Schedule",
    "make_optimizer",
]

_RULES: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
}


def make_optimizer(
    config: OptimConfig, size: int, decayed_size: int, backend: Backend
) -> Optimizer:
    """Return the rule that ``config`` names, for a shard (size,) led by ``decayed_size`` elements
    of matrices, with the kernels of ``backend``."""
    return _RULES[config.optimizer](config, size, decayed_size, backend)
