"""Where a training step goes: time, arithmetic and memory traffic by kind of layer.

The layers and kernels know nothing of it. :func:`profiled` puts a clock around the methods of every
layer of a model, and a counter around every kernel of its backend; what a layer does through other
layers counts for these.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from psdp.backend import Backend
from psdp.nn.transformer import Transformer

_METHODS = ("forward", "backward", "forward_backward")
_PRODUCTS = {"matmul", "add_product"}


@dataclass
class Cost:
    """What one kind of layer has taken so far."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


class Profile:
    """Costs by kind of layer, filled while its model trains."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.steps = 0
        self._now = now
        self._running: list[str] = []
        self._since = 0.0

    def enter(self, kind: str) -> None:
        """From now on time counts for ``kind``."""
        self._charge()
        self._running.append(kind)
        self.costs[kind].calls += 1

    def leave(self) -> None:
        """What was entered last is over."""
        self._charge()
        self._running.pop()
        self.steps += not self._running

    def count(self, kernel: str, arguments: tuple[Any, ...]) -> None:
        """Note a kernel's arithmetic (exactly for products) and each of its arrays' bytes once."""
        if self._running:
            cost = self.costs[self._running[-1]]
            arrays = [a for a in arguments if isinstance(a, np.ndarray)]
            cost.flops += _flops(kernel, arguments)
            cost.bytes += sum(array.nbytes for array in arrays)

    def _charge(self) -> None:
        now = self._now()
        if self._running:
            self.costs[self._running[-1]].seconds += now - self._since
        self._since = now

    def table(self) -> str:
        """Return a table, the most expensive kind first."""
        rows = sorted(self.costs.items(), key=lambda item: -item[1].seconds)
        total = Cost(
            seconds=sum(cost.seconds for _, cost in rows),
            flops=sum(cost.flops for _, cost in rows),
            bytes=sum(cost.bytes for _, cost in rows),
        )
        lines = [f"{'layer':<14}{'ms/step':>10}{'share':>8}{'calls':>7}{'GFLOP/s':>10}{'GB/s':>8}"]
        for kind, cost in [*rows, ("all", total)]:
            seconds, steps = max(cost.seconds, 1e-12), max(self.steps, 1)
            lines.append(
                f"{kind:<14}{1e3 * seconds / steps:10.2f}"
                f"{seconds / max(total.seconds, 1e-12):8.1%}"
                f"{cost.calls / steps:7.0f}{cost.flops / seconds / 1e9:10.1f}"
                f"{cost.bytes / seconds / 1e9:8.1f}"
            )
        return "\n".join(lines)


def _flops(kernel: str, arguments: tuple[Any, ...]) -> float:
    if kernel in _PRODUCTS:
        a, b, _ = arguments
        return float(2 * a.shape[0] * a.shape[1] * b.shape[1])
    if kernel.startswith("attention"):
        qkv, batch = arguments[0], arguments[1]
        count, width = qkv.shape[0], qkv.shape[1] / 3
        # Two products forward and five backward, each over the pairs of a query and a past key.
        products = 5 if kernel.endswith("backward") else 2
        return float(products * 2 * width * count * (count / batch + 1) / 2)
    return 0.0


def profiled(
    build: Callable[[Backend], Transformer], backend: Backend
) -> tuple[Transformer, Profile]:
    """Return a model that measures itself, and what it measures."""
    profile = Profile()
    model = build(_counting(backend, profile))
    for layer in _layers(model, set()):
        for name in _METHODS:
            if hasattr(layer, name):
                _clock(layer, name, profile)
    return model, profile


def _counting(backend: Backend, profile: Profile) -> Backend:
    """Return ``backend`` itself, with its kernels counted."""

    def counted(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(kernel)
        def call(*arguments: Any) -> Any:
            profile.count(name, arguments)
            return kernel(*arguments)

        return call

    for name in KERNELS:
        setattr(backend, name, counted(name, getattr(backend, name)))
    return backend


KERNELS = (
    "matmul", "add_product", "add_bias", "add_column_sums", "take_rows", "add_rows", "gelu",
    "gelu_backward", "relu", "relu_backward", "layer_norm", "layer_norm_backward", "attention",
    "attention_backward", "cross_entropy",
)  # fmt: skip


def _clock(layer: Any, name: str, profile: Profile) -> None:
    method = getattr(layer, name)

    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        profile.enter(type(layer).__name__)
        try:
            return method(*arguments, **named)
        finally:
            profile.leave()

    setattr(layer, name, call)


def _layers(layer: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a layer and all that it is made of."""
    if id(layer) in seen or not type(layer).__module__.startswith("psdp.nn"):
        return
    seen.add(id(layer))
    yield layer
    for part in list(vars(layer).values()):
        for child in part if isinstance(part, list) else [part]:
            yield from _layers(child, seen)
