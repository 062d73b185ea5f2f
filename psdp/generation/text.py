"""Texts that grow token by token, and the window of them that the model sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np

from psdp.data.tokenizer import Tokenizer
from psdp.errors import DataError
from psdp.generation.sampling import Sampling
from psdp.nn.models import Sampler
from psdp.params import Array


class Context:
    """Texts of one length, whatever it is, for a model that sees at most ``block_size`` tokens of
    each. They begin as one.

    The window grows until it is full; the token after that moves it: the last block_size // 2
    tokens (at least 1), the new one among them, begin the next window. Keys and values depend on
    the position, so they are computed again then: every block_size / 2 tokens cost that many
    positions more, which is one more a token. Sliding by one would cost block_size a token.
    """

    def __init__(self, sampler: Sampler) -> None:
        sampler.reset()  # which may have had other texts
        self._sampler = sampler
        self._window = np.empty((1, 0), np.int64)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these of the texts, in this order; one may be among them several times."""
        if [*rows] != [*range(len(self._window))]:
            self._sampler.select(rows)
            self._window = self._window[rows]

    def feed(self, tokens: Array) -> Array:
        """Append ``tokens`` (B, n), n >= 1; return the logits (B, V) of the next, a NumPy array.

        Of many tokens at once, as in a prompt, the last block_size are seen.
        """
        sampler, size, (count, new) = self._sampler, self._sampler.block_size, tokens.shape
        if sampler.length + new > size:
            keep = size if new > 1 else max(1, size // 2)
            tokens = np.concatenate([self._window, tokens], axis=1)[:, -keep:]
            self._window = self._window[:, :0]
            sampler.reset(count)
        self._window = np.concatenate([self._window, tokens], axis=1)
        logits = sampler.feed(tokens)
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
    """Yield the prompt and then, piece by piece, at most ``tokens`` tokens more; the one text that
    :func:`continuations` makes with ``rng``."""
    how = tokens, sampling, [rng], stop
    yield from next(continuations(tokenizer, sampler, prompt, *how))


def continuations(
    tokenizer: Tokenizer,
    sampler: Sampler,
    prompt: str,
    tokens: int,
    sampling: Sampling,
    rngs: Sequence[np.random.Generator],
    stop: str | None = None,
) -> Iterator[Iterator[str]]:
    """Yield texts, to be read one after the other: each is the prompt and then, piece by piece, at
    most ``tokens`` tokens more; characters stay whole. As one is read those after it grow with it,
    as many as the sampler takes.

    An empty prompt stands for the end of a text, or for a newline, or for token 0 where the
    vocabulary has neither; that token is not part of the text.

    Args:
        rngs: that each text is drawn by.
        stop: a text, before which a continuation ends; empty: there is none; None: it ends at the
            token that ends a text, where there is one.

    Raises:
        DataError: a character of the prompt is not in the vocabulary.
        NumericsError: the model's logits are not finite.
    """
    ids = tokenizer.encode(prompt).tolist()
    last = tokenizer.end_of_text if stop is None else None

    def text(draw: Callable[[], int]) -> Iterator[str]:
        stream = tokenizer.stream()
        yield stream.feed(ids)

        def more() -> Iterator[str]:
            for _ in range(tokens):
                token = draw()
                if token == last:
                    break
                yield stream.feed([token])
            yield stream.finish()

        yield from until(more(), stop) if stop else more()

    for first in range(0, len(rngs), sampler.most):
        together = rngs[first : first + sampler.most]
        steps = _Steps(Context(sampler), ids or [beginning(tokenizer)], len(together))
        yield from _in_step(
            [text(partial(steps.draw, n, sampling, rng)) for n, rng in enumerate(together)]
        )


class _Steps:
    """The tokens of ``count`` texts that begin alike: those of a step are computed together. A text
    that draws none in a step has ended."""

    def __init__(self, context: Context, ids: Sequence[int], count: int) -> None:
        self._context, self._ids = context, ids
        self._logits: Array | None = None
        self._rows = dict.fromkeys(range(count), 0)
        self._drawn: dict[int, int] = {}

    def draw(self, text: int, sampling: Sampling, rng: np.random.Generator) -> int:
        """Return the next token of a text; if it has had that of this step, the next step comes."""
        if self._logits is None:
            self._logits = self._context.feed(np.array([self._ids]))
        if text in self._drawn:
            self._context.select([self._rows[one] for one in self._drawn])
            self._logits = self._context.feed(np.array([*self._drawn.values()])[:, None])
            self._rows = {one: row for row, one in enumerate(self._drawn)}
            self._drawn.clear()
        token = self._drawn[text] = sampling.choose(self._logits[self._rows[text]], rng)
        return token


def _in_step(texts: Sequence[Iterator[str]]) -> Iterator[Iterator[str]]:
    """Yield each text, to be read one after the other; with each piece that is read those after it
    make one, which they keep."""
    kept: list[list[str]] = [[] for _ in texts]

    def read(number: int) -> Iterator[str]:
        yield from kept[number]
        for piece in texts[number]:
            yield piece
            for later in range(number + 1, len(texts)):
                kept[later] += islice(texts[later], 1)

    yield from map(read, range(len(texts)))


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
