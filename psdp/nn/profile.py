"""A model that measures itself: time, arithmetic and memory traffic by kind of layer.

Layers say of which kind they are, kernels what they cost, and know no more of it. A clock is put
around the methods of every layer of a model, and a counter around every kernel of its backend; what
a layer does through other layers counts for these. Only what happens inside an open span of the
profile is noted, so that evaluations, which no loop opens a span for, are left out.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from psdp.backend import Backend
from psdp.backend.costs import COSTS, Cost
from psdp.nn.layer import Layer
from psdp.records.profile import Profile
from psdp.task import Model


def profiled(build: Callable[[Backend], Model], backend: Backend, profile: Profile) -> Model:
    """Return the model that ``build`` makes, measured by ``profile``; ``backend``, whose kernels
    are counted from now on, should serve this model alone."""
    _count_kernels(backend, profile)
    # A graph that is replayed would not come by what is measured.
    setattr(backend, "run_captured", lambda key, step: step())  # noqa: B010
    model = build(backend)
    for layer in _layers(model, set()):
        for name in _methods(type(layer)):
            setattr(layer, name, _clocked(getattr(layer, name), layer.kind, profile))
    return model


def clock_of(backend: Backend) -> Callable[[], float]:
    """Return a clock in seconds that waits for what a GPU has been asked to do."""

    def now() -> float:
        backend.synchronize()
        return time.perf_counter()

    return now


def _count_kernels(backend: Backend, profile: Profile) -> None:
    inside: list[str] = []

    def counted(name: str, kernel: Callable[..., Any], cost: Cost) -> Callable[..., Any]:
        @wraps(kernel)
        def call(*arguments: Any) -> Any:
            if profile.running and not inside:  # a kernel that calls others counts for them
                profile.count(*cost(*arguments))
            inside.append(name)
            try:
                return kernel(*arguments)
            finally:
                inside.pop()

        return call

    for name, cost in COSTS.items():
        setattr(backend, name, counted(name, getattr(backend, name), cost))


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


def _layers(part: Any, seen: set[int]) -> Iterator[Layer]:
    """Yield all layers that a model or a layer is made of, itself among them."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, Layer):
        yield part
    for inner in list(vars(part).values()):
        for child in inner if isinstance(inner, list) else [inner]:
            if isinstance(child, Layer):
                yield from _layers(child, seen)
