"""A text that grows token by token, and the window of it that the model sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from psdp.data.tokenizer import Tokenizer
from psdp.errors import DataError
from psdp.generation.sampling import Sampling
from psdp.nn.models import Sampler
from psdp.params import Array


class Context:
    """A text of any length for a model that sees at most ``block_size`` tokens of it.

    The window grows until it is full; the token after that moves it: the last block_size // 2
    tokens (at least 1), the new one among them, begin the next window. Keys and values depend on
    the position, so they are computed again then: every block_size / 2 tokens cost that many
    positions more, which is one more a token. Sliding by one would cost block_size a token.
    """

    def __init__(self, sampler: Sampler) -> None:
        sampler.reset()  # which may have had another text
        self._sampler = sampler
        self._window: list[int] = []

    def feed(self, tokens: Sequence[int]) -> Array:
        """Append ``tokens``, at least one; return the logits (V,) of the next, a NumPy array.

        Of many tokens at once, as in a prompt, the last block_size are seen.
        """
        sampler, size = self._sampler, self._sampler.block_size
        new = list(tokens)
        if sampler.length + len(new) > size:
            keep = size if len(new) > 1 else max(1, size // 2)
            new = [*self._window, *new][-keep:]
            self._window.clear()
            sampler.reset()
        self._window += new
        logits = sampler.feed(np.array(new))
        on_host: Array = np.empty(logits.shape, sampler.backend.dtype)
        sampler.backend.to_host(logits, on_host)
        return on_host


def continuation(
    tokenizer: Tokenizer,
    sampler: Sampler,
    prompt: str,
    tokens: int,
    sampling: Sampling,
    rng: np.random.Generator,
    stop: str | None = None,
) -> Iterator[str]:
    """Yield the prompt and then, piece by piece, at most ``tokens`` tokens more; characters stay
    whole.

    An empty prompt stands for the end of a text, or for a newline, or for token 0 where the
    vocabulary has neither; that token is not part of the text.

    Args:
        stop: a text, before which the continuation ends; empty: there is none; None: it ends at the
            token that ends a text, where there is one.

    Raises:
        DataError: a character of the prompt is not in the vocabulary.
        NumericsError: the model's logits are not finite.
    """
    ids = tokenizer.encode(prompt).tolist()
    context, stream = Context(sampler), tokenizer.stream()
    yield stream.feed(ids)
    last = tokenizer.end_of_text if stop is None else None

    def more() -> Iterator[str]:
        new = ids or [beginning(tokenizer)]
        for _ in range(tokens):
            token = sampling.choose(context.feed(new), rng)
            if token == last:
                break
            yield stream.feed([token])
            new = [token]
        yield stream.finish()

    yield from until(more(), stop) if stop else more()


def until(pieces: Iterator[str], stop: str) -> Iterator[str]:
    """Yield the text of ``pieces`` up to where ``stop`` comes, or to its end; what may be the
    beginning of that is held back."""
    held = ""
    for piece in pieces:
        held += piece
        text, found, _ = held.partition(stop)
        if found:
            yield text
            return
        longest = min(len(held), len(stop) - 1)
        maybe = next((n for n in range(longest, 0, -1) if stop.startswith(held[-n:])), 0)
        ready = len(held) - maybe
        yield held[:ready]
        held = held[ready:]
    yield held


def beginning(tokenizer: Tokenizer) -> int:
    """Return the token that stands for the end of another text, before the first of one."""
    if tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    try:
        newline = tokenizer.encode("\n").tolist()
    except DataError:
        newline = []
    return int(newline[0]) if newline else 0
