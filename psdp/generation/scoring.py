"""How likely a model finds a text, and whether it would have written it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from psdp.data.batches import TextBatch
from psdp.data.tokenizer import Tokenizer
from psdp.generation.text import beginning
from psdp.nn.models import LanguageModel


class Score(NamedTuple):
    """Of a text: the sum of its tokens' log-probabilities, in nats, and whether each of them was
    the likeliest."""

    log_probability: float
    greedy: bool


class Scorer:
    """Scores texts, whatever their length, in windows of as many tokens as the model sees. Each
    token is predicted once, from those before it in its window; the last window reaches back to
    tokens that another has predicted.

    Args:
        block_size: tokens that the model sees.
    """

    def __init__(self, tokenizer: Tokenizer, model: LanguageModel, block_size: int) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._block_size = block_size

    def text(self, text: str) -> Score:
        """Return the score of a text of its own: its first token follows the end of another.

        Raises:
            DataError: a character is not in the vocabulary.
        """
        return self.tokens([beginning(self._tokenizer), *self._encoded(text)], 1)

    def continuation(self, context: str, text: str) -> Score:
        """Return the score of a text that follows another. Both are encoded as one, and blanks at
        the end of the first are the second's, as subwords have them; an empty context is the end of
        a text.

        Raises:
            DataError: a character is not in the vocabulary.
        """
        blanks = len(context) - len(context.rstrip())
        if blanks:
            context, text = context[:-blanks], context[-blanks:] + text
        if not context:
            return self.text(text)
        return self.tokens(self._encoded(context + text), len(self._encoded(context)))

    def tokens(self, ids: Sequence[int], first: int) -> Score:
        """Return the score of tokens from number ``first`` on, at least 1, given those before."""
        loss, right = 0.0, True
        for begin, start, stop in windows(len(ids), first, self._block_size):
            window = np.array([ids[begin:stop]], np.int64)
            counted = np.zeros((1, stop - begin - 1), bool)
            counted[:, start - begin - 1 :] = True
            found = self._model.evaluate(TextBatch(window[:, :-1], window[:, 1:], counted))
            loss += found.loss
            right &= found.correct == found.units
        return Score(-loss, right)

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).tolist()
        return ids


def windows(count: int, first: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, start, stop) of windows in which so many tokens are predicted from number
    ``first`` on, each once: those from start to stop, of what is seen from begin on, which is no
    more than ``size`` before any of them."""
    for start in range(first, count, size):
        stop = min(start + size, count)
        yield max(0, stop - size - 1), start, stop
