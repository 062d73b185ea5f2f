"""What benchmarks train: models and batches of three sizes, and one training step of them in psdp
and in PyTorch.

A step is forward, backward, gradient clipping and AdamW. Both sides start from the same weights
and see the same batches, so they must report the same losses while rounding errors are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psdp import task
from psdp.backend import make_backend
from psdp.backend.threads import limit_blas
from psdp.config import Config, ModelConfig
from psdp.nn.transformer import Transformer, parameter_table
from psdp.optim import make_optimizer
from psdp.params import Array

SEED = 1337
LR = 3e-4
OPTIM = Config.from_flat({"lr": LR}).resolved().optim
# Rounding errors grow from step to step, the faster the higher the rate without a warm-up, so two
# correct programs drift apart in the end.
COMPARED_STEPS = 10
LOSS_TOLERANCE = 1e-4
BF16_LOSS_TOLERANCE = 0.05
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Step = Callable[[Array, Array], float]
"""Trains on tokens and targets (B, T); returns the loss before, nats a token."""


@dataclass(frozen=True)
class Side:
    """What is timed: a step, what is to be said of it, and, where that is not what the process has
    resident, the peak of its memory in bytes."""

    step: Step
    facts: dict[str, Any] = field(default_factory=dict)
    peak: Callable[[], int] | None = None


@dataclass(frozen=True)
class Size:
    """One model and batch; ``steps`` of them are one turn of a side."""

    model: ModelConfig
    vocab_size: int
    batch_size: int
    steps: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.model.block_size


SIZES = {
    "nano": Size(ModelConfig(4, 4, 128, 64), vocab_size=65, batch_size=12, steps=20),
    "baby": Size(ModelConfig(6, 6, 384, 256), vocab_size=65, batch_size=8, steps=2),
    "small": Size(ModelConfig(12, 12, 768, 256), vocab_size=8192, batch_size=2, steps=1),
}


def batches(size: Size) -> Iterator[tuple[Array, Array]]:
    """Yield tokens and targets (B, T) of an endless text in which every token fixes the next
    three times out of four, so that there is something to learn."""
    rng = np.random.default_rng(SEED)
    follower = rng.permutation(size.vocab_size)
    shape = (size.batch_size, size.model.block_size + 1)
    while True:
        text = rng.integers(0, size.vocab_size, shape)
        regular = rng.random(shape) < 0.75
        for t in range(1, shape[1]):
            text[:, t] = np.where(regular[:, t], follower[text[:, t - 1]], text[:, t])
        yield text[:, :-1], text[:, 1:]


class PsdpTrainer:
    """A model of psdp with its optimizer, as a worker and a server have them between them."""

    def __init__(
        self,
        size: Size,
        precision: str = "float32",
        threads: int = 1,
        device: str = "cpu",
        kernels: str = "auto",
    ) -> None:
        limit_blas(threads)
        self.backend = make_backend(
            device, "float32", kernels=kernels, precision=precision, threads=threads
        )
        table = parameter_table(size.model, size.vocab_size)
        self._weights = self.backend.zeros(table.size)
        self.backend.to_device(table.initial(SEED, "float32"), self._weights)
        self._gradient = self.backend.zeros(table.size)
        self._model = Transformer(
            size.model,
            size.vocab_size,
            size.batch_size,
            self.backend,
            self._weights,
            self._gradient,
        )
        self._optimizer = make_optimizer(OPTIM, table.parts(1)[0], self.backend)

    def gradient(self, tokens: Array, targets: Array) -> Array:
        """Compute the loss and its gradient (P,), which is returned."""
        self.backend.clear(self._gradient)
        self.backend.clear(self._model.loss)
        self._model.forward_backward(tokens, targets, task.Step())
        return self._gradient

    def loss(self) -> float:
        """Return the loss that was computed last."""
        return self._model.total_loss()

    def step(self, tokens: Array, targets: Array) -> float:
        """Take one training step; return the loss before it."""
        self.gradient(tokens, targets)
        coefficient = self.backend.clip_coefficient(self._gradient, OPTIM.grad_clip)
        self._optimizer.step(self._weights, self._gradient, LR, scale=coefficient)
        return self.loss()


def torch_step(size: Size, precision: str = "float32", *, compiled: bool = False) -> Step:
    """Return one training step of the same model in PyTorch, on one thread.

    With ``compiled`` the first step compiles, which takes a minute and needs a C++ compiler.
    """
    import torch
    from gpt_torch import make_gpt, make_step

    torch.set_num_threads(1)
    model = make_gpt(size.model, size.vocab_size, SEED)
    return make_step(torch.compile(model, dynamic=False) if compiled else model, OPTIM, precision)


def psdp_side(size: Size, precision: str, threads: int = 1) -> Side:
    """Return psdp's."""
    trainer = PsdpTrainer(size, precision, threads)
    return Side(trainer.step, {"kernels": trainer.backend.kernels})


def torch_side(size: Size, precision: str, compiled: bool) -> Side:
    """Return PyTorch's, eager or compiled."""
    return Side(torch_step(size, precision, compiled=compiled))
