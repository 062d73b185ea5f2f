"""Each layer's backward pass equals central differences of its forward pass, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import TINY, build

from psdp.architectures import ACTIVATIONS
from psdp.backend import make_backend
from psdp.nn.arena import Arena, Parameters
from psdp.nn.attention import Attention
from psdp.nn.block import Block
from psdp.nn.embedding import Embedding
from psdp.nn.layernorm import LayerNorm
from psdp.nn.linear import Linear
from psdp.nn.loss import Head
from psdp.nn.parts import feed_forward_of
from psdp.nn.positions import Rotary
from psdp.nn.rmsnorm import HeadNorm, RMSNorm
from psdp.nn.value_embedding import ValueEmbedding
from psdp.params import Array, Init, ParamSpec, ParamTable

# Central differences in float64: a step of 1e-5 leaves a truncation error around 1e-10 of the third
# derivative and a rounding error around 1e-16 / 1e-5.
STEP, TOLERANCE = 1e-5, 2e-8

BATCH, LENGTH = 2, 6
ROWS, WIDTH = BATCH * LENGTH, TINY.n_embd
SOME = Init("normal", 0.4)
NO_IDS = np.empty(0, np.intp)


class Bench:
    """Parameters of one layer in flat vectors, and memory for it."""

    def __init__(self, specs: list[ParamSpec]) -> None:
        self.rng = np.random.default_rng(3)
        table = ParamTable(specs)
        self.weights = self.rng.standard_normal(table.size) * 0.5
        self.gradient = np.zeros(table.size)
        self.parameters = Parameters.of(table, self.weights, self.gradient)
        self.arena = Arena(make_backend("cpu", "float64"), BATCH * TINY.block_size, training=True)

    def check(
        self,
        x: Array,
        forward: Callable[[Array], Array],
        backward: Callable[[Array, Array], Array],
    ) -> None:
        """Compare dL/dx and dL/dparameters of L = sum(random * forward(x)) with differences."""
        readout = self.rng.standard_normal(forward(x).shape)
        dx = backward(x, readout.copy())

        def loss() -> float:
            return float((forward(x) * readout).sum())

        np.testing.assert_allclose(dx, differences(loss, x), rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(
            self.gradient, differences(loss, self.weights), rtol=TOLERANCE, atol=TOLERANCE
        )


def differences(loss: Callable[[], float], at: Array) -> Array:
    """Return the central difference of ``loss`` for each element of ``at``."""
    result = np.empty_like(at)
    for index in np.ndindex(at.shape):
        kept = at[index]
        at[index] = kept + STEP
        above = loss()
        at[index] = kept - STEP
        result[index] = (above - loss()) / (2 * STEP)
        at[index] = kept
    return result


def written(write: Callable[..., Any], *arguments: Any, like: Array) -> Array:
    """Call ``write(*arguments, out)`` with a new array and return it."""
    out = np.full_like(like, np.nan)
    write(*arguments, out)
    return out


def added(add: Callable[..., Any], x: Array, *arguments: Any) -> Array:
    """Call ``add(x, *arguments)`` to add to an array of ones like x; return what it added."""
    out = np.ones_like(x)
    add(x, out, *arguments)
    return out - 1


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    bench = Bench(Linear.specs("layer", WIDTH, 7, SOME, bias))
    layer = Linear(bench.parameters.under("layer"), bench.arena)
    x, y = bench.rng.standard_normal((ROWS, WIDTH)), np.empty((ROWS, 7))
    bench.check(
        x,
        lambda x: written(layer.forward, x, like=y),
        lambda x, dy: written(layer.backward, x, dy, like=x),
    )


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_adds_its_gradient_to_dx(bias: bool) -> None:
    bench = Bench(LayerNorm.specs("layer", WIDTH, bias))
    layer = LayerNorm(0.1, bench.parameters.under("layer"), bench.arena)
    x = bench.rng.standard_normal((ROWS, WIDTH))

    def backward(x: Array, dy: Array) -> Array:
        dx = np.ones_like(x)
        layer.backward(dy, dx)
        return dx - 1

    bench.check(x, lambda x: written(layer.forward, x, like=x), backward)


def test_rms_norm_adds_its_gradient_to_dx() -> None:
    bench = Bench(RMSNorm.specs("layer", WIDTH, bias=True))
    layer = RMSNorm(0.1, bench.parameters.under("layer"), bench.arena)
    x = bench.rng.standard_normal((ROWS, WIDTH))

    def backward(x: Array, dy: Array) -> Array:
        dx = np.ones_like(x)
        layer.backward(dy, dx)
        return dx - 1

    bench.check(x, lambda x: written(layer.forward, x, like=x), backward)


def test_head_norm_works_on_a_part_of_wider_rows() -> None:
    config = replace(TINY, norm_eps=0.1)
    bench = Bench(HeadNorm.specs("layer", config))
    layer = HeadNorm(config, bench.parameters.under("layer"), bench.arena)
    x = bench.rng.standard_normal((ROWS, WIDTH))

    def within(change: Callable[[Array], None], x: Array) -> Array:
        rows = np.zeros((ROWS, 3 * WIDTH))
        rows[:, WIDTH : 2 * WIDTH] = x
        change(rows[:, WIDTH : 2 * WIDTH])
        assert not rows[:, :WIDTH].any()
        return rows[:, WIDTH : 2 * WIDTH].copy()

    bench.check(x, lambda x: within(layer.forward, x), lambda x, dy: within(layer.backward, dy))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp(activation: str, bias: bool) -> None:
    config = replace(TINY, activation=activation, bias=bias, mlp_width=10)
    network = feed_forward_of(config)
    bench = Bench(network.specs("layer", config, SOME, SOME))
    layer = network(config, bench.parameters.under("layer"), bench.arena)
    x = bench.rng.standard_normal((ROWS, WIDTH))
    bench.check(
        x,
        lambda x: added(layer.forward, x, None),
        lambda x, dy: written(layer.backward, x, dy, like=x),
    )


@pytest.mark.parametrize("query_block", [64, 4, 1])
@pytest.mark.parametrize("rotates", [False, True])
@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 1, "qk_norm": True}], ids=str)
def test_attention(changes: dict[str, Any], rotates: bool, query_block: int) -> None:
    config = replace(TINY, **changes)
    bench = Bench(Attention.specs("layer", config, SOME, SOME))
    backend = bench.arena.backend
    backend.query_block = query_block
    rotary = Rotary(TINY.block_size, 4, 100.0, backend) if rotates else None
    layer = Attention(config, bench.parameters.under("layer"), bench.arena, rotary, NO_IDS)
    x = bench.rng.standard_normal((ROWS, WIDTH))

    def forward(x: Array) -> Array:
        y = np.ones_like(x)
        layer.forward(x, BATCH, y, None)
        return y - 1

    bench.check(x, forward, lambda x, dy: written(layer.backward, x, BATCH, dy, like=x))


@pytest.mark.parametrize("parallel", [False, True])
def test_block(parallel: bool) -> None:
    config = replace(TINY, parallel_residual=parallel)
    inits = dict.fromkeys(("qkv", "out", "up", "down"), SOME)
    bench = Bench(Block.specs("layer", config, inits))
    parameters = bench.parameters.under("layer")
    attention = Attention(config, parameters.under("attention"), bench.arena, None, NO_IDS)
    layer = Block(config, parameters, bench.arena, attention)
    x = bench.rng.standard_normal((ROWS, WIDTH))

    def forward(x: Array) -> Array:
        y = x.copy()
        layer.forward(y, BATCH, None)
        return y

    def backward(x: Array, dx: Array) -> Array:
        layer.backward(BATCH, dx)
        return dx

    bench.check(x, forward, backward)


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_embedding(position: str) -> None:
    config = build(position=position).config
    inits = {"tokens": SOME, "positions": SOME}
    bench = Bench(Embedding.specs(config, 5, inits))
    layer = Embedding(config, bench.parameters.under("embedding"), bench.arena)
    ids = bench.rng.integers(0, 4, ROWS)  # 4 never occurs: its gradient is zero
    readout = bench.rng.standard_normal((ROWS, WIDTH))

    def loss() -> float:
        x = np.empty_like(readout)
        layer.forward(ids, LENGTH, x, None)
        return float((x * readout).sum())

    expected = differences(loss, bench.weights)
    layer.backward(ids, LENGTH, readout.copy())
    np.testing.assert_allclose(bench.gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert not bench.parameters.under("embedding").gradient("tokens")[4].any()


def test_value_embedding() -> None:
    config = replace(TINY, n_kv_head=1)
    bench = Bench(ValueEmbedding.specs("layer", config, 5, SOME))
    ids = bench.rng.integers(0, 4, ROWS)
    layer = ValueEmbedding(bench.parameters.under("layer"), ids, bench.arena)
    readout = bench.rng.standard_normal((ROWS, 2 * WIDTH))

    def loss() -> float:
        packed = np.ones((ROWS, 2 * WIDTH))
        layer.forward(packed)
        return float((packed * readout).sum())

    expected = differences(loss, bench.weights)
    layer.backward(readout)
    np.testing.assert_allclose(bench.gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_head(cap: float) -> None:
    config = replace(TINY, tied_head=False, logit_softcap=cap)
    bench = Bench(Head.specs(config, 9, SOME))
    layer = Head(config, bench.parameters, bench.arena)
    layer.step = 5  # several chunks, the last of them short
    x = bench.rng.standard_normal((ROWS, WIDTH))
    targets, losses = bench.rng.integers(0, 9, ROWS), np.empty(ROWS)

    def loss() -> float:
        layer.evaluate(x, targets, losses, np.empty(ROWS, np.intp))
        return 3 * float(losses.sum())

    dx = np.empty_like(x)
    layer.forward_backward(
        x, targets, 3.0, losses, dx, bench.parameters.gradient(layer.matrix(config))
    )
    for got, at in ((dx, x), (bench.gradient, bench.weights)):
        np.testing.assert_allclose(got, differences(loss, at), rtol=TOLERANCE, atol=TOLERANCE)
