"""A PyTorch module on psdp's servers: mpirun -n 3 python examples/pytorch.py --mode local

Its parameters are views of psdp's flat vector of weights, and their .grad views of the flat
gradient: what lands from the servers is in the module, and what backward adds is on its way out,
without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import psdp

CLASSES, TRAIN, TEST = 3, 6000, 1500
generator = torch.Generator().manual_seed(0)
Y = torch.randint(CLASSES, (TRAIN + TEST,), generator=generator)
TURN = 4 * torch.rand(TRAIN + TEST, generator=generator)
ANGLE = TURN + Y * 2 * torch.pi / CLASSES + 0.2 * torch.randn(TRAIN + TEST, generator=generator)
X = torch.stack([TURN * ANGLE.cos(), TURN * ANGLE.sin()], dim=1)
"""Points on the arms of a spiral, of which the arm is to be told."""


def network() -> torch.nn.Module:
    """Return a fresh module."""
    return torch.nn.Sequential(
        torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(),
        torch.nn.Linear(64, CLASSES),
    )  # fmt: skip


class Spirals(psdp.Task):
    """Any module: the table of parameters is its own."""

    measures = ("accuracy",)
    validation_units = TEST

    def __init__(self, config: psdp.Config) -> None:
        self.units_per_batch = config.run.batch_size
        self.table = psdp.ParamTable(
            psdp.ParamSpec(name, tuple(parameter.shape), decay=parameter.ndim > 1)
            for name, parameter in network().named_parameters()
        )

    def initial(self, seed: int, dtype: Any) -> Any:
        torch.manual_seed(seed)
        flat = np.empty(self.table.size, dtype)
        views, module = self.table.views(flat), network()
        for name, parameter in module.named_parameters():
            views[name][...] = parameter.detach().numpy()
        return flat

    def batch(self, share: psdp.Share, number: int) -> Any:
        return share.rows(number, self.units_per_batch, of=TRAIN)

    def validation(self, part: int, parts: int) -> Iterator[Any]:
        yield np.arange(TRAIN + part, TRAIN + TEST, parts)

    def model(self, backend: Any, weights: Any, gradient: Any) -> psdp.Model:
        return ModuleOnViews(network(), self.table, weights, gradient)


class ModuleOnViews(psdp.Model):
    """A module whose parameters and gradients are views of two flat vectors."""

    def __init__(
        self, module: torch.nn.Module, table: psdp.ParamTable, weights: Any, gradient: Any
    ) -> None:
        self.loss = np.zeros(1)
        self.module = module
        torch.set_num_threads(1)  # the ranks share the cores
        views = table.views(torch.from_numpy(weights))
        gradients = None if gradient is None else table.views(torch.from_numpy(gradient))
        for name, parameter in module.named_parameters():
            parameter.data = views[name]
            parameter.grad = None if gradients is None else gradients[name]

    def add_gradient(self, batch: Any, step: psdp.Step) -> None:
        loss = step.scale * cross_entropy(self.module(X[batch]), Y[batch])
        loss.backward()
        self.loss += loss.item()
        if step.ready is not None:
            step.ready(slice(None))

    def evaluate(self, batch: Any) -> psdp.Measured:
        with torch.no_grad():
            logits = self.module(X[batch])
        loss = cross_entropy(logits, Y[batch], reduction="sum").item()
        return psdp.Measured(len(batch), loss, int((logits.argmax(1) == Y[batch]).sum()))


if __name__ == "__main__":
    run = psdp.run(Spirals, optimizer="adam", lr=0.01, max_steps=600, batch_size=50)
    if run:  # rank 0's
        task = Spirals(psdp.Config())
        module = network()
        weights = {name: torch.from_numpy(w) for name, w in psdp.load(run).items()}
        module.load_state_dict(weights)
        right = (module(X[TRAIN:]).argmax(1) == Y[TRAIN:]).float().mean().item()
        print(f"the loaded module tells {right:.1%} of {TEST} points right")
