"""Texts of one prompt are computed together, and are those that are made one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.config import ModelConfig
from psdp.data.tokenizer import IdTokenizer
from psdp.generation import Sampling, continuation, continuations
from psdp.nn.decoder import Decoder
from psdp.nn.transformer import parameter_table
from psdp.params import Array

VOCAB = 20
TOKENS = 40
"""Of a text: five windows of the model."""


class Counting(Decoder):
    """Remembers how many sequences each call was of."""

    def __init__(self) -> None:
        config = ModelConfig(n_layer=2, n_head=2, n_embd=12, block_size=8)
        table = parameter_table(config, VOCAB)
        weights = table.initial(1, "float64")
        weights += 0.3 * np.random.default_rng(3).standard_normal(table.size)
        super().__init__(config, VOCAB, make_backend("cpu", "float64"), weights)
        self.counts: list[int] = []

    def feed(self, tokens: Array) -> Array:
        self.counts.append(len(tokens))
        return super().feed(tokens)


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, number]) for number in range(count)]


def alone(stop: str) -> list[str]:
    how = IdTokenizer(VOCAB), Counting(), "1 2 3", TOKENS, Sampling()
    return ["".join(continuation(*how, rng, stop)) for rng in rngs(5)]


def together(decoder: Decoder, stop: str) -> list[str]:
    how = IdTokenizer(VOCAB), decoder, "1 2 3", TOKENS, Sampling(), rngs(5), stop
    return ["".join(text) for text in continuations(*how)]


@pytest.mark.parametrize("most", [1, 2, 8])
@pytest.mark.parametrize("stop", ["", " 7"])
def test_texts_that_are_made_together_are_those_made_alone(stop: str, most: int) -> None:
    decoder = Counting()
    decoder.most = most
    texts = together(decoder, stop)
    assert texts == alone(stop)
    assert len({*texts}) == 5
    assert max(decoder.counts) == min(most, 5)


def test_who_has_ended_is_computed_no_more() -> None:
    decoder = Counting()
    lengths = sorted(len(text.split()) for text in together(decoder, " 7"))
    assert lengths[0] < lengths[-1] < TOKENS
    first, *counts = decoder.counts
    assert (first, counts[0]) == (1, 5), "the prompt is computed once"
    assert counts == sorted(counts, reverse=True)
    # A text's last token is computed too: that it was the last is known when it is shown.
    assert sum(counts) <= sum(length - 3 + 1 for length in lengths)


def test_a_text_is_read_as_it_is_made_though_others_grow_with_it() -> None:
    decoder = Counting()
    how = IdTokenizer(VOCAB), decoder, "1 2 3", TOKENS, Sampling(), rngs(3)
    texts = continuations(*how)
    first = next(texts)
    assert (next(first), decoder.counts) == ("1 2 3", [])
    for step in range(1, TOKENS + 1):
        assert next(first)
        assert len(decoder.counts) == step
    assert "".join(first) == ""
    assert all(len("".join(text).split()) == 3 + TOKENS for text in texts)
    assert len(decoder.counts) == TOKENS, "the others were made with the first"
