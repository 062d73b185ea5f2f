"""Feeding a sequence piece by piece gives what the whole model gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import VOCAB, Built, build

from psdp.backend import make_backend
from psdp.errors import DataError
from psdp.nn.decoder import Decoder
from psdp.nn.transformer import parameter_table


def decoder_of(built: Built) -> Decoder:
    backend = make_backend("cpu", str(built.weights.dtype))
    return Decoder(built.config, VOCAB, backend, built.weights)


@pytest.mark.parametrize("pieces", [[1] * 8, [8], [3, 1, 4], [1, 7]], ids=str)
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("bias", [True, False])
def test_decoder_equals_the_model(bias: bool, position: str, pieces: list[int]) -> None:
    built = build(bias=bias, position=position, batch=1, activation="relu" if bias else "gelu")
    decoder, logits = decoder_of(built), built.model.logits(built.tokens)[0]
    for piece in pieces:
        got = decoder.feed(built.tokens[:, decoder.length : decoder.length + piece])[0]
        np.testing.assert_allclose(got, logits[decoder.length - 1], rtol=1e-11, atol=1e-12)
    assert decoder.length == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"tied_head": False, "mlp_width": 5, "norm_eps": 0.1},
        {"parallel_residual": True, "position": "rotary", "rotary_dims": 2, "rope_theta": 9.0},
        {"n_head": 6, "n_kv_head": 2, "qk_norm": True, "position": "rotary"},
        {"n_kv_head": 1, "value_embeddings": True, "logit_softcap": 2.0},
        {"qk_norm": True, "position": "rotary", "norm": "rmsnorm", "activation": "swiglu"},
    ],
    ids=str,
)
def test_decoder_equals_the_model_with_every_setting(changes: dict[str, Any]) -> None:
    built = build(batch=1, **changes)
    decoder, logits = decoder_of(built), built.model.logits(built.tokens)[0]
    for piece in (3, 1, 4):
        got = decoder.feed(built.tokens[:, decoder.length : decoder.length + piece])[0]
        np.testing.assert_allclose(got, logits[decoder.length - 1], rtol=1e-11, atol=1e-12)


def test_decoder_equals_the_model_in_float32_over_many_positions() -> None:
    built = build(block_size=100, batch=1, dtype="float32")
    decoder, logits = decoder_of(built), built.model.logits(built.tokens)[0]
    for t in range(100):
        got = decoder.feed(built.tokens[:, t : t + 1])[0]
        np.testing.assert_allclose(got, logits[t], rtol=1e-4, atol=1e-4)


SETTINGS: list[dict[str, Any]] = [
    {"position": "learned"},
    {"n_head": 6, "n_kv_head": 2, "qk_norm": True, "position": "rotary", "value_embeddings": True},
]


@pytest.mark.parametrize("pieces", [[1] * 8, [3, 1, 4], [1, 7]], ids=str)
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_several_sequences_are_those_that_are_fed_alone(
    changes: dict[str, Any], pieces: list[int]
) -> None:
    built = build(batch=5, **changes)
    decoder, logits = decoder_of(built), built.model.logits(built.tokens)
    decoder.reset(5)
    for piece in pieces:
        got = decoder.feed(built.tokens[:, decoder.length : decoder.length + piece])
        np.testing.assert_allclose(got, logits[:, decoder.length - 1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_sequences_part_and_leave(changes: dict[str, Any]) -> None:
    built = build(batch=3, **changes)
    tokens = built.tokens
    tokens[:, :4] = tokens[0, :4]
    decoder, logits = decoder_of(built), built.model.logits(tokens)
    decoder.feed(tokens[:1, :4])
    for at, now, chosen in ((4, [0, 1, 2], [0, 0, 0]), (5, [2, 0], [2, 0]), (6, [0], [1])):
        decoder.select(chosen)
        got = decoder.feed(tokens[now, at : at + 1])
        np.testing.assert_allclose(got, logits[now, at], rtol=1e-11, atol=1e-12)


def test_what_sequences_keep_bounds_how_many_there_may_be() -> None:
    built = build(batch=1)
    assert decoder_of(built).most == built.config.block_size == 8
    wide = replace(built.config, n_embd=1024, n_head=8, n_layer=8, block_size=2048)
    backend = make_backend("cpu", "float32")
    weights = np.zeros(parameter_table(wide, VOCAB).size, np.float32)
    decoder = Decoder(wide, VOCAB, backend, weights)
    kept = 2 * 4 * 8 * 2048 * 1024
    assert decoder.most * kept <= 2**30 < (decoder.most + 1) * kept


def test_reset_forgets() -> None:
    built = build(batch=1)
    decoder = decoder_of(built)
    first = decoder.feed(built.tokens[:, :5])
    decoder.feed(built.tokens[:, 5:])
    decoder.reset()
    assert decoder.length == 0
    assert np.array_equal(decoder.feed(built.tokens[:, :5]), first)


def test_logits_stay_after_the_next_feed() -> None:
    built = build(batch=1)
    decoder = decoder_of(built)
    first = decoder.feed(built.tokens[:, :5])
    kept = first.copy()
    decoder.feed(built.tokens[:, 5:])
    assert np.array_equal(first, kept)


def test_more_than_block_size_is_refused_and_changes_nothing() -> None:
    built = build(batch=1)
    decoder = decoder_of(built)
    decoder.feed(built.tokens[:, :7])
    with pytest.raises(DataError, match="8 positions, 7 of them taken, was fed 2 tokens"):
        decoder.feed(np.array([[1, 2]]))
    assert decoder.length == 7
    with pytest.raises(DataError, match="fed 0 tokens"):
        decoder.feed(np.zeros((1, 0), int))
    decoder.feed(np.array([[1]]))
