"""The products of a training step, noted and replayed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from products import (
    Product,
    attention_backward_products,
    attention_products,
    faster,
    recorded,
    with_kernels,
    with_numpy,
)
from training import PsdpTrainer, Size, batches

from psdp.backend import make_backend
from psdp.backend.kernels.attention import split_heads
from psdp.config import ModelConfig

LAYERS, WIDTH, LENGTH, BATCH, VOCAB = 2, 16, 8, 3, 11
SIZE = Size(ModelConfig(LAYERS, 2, WIDTH, LENGTH), VOCAB, BATCH, steps=1)
TOKENS = BATCH * LENGTH
# Forward and two products backward: four times (C, C) in attention, eight times in the MLP.
LINEAR_FLOPS = 3 * 2 * TOKENS * 12 * WIDTH**2 * LAYERS
HEAD_FLOPS = 3 * 2 * TOKENS * VOCAB * WIDTH
# Two products forward and five backward over the pairs of a query and a key not after it.
ATTENTION_FLOPS = 7 * 2 * WIDTH * BATCH * LENGTH * (LENGTH + 1) // 2 * LAYERS


@pytest.fixture(params=["auto", "numpy"])
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PsdpTrainer:
    monkeypatch.setattr("training.make_backend", partial(make_backend, kernels=request.param))
    return PsdpTrainer(SIZE)


def test_no_product_of_a_step_is_missed(trainer: PsdpTrainer) -> None:
    with recorded(trainer.backend) as products:
        trainer.step(*next(batches(SIZE)))
    assert products.flops == LINEAR_FLOPS + HEAD_FLOPS + ATTENTION_FLOPS


def test_after_recording_the_backend_is_as_it_was(trainer: PsdpTrainer) -> None:
    with recorded(trainer.backend) as products:
        pass
    trainer.step(*next(batches(SIZE)))
    assert products.items == []
    assert not {"matmul", "add_matmul", "affine", "attention"} & vars(trainer.backend).keys()


def test_recording_does_not_change_what_a_step_does() -> None:
    data, plain, noted = batches(SIZE), PsdpTrainer(SIZE), PsdpTrainer(SIZE)
    first, second = next(data), next(data)
    losses = [plain.step(*first), plain.step(*second)]
    with recorded(noted.backend):
        assert [noted.step(*first), noted.step(*second)] == losses


@pytest.mark.parametrize(
    ("length", "pairs_of_a_head"),
    [(8, 8 * 8), (130, 128 * 128 + 2 * 130), (300, 128 * 128 + 128 * 256 + 44 * 300)],
)
def test_blocks_of_attention_cover_every_query_with_the_keys_up_to_its_blocks_end(
    length: int, pairs_of_a_head: int
) -> None:
    batch, heads, width = 2, 2, 8
    backend = make_backend("cpu", "float32")
    qkv, dqkv = np.zeros((2, batch * length, 3 * width), np.float32)
    out, dout = np.zeros((2, batch * length, width), np.float32)
    forward = attention_products(backend, qkv, batch, heads, out)
    backward = attention_backward_products(backend, qkv, batch, heads, dout, dqkv)
    assert len(backward) * 2 == len(forward) * 5
    # Of outputs and dL/dq every element is the result of one product.
    for product in forward[1::2]:
        product.out[...] += 1
    for product in backward[2::5]:
        product.out[...] += 1
    dq, _, _ = split_heads(dqkv, batch, heads)
    assert (out == 1).all()
    assert (dq == 1).all()
    scores = sum(product.out.size for product in forward[::2])
    assert scores == batch * heads * pairs_of_a_head


def test_a_replay_with_the_kernels_gives_the_results_of_the_step() -> None:
    backend = make_backend("cpu", "float32")
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 5, 5)).astype(np.float32)
    written, summed = np.ones((2, 5, 5), np.float32)
    replay = with_kernels([Product(a.T, b, written), Product(a, b.T, summed, adds=True)], backend)
    replay()
    replay()
    np.testing.assert_allclose(written, a.T @ b, rtol=1e-5)
    np.testing.assert_allclose(summed, 1 + 2 * (a @ b.T), rtol=1e-4, atol=1e-4)


def test_a_replay_with_numpy_leaves_sums_alone() -> None:
    a, b = np.ones((2, 3, 3), np.float32)
    written, summed = np.zeros((2, 3, 3), np.float32)
    with_numpy([Product(a, b, written), Product(a, b, summed, adds=True)])()
    assert (written == 3).all()
    assert (summed == 0).all()


def test_the_faster_replay_at_its_best_is_taken() -> None:
    clock = 0.0

    def takes(*seconds: float) -> Callable[[], None]:
        ahead = iter(seconds)

        def replay() -> None:
            nonlocal clock
            clock += next(ahead)

        return replay

    steady, jumpy = takes(3, 3, 3, 3, 3), takes(9, 9, 2, 9, 9)
    name, replay = faster({"steady": steady, "jumpy": jumpy}, now=lambda: clock)
    assert (name, replay) == ("jumpy", jumpy)
