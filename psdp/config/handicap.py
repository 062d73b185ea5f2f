"""What makes workers slow on purpose (``--straggler``, ``--jitter``), parsed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psdp.errors import ConfigError

Draw = Callable[[np.random.Generator], float]


@dataclass(frozen=True)
class Jitter:
    """A distribution of factors, all at least 1.

    Attributes:
        draw: returns one.
        mean: of the factors; infinite where there is none.
        varies: whether they differ; if not, every step is slowed alike.
    """

    draw: Draw
    mean: float
    varies: bool

    def __mul__(self, other: Jitter) -> Jitter:
        """Return the distribution of products of independent factors, this one's drawn first."""
        return Jitter(
            lambda rng: self.draw(rng) * other.draw(rng),
            self.mean * other.mean,
            self.varies or other.varies,
        )


NO_JITTER = Jitter(lambda rng: 1.0, 1.0, False)


def parse_stragglers(text: str | None) -> dict[int, float]:
    """Return ``{rank: factor}`` of ``RANK:FACTOR[,...]``.

    Raises:
        ConfigError: it is not of that form, or a factor is below 1.
    """
    factors: dict[int, float] = {}
    for entry in (text or "").split(",") if text is not None else ():
        rank, _, factor = entry.partition(":")
        try:
            number, value = int(rank), float(factor)  # of thousands of digits Python reads none
        except ValueError as error:
            raise ConfigError(
                f"--straggler expects RANK:FACTOR[,RANK:FACTOR...], such as 2:4, got '{text:.80}'"
            ) from error
        if number in factors:
            raise ConfigError(f"--straggler {text} names rank {number} twice")
        _check_factor("--straggler", text, value)
        factors[number] = value
    return factors


def parse_jitter(text: str | None) -> Jitter:
    """Return the distribution that ``--jitter`` names; of several, that of their product.

    Raises:
        ConfigError: it names none, or its numbers are out of range.
    """
    if text is None:
        return NO_JITTER
    first, *rest = [_distribution(text, part) for part in text.split(",")]
    for other in rest:
        first *= other
    return first


def _distribution(text: str, part: str) -> Jitter:
    """Return the distribution that one part of ``--jitter`` names."""
    name, *words = part.split(":")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    match name, numbers:
        case "bernoulli", [p, factor]:
            _check("--jitter", text, "a probability between 0 and 1", 0 <= p <= 1)
            _check_factor("--jitter", text, factor)
            varies = 0 < p < 1 and factor > 1
            mean = 1 + p * (factor - 1)
            return Jitter(lambda rng: factor if rng.random() < p else 1.0, mean, varies)
        case "uniform", [low, high]:
            _check_factor("--jitter", text, low)
            _check_factor("--jitter", text, high)
            _check("--jitter", text, "the lower factor first", low <= high)
            return Jitter(lambda rng: rng.uniform(low, high), (low + high) / 2, low < high)
        case "exponential", [mean]:
            _check("--jitter", text, "a finite mean of at least 0", 0 <= mean < math.inf)
            return Jitter(lambda rng: 1 + mean * rng.exponential(), 1 + mean, mean > 0)
        case "pareto", [alpha]:
            _check("--jitter", text, "an exponent above 0", 0 < alpha < math.inf)
            mean = alpha / (alpha - 1) if alpha > 1 else math.inf
            return Jitter(lambda rng: 1 + rng.pareto(alpha), mean, True)
    raise ConfigError(
        f"--jitter expects bernoulli:P:FACTOR, uniform:LOW:HIGH, exponential:MEAN or pareto:ALPHA, "
        f"or several of them with commas between, got '{text:.80}'"
    )


def _check_factor(flag: str, text: str | None, factor: float) -> None:
    _check(flag, text, "finite factors of at least 1", 1 <= factor < math.inf)


def _check(flag: str, text: str | None, expected: str, good: bool) -> None:
    if not good:
        raise ConfigError(f"{flag} expects {expected}, got '{text:.80}'")
