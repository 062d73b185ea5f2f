"""What makes workers and links slow on purpose (``--straggler``, ``--jitter``, ``--slow-link``),
parsed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from psdp.config.run import RunConfig
from psdp.errors import ConfigError

if TYPE_CHECKING:  # NumPy loads this when it is first asked for, and most never ask
    from numpy.random import Generator

Draw = Callable[["Generator"], float]

AT_FULL_SPEED: Mapping[str, Any] = MappingProxyType(
    {"straggler": None, "jitter": None, "link_mbps": 0.0, "slow_link": None}
)
"""The settings by which nothing is slowed down on purpose."""


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


NONE = "none"
"""What a setting of these may say for nothing, where a file or a recorded run says otherwise."""


@dataclass(frozen=True)
class Span:
    """A while: from ``start`` on and before ``end``, in steps of a worker or, ``in_seconds``, in
    those of the run."""

    start: float = 0.0
    end: float = math.inf
    in_seconds: bool = False

    def holds(self, step: int, time_s: float) -> bool:
        """Say whether it is then."""
        return self.start <= (time_s if self.in_seconds else step) < self.end

    def __str__(self) -> str:
        before, after = (" s", "from") if self.in_seconds else ("", "from step")
        to = "" if self.end == math.inf else f" to {self.end:g}{before}"
        return f"{after} {self.start:g}{before}{to}"


ALWAYS = Span()


@dataclass(frozen=True)
class Slowing:
    """Something takes ``factor`` times as long for a while."""

    factor: float
    span: Span = ALWAYS

    def __str__(self) -> str:
        when = "" if self.span == ALWAYS else f" {self.span}"
        return f"{self.factor:g} times slower{when}"


def factor_at(slowings: Iterable[Slowing], step: int, time_s: float) -> float:
    """Return how many times longer something takes then: what holds multiplies."""
    return math.prod(each.factor for each in slowings if each.span.holds(step, time_s))


def in_words(slowings: Iterable[Slowing]) -> str:
    """Return when something is how slow, for a title."""
    return ", ".join(map(str, slowings))


def parse_stragglers(text: str | None) -> dict[int, tuple[Slowing, ...]]:
    """Return what slows each rank of ``RANK:FACTOR[@FROM-TO][,...]``.

    Raises:
        ConfigError: it is not of that form, a factor is below 1, or a rank is slowed for ever and
            named again.
    """
    slowings: dict[int, tuple[Slowing, ...]] = {}
    for entry in _entries(text):
        match = re.fullmatch(rf"(\d+):{_FACTOR_AND_SPAN}", entry)
        # Of thousands of digits Python reads none.
        if match is None or len(match[1]) > _LONGEST_RANK:
            raise ConfigError(
                "--straggler expects RANK:FACTOR[,RANK:FACTOR...], such as 2:4, with steps of that "
                f"worker or seconds where it is for a while, 2:4@200-600 or 2:4@20s-60s, got "
                f"'{text:.80}'"
            )
        own = (*slowings.get(int(match[1]), ()), _slowing("--straggler", text, match))
        if len(own) > 1 and any(each.span == ALWAYS for each in own):
            raise ConfigError(f"--straggler {text} names rank {match[1]} twice")
        slowings[int(match[1])] = own
    return slowings


def parse_slow_link(text: str | None) -> tuple[Slowing, ...]:
    """Return what slows links of ``FACTOR@FROMs-TOs[,...]``.

    Raises:
        ConfigError: it is not of that form, or a factor is below 1.
    """
    slowings = []
    for entry in _entries(text):
        match = re.fullmatch(_FACTOR_AND_SPAN, entry)
        slowing = None if match is None else _slowing("--slow-link", text, match)
        if slowing is None or not slowing.span.in_seconds:
            raise ConfigError(
                "--slow-link expects FACTOR@FROMs-TOs[,...], such as 10@20s-60s, in seconds of the "
                f"run, got '{text:.80}'"
            )
        slowings.append(slowing)
    return tuple(slowings)


_FACTOR_AND_SPAN = r"([^@]+)(?:@([\d.]+)(s?)-(?:([\d.]+)(s?))?)?"
_LONGEST_RANK = 9


def _entries(text: str | None) -> list[str]:
    return [] if text is None or text == NONE else text.split(",")


def _slowing(flag: str, text: str | None, match: re.Match[str]) -> Slowing:
    """Return what ``FACTOR[@FROM-TO]`` says; these are the last groups of the match."""
    factor, *span = match.groups()[-5:]
    value = _number(factor)
    _check_factor(flag, text, value)
    if span[0] is None:
        return Slowing(value)
    start, end = _number(span[0]), math.inf if span[2] is None else _number(span[2])
    in_seconds = span[1] == "s"
    alike = span[2] is None or span[3] == span[1]
    whole = in_seconds or all(math.isinf(edge) or edge.is_integer() for edge in (start, end))
    good = alike and whole and start < end
    _check(flag, text, "FROM before TO, both in steps or, with an s behind, in seconds", good)
    return Slowing(value, Span(start, end, in_seconds))


def _number(text: str) -> float:
    """Return a number; none at all if it cannot be read."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_jitter(text: str | None) -> Jitter:
    """Return the distribution that ``--jitter`` names; of several, that of their product.

    Raises:
        ConfigError: it names none, or its numbers are out of range.
    """
    if text is None or text == NONE:
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


def check_slowed(run: RunConfig) -> None:
    """
    Raises:
        ConfigError: what slows workers and links down on purpose cannot be read, or there are no
            links to slow.
    """
    parse_stragglers(run.straggler)
    parse_jitter(run.jitter)
    if parse_slow_link(run.slow_link) and not run.link_mbps:
        raise ConfigError(
            f"--slow-link {run.slow_link} slows the links of --link-mbps, which is 0; give both"
        )


def drop_none(run: RunConfig) -> RunConfig:
    """Return the settings of which those that say that nothing is slowed down say nothing."""
    names = ("straggler", "jitter", "slow_link")
    nothing: dict[str, Any] = {name: None for name in names if getattr(run, name) == NONE}
    return replace(run, **nothing)
