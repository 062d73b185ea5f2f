"""How fast one core trains: psdp against the same GPT written in eager PyTorch.

    python benchmarks/compute.py [--sizes nano baby] [--pairs 15] [--json FILE]

A step is forward, backward, gradient clipping and AdamW, in float32. Both sides start from the same
weights, see the same batches, and must report the same losses while rounding errors are small. Each
lives in its own process, so that thread pools and allocators do not meet; both are pinned to the
same core and take turns, a few steps at a time, so that whatever else slows the machine slows both.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import numpy as np
from intervals import median

from psdp.backend import make_backend
from psdp.config import ModelConfig, OptimConfig
from psdp.nn.transformer import Transformer, parameter_table
from psdp.optim import clip_factor, make_optimizer, sum_of_squares
from psdp.params import Array

SEED = 1337
OPTIM = OptimConfig()
# Rounding errors grow from step to step, so two correct programs drift apart in the end.
COMPARED_STEPS = 20
LOSS_TOLERANCE = 1e-4
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Size:
    """One model and batch; ``steps`` of each side make half a pair."""

    model: ModelConfig
    vocab_size: int
    batch_size: int
    steps: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.model.block_size


SIZES = {
    "nano": Size(ModelConfig(4, 4, 128, 64), vocab_size=65, batch_size=12, steps=10),
    "baby": Size(ModelConfig(6, 6, 384, 256), vocab_size=65, batch_size=8, steps=1),
}

Step = Callable[[Array, Array], float]


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


def psdp_step(size: Size) -> Step:
    """Return one training step of psdp."""
    backend = make_backend("cpu", "float32")
    table = parameter_table(size.model, size.vocab_size)
    weights = table.initial(SEED, "float32")
    gradient = np.zeros_like(weights)
    model = Transformer(size.model, size.vocab_size, size.batch_size, backend, weights, gradient)
    optimizer = make_optimizer(OPTIM, table.size, table.decayed_size, backend)

    def step(tokens: Array, targets: Array) -> float:
        gradient.fill(0)
        loss = model.forward_backward(tokens, targets)
        norm = math.sqrt(sum_of_squares(gradient))
        optimizer.step(weights, gradient, OPTIM.lr, scale=clip_factor(norm, OPTIM.grad_clip))
        return loss

    return step


def torch_step(size: Size) -> Step:
    """Return one training step of the same model in eager PyTorch."""
    import torch
    from gpt_torch import make_gpt, make_step

    torch.set_num_threads(1)
    return make_step(make_gpt(size.model, size.vocab_size, SEED), OPTIM)


SIDES = {"psdp": psdp_step, "torch": torch_step}


def serve(side: str, size: Size, core: int, pipe: Connection) -> None:
    """Run in a process of its own: for each number received, take so many steps; answer with the
    seconds they took and their losses."""
    os.sched_setaffinity(0, {core})
    step, data = SIDES[side](size), batches(size)
    while count := pipe.recv():
        inputs = [next(data) for _ in range(count)]
        start = time.perf_counter()
        losses = [step(tokens, targets) for tokens, targets in inputs]
        pipe.send((time.perf_counter() - start, losses))


class Side:
    """A process that trains on command."""

    def __init__(self, name: str, size: Size, core: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        # A daemon: if this process fails, the side goes too instead of waiting for ever.
        self.process = context.Process(target=serve, args=(name, size, core, far_end), daemon=True)
        self.process.start()
        far_end.close()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def take(self, steps: int, *, timed: bool = True) -> None:
        self.pipe.send(steps)
        seconds, losses = self.pipe.recv()
        self.losses += losses
        if timed:
            self.seconds.append(seconds / steps)

    def stop(self) -> None:
        self.pipe.send(0)
        self.process.join()


@dataclass(frozen=True)
class Result:
    """Medians over the pairs; a ratio above 1 says psdp is faster. The interval holds 95 %."""

    size: str
    pairs: int
    psdp_tokens_per_s: float
    torch_tokens_per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    largest_loss_difference: float


def measure(name: str, pairs: int, core: int) -> Result:
    """Time ``pairs`` interleaved pairs; the side that goes first alternates."""
    size = SIZES[name]
    ours, theirs = Side("psdp", size, core), Side("torch", size, core)
    for side in (ours, theirs):
        side.take(2, timed=False)
    for pair in range(pairs):
        for side in (ours, theirs) if pair % 2 else (theirs, ours):
            side.take(size.steps)
    ours.stop()
    theirs.stop()
    ratio = median(np.array(theirs.seconds) / np.array(ours.seconds))
    differences = np.array(ours.losses) - np.array(theirs.losses)
    return Result(
        name,
        pairs,
        size.tokens_per_step / statistics.median(ours.seconds),
        size.tokens_per_step / statistics.median(theirs.seconds),
        ratio.value,
        ratio.low,
        ratio.high,
        float(np.abs(differences[:COMPARED_STEPS]).max()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    # The children read these when they import NumPy and PyTorch.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

    print(
        f"{'size':6}{'psdp tok/s':>12}{'torch tok/s':>13}{'ratio':>8}   95 % of the median"
        f"{'loss diff':>12}"
    )
    results = []
    for name in options.sizes:
        result = measure(name, options.pairs, options.core)
        results.append(asdict(result))
        print(
            f"{name:6}{result.psdp_tokens_per_s:12.0f}{result.torch_tokens_per_s:13.0f}"
            f"{result.ratio:8.3f}   {result.ratio_low:.3f} .. {result.ratio_high:.3f}"
            f"{result.largest_loss_difference:17.1e}",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=2)
    apart = [r["size"] for r in results if not r["largest_loss_difference"] < LOSS_TOLERANCE]
    if apart:
        print(f"losses differ by {LOSS_TOLERANCE} or more: {', '.join(apart)}", file=sys.stderr)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
