"""Update rules and the learning-rate schedule, as the servers run them.

Everything works in place on the flat vectors of one shard. One rule a file; what a rule computes
is what PyTorch's optimizer of that name computes. No MPI and no clock here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Protocol

from psdp.backend import Backend
from psdp.optim.adagrad import Adagrad
from psdp.optim.adam import Adam, AdamW
from psdp.optim.averaging import WeightAverage
from psdp.optim.base import Optimizer
from psdp.optim.delay import DelayCompensation
from psdp.optim.momentum import Momentum
from psdp.optim.muon import Muon
from psdp.optim.on_device import OnDevice
from psdp.optim.outer import Elastic, Outer
from psdp.optim.schedule import Schedule
from psdp.optim.sgd import SGD
from psdp.params import Part

__all__ = [
    "OPTIMIZERS",
    "DelayCompensation",
    "Elastic",
    "OnDevice",
    "Optimizer",
    "Outer",
    "Schedule",
    "WeightAverage",
    "make_optimizer",
]

OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {rule.name: rule for rule in (AdamW, Adam, SGD, Momentum, Adagrad, Muon)}
)
"""The rules that ``--optimizer`` names, the default first. A new one is a file and its line here:
its flags and its defaults are what it says of itself."""


class Chosen(Protocol):
    """Settings that say which rule; those of the rule are attributes by their names."""

    @property
    def optimizer(self) -> str: ...


def make_optimizer(config: Chosen, part: Part, backend: Backend) -> Optimizer:
    """Return the rule that ``config`` names, for a part of the flat vector, with the kernels of
    ``backend``. What ``config`` leaves open is the rule's default."""
    rule = OPTIMIZERS[config.optimizer]
    told = {f.name: getattr(config, f.name) for f in fields(rule.settings_type)}
    usual = {name: rule.defaults.get(name) for name, value in told.items() if value is None}
    return rule(rule.settings_type(**told | usual), part, backend)
