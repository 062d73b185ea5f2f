"""From the logits of the next token to the next token. Pure: no model, no text, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from psdp.errors import ConfigError, NumericsError
from psdp.params import Array


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. The filters act in this order, each on what the one before left.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token always.
        top_k: only the k likeliest tokens remain (0: all).
        top_p: of these, only the fewest likeliest whose probabilities reach p (1: all). The
            nucleus of Holtzman et al. 2019, arXiv:1904.09751.

    Raises:
        ConfigError: a value is out of range; the text names the flag.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"--temperature must be finite and at least 0, got {self.temperature}"
            )
        if self.top_k < 0:
            raise ConfigError(f"--top-k must be at least 0 (0: no limit), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p must be above 0 and at most 1, got {self.top_p}")

    def choose(self, logits: Array, rng: np.random.Generator) -> int:
        """Return the id of a token drawn by ``logits`` (V,).

        Raises:
            NumericsError: a logit is NaN or Inf.
        """
        if not np.isfinite(logits).all():
            raise NumericsError(
                "the model's logits hold NaN or Inf, so no token can be chosen: its training "
                "diverged; take an earlier checkpoint"
            )
        if self.temperature == 0:
            return int(np.argmax(logits))
        return int(rng.choice(logits.size, p=self.probabilities(logits)))

    def probabilities(self, logits: Array) -> Array:
        """Return the probability (V,) float64 of each token, for a temperature above 0.

        Of equally likely tokens those of lower ids come first into both filters, so exactly k
        remain of ``top_k`` and the same logits always keep the same tokens.
        """
        assert self.temperature > 0, "the limit of temperature 0 is argmax"
        with np.errstate(over="ignore"):  # at a tiny temperature -Inf is right, and exp makes it 0
            scaled = (logits - logits.max()).astype(np.float64) / self.temperature
        odds = np.exp(scaled)
        if self.top_k or self.top_p < 1:
            order = np.argsort(-scaled, kind="stable")
            odds[order[self.top_k or order.size :]] = 0
            if self.top_p < 1:
                before = np.cumsum(odds[order]) - odds[order]
                odds[order[before >= self.top_p * odds.sum()]] = 0
        probabilities: Array = odds / odds.sum()
        return probabilities
