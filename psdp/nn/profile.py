"""A model that measures itself: time, arithmetic and memory traffic by kind of layer.

Layers and kernels know nothing of it. A clock is put around the methods of every layer of a model,
and a counter around every kernel of its backend; what a layer does through other layers counts for
these. Only what happens inside an open span of the profile is noted, so that evaluations, which no
loop opens a span for, are left out.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from psdp.backend import Backend
from psdp.backend.base import KERNELS
from psdp.records.profile import OTHER, Profile
from psdp.task import Model

KINDS = {
    "Embedding": "embedding",
    "LayerNorm": "layer norm",
    "Linear": "linear",
    "ResidualLinear": "linear",
    "Attention": "attention",
    "Rotary": "rotary",
    "MLP": "activation",
    "Dropout": "dropout",
    "TiedHead": "head and loss",
    "Block": OTHER,
    "Transformer": OTHER,
}
"""What the work counts for that a class does itself, not through other layers."""

_PRODUCTS = ("matmul", "add_product", "affine", "affine_gelu", "add_affine")


def profiled(build: Callable[[Backend], Model], backend: Backend, profile: Profile) -> Model:
    """Return the model that ``build`` makes, measured by ``profile``; ``backend``, whose kernels
    are counted from now on, should serve this model alone."""
    _count_kernels(backend, profile)
    # A graph that is replayed would not come by what is measured.
    setattr(backend, "run_captured", lambda key, step: step())  # noqa: B010
    model = build(backend)
    for layer in _layers(model, set()):
        kind = KINDS[type(layer).__name__]
        for name in _methods(type(layer)):
            setattr(layer, name, _clocked(getattr(layer, name), kind, profile))
    return model


def clock_of(backend: Backend) -> Callable[[], float]:
    """Return a clock in seconds that waits for what a GPU has been asked to do."""

    def now() -> float:
        backend.synchronize()
        return time.perf_counter()

    return now


def cost_of(kernel: str, arguments: tuple[Any, ...]) -> tuple[float, int]:
    """Return the floating-point operations of a kernel's products (others count as none), and the
    bytes of the arrays that it is handed, each once; of a table of rows, those rows."""
    sizes = [int(getattr(argument, "nbytes", 0)) for argument in arguments]
    match kernel:
        case "embed":
            return 0.0, sizes[1] + sizes[3] + 2 * sizes[5]
        case "scatter_add":
            return 0.0, sizes[0] + 2 * sizes[1]
        case "attention":
            return 2 * _causal_flops(*arguments[:2]), sum(sizes)
        case "attention_backward":
            return 5 * _causal_flops(*arguments[:2]), sum(sizes)
        case _ if kernel in _PRODUCTS:
            a, b = arguments[:2]
            return 2.0 * a.shape[0] * a.shape[1] * b.shape[1], sum(sizes)
        case _:
            return 0.0, sum(sizes)


def _causal_flops(qkv: Any, batch: int) -> float:
    """Return the operations of one product over all pairs of a query and a key not after it."""
    count, width = qkv.shape[0], qkv.shape[1] // 3
    return float(width * count * (count // batch + 1))


def _count_kernels(backend: Backend, profile: Profile) -> None:
    inside: list[str] = []

    def counted(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(kernel)
        def call(*arguments: Any) -> Any:
            if profile.running and not inside:  # a kernel that calls others counts for them
                profile.count(*cost_of(name, arguments))
            inside.append(name)
            try:
                return kernel(*arguments)
            finally:
                inside.pop()

        return call

    for name in KERNELS:
        setattr(backend, name, counted(name, getattr(backend, name)))


def _clocked(method: Callable[..., Any], kind: str, profile: Profile) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        if not profile.running:
            return method(*arguments, **named)
        with profile.span(kind):
            return method(*arguments, **named)

    return call


def _methods(of: type) -> list[str]:
    """Return the names of the public methods that a class itself defines."""
    return [n for n, member in vars(of).items() if inspect.isfunction(member) and n[0] != "_"]


def _layers(part: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a layer and all that it is made of."""
    if id(part) in seen or not type(part).__module__.startswith("psdp.nn"):
        return
    seen.add(id(part))
    if hasattr(part, "forward") or hasattr(part, "forward_backward"):
        yield part
    for inner in list(vars(part).values()):
        for child in inner if isinstance(inner, list) else [inner]:
            yield from _layers(child, seen)
