"""What a sweep tunes: the section [tune] of a spec, and which settings are tried next.

    [tune]
    trials = 10                     # of each family: cells that differ in their seed alone
    seeds = [11, 12]                # of all trials, and of no cell
    after-s = 20                    # compared is the loss after so many seconds, not at the end
    [tune.settings]                 # those with a meaning in a family's mode are tuned
    lr = {low = 1e-4, high = 1e-2, log = true}
    warmup-steps = {low = 0, high = 40}
    beta1 = [0.5, 0.8, 0.9]         # one of these

Nothing here starts a job. The search is Optuna's (Akiba et al. 2019, arXiv:1907.10902): the first
trials are random, those after them by a tree-structured Parzen estimator (Bergstra et al. 2011).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psdp.config import flag_of, settings
from psdp.errors import ConfigError
from psdp.fields import base_type
from psdp.terminal import shown

RANDOM_TRIALS = 4
"""How many are random. Not a part of all, so that a spec may ask for more of them later."""

DIGITS = 3
"""To which numbers of a range are rounded, so that people can repeat them."""

_FIELDS = {field.name: field for _, field in settings()}
_TUNED = {
    *(field.name for topic, field in settings() if topic == "optim"),
    *("local_steps", "merge", "staleness", "overlap", "balance", "wire_dtype"),
}
"""Settings that change how well a job does. All others change what is compared, such as the budget
(which backup workers have no part in), or how that is measured, or no loss at all."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, whole ones if both are; ``log``: of all sizes alike."""

    low: float
    high: float
    log: bool

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def rounded(self, value: Any) -> Any:
        """Return a number of it that is short."""
        if self.whole:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        return self.values

    def holds(self, value: Any) -> bool:
        return value in self.values

    def rounded(self, value: Any) -> Any:
        return value


Space = Mapping[str, Range | Choice]
"""What each setting may be, by field name."""


@dataclass(frozen=True)
class Tuning:
    """What [tune] says.

    Attributes:
        after_s: seconds after which losses are compared; None: at the end, so at equal tokens.
    """

    trials: int
    seeds: tuple[int, ...]
    after_s: float | None
    space: Space


NO_TUNING = Tuning(0, (), None, {})


def read_tuning(table: Any, spelled: Callable[..., dict[str, Any]]) -> Tuning:
    """Return what the section says.

    Args:
        spelled: returns a table with its keys as field names.

    Raises:
        ConfigError: it says what cannot be.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"tune expects a table, [tune], got {shown(table)}")
    top = spelled(table, "[tune]")
    for key in top:
        if key not in ("trials", "seeds", "after_s", "settings"):
            raise ConfigError(
                f"[tune]: unknown key '{key}'; known are trials, seeds, after-s, and settings with "
                "their ranges below [tune.settings]"
            )
    trials, seeds, after_s = top.get("trials"), top.get("seeds"), top.get("after_s")
    if not isinstance(trials, int) or not _is_whole(trials, 1):
        raise ConfigError(f"[tune] trials expects a number of at least 1, got {shown(trials)}")
    if not isinstance(seeds, list) or not seeds or not all(_is_whole(seed, 0) for seed in seeds):
        raise ConfigError(f"[tune] seeds expects a list of them, got {shown(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"[tune] seeds has one twice: {shown(seeds)}")
    if after_s is not None and not (_is_number(after_s) and after_s > 0):
        raise ConfigError(f"[tune] after-s expects a number above 0, got {shown(after_s)}")
    ranges = top.get("settings")
    if not isinstance(ranges, dict) or not ranges:
        raise ConfigError(f"[tune.settings] expects settings with ranges, got {shown(ranges)}")
    named = spelled(ranges, "[tune.settings]")
    space = {name: _dimension(name, values) for name, values in named.items()}
    return Tuning(trials, tuple(seeds), after_s, space)


def _dimension(name: str, values: Any) -> Range | Choice:
    key = f"[tune.settings] {name.replace('_', '-')}"
    if name not in _FIELDS:
        raise ConfigError(f"{key}: unknown setting; see python -m psdp.worker --help")
    if name not in _TUNED:
        raise ConfigError(
            f"{key} cannot be tuned: it changes what is compared or how that is measured, or no "
            "loss at all"
        )
    if isinstance(values, list):
        if len(values) < 2 or not all(isinstance(v, bool | int | float | str) for v in values):
            raise ConfigError(f"{key} expects at least two values, got {shown(values)}")
        return Choice(tuple(values))
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= _OF_RANGE:
        raise ConfigError(
            f"{key} expects a list of values, or {{low = X, high = Y}} with log = true where it is "
            f"a matter of size, got {shown(values)}"
        )
    low, high, log = values["low"], values["high"], values.get("log", False)
    kind = base_type(_FIELDS[name])
    if kind not in ("int", "float"):
        raise ConfigError(f"{key} is no number: list its values")
    good = _is_whole(low) and _is_whole(high) if kind == "int" else True
    if not (good and _is_number(low) and _is_number(high) and low < high):
        raise ConfigError(f"{key} expects low below high, of {flag_of(name)}, got {shown(values)}")
    if not isinstance(log, bool) or (log and low <= 0):
        raise ConfigError(f"{key} expects log = true or false, true with low above 0 only")
    return Range(low, high, log) if kind == "int" else Range(float(low), float(high), log)


_OF_RANGE = {"low", "high", "log"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def _is_whole(value: Any, least: int | None = None) -> bool:
    good = isinstance(value, int) and not isinstance(value, bool)
    return good and (least is None or value >= least)


def check_search() -> None:
    """See that what searches is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"[tune] needs {error.name}; pip install 'psdp[report]'") from error


def next_settings(space: Space, done: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, Any]:
    """Return what to try after some trials. It follows from the arguments alone, so that a sweep
    that was interrupted goes on as it would have; and random trials of the same number are the same
    in all families, whose spaces agree.

    Args:
        done: the settings of each trial with its loss, infinite where it diverged. Those that do
            not lie in the space tell nothing.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(dimension) for name, dimension in space.items()}
    (seed,) = np.random.SeedSequence(len(done)).generate_state(1)
    sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=int(seed))
    study = optuna.create_study(sampler=sampler)
    for params, loss in done:
        if not all(dimension.holds(params[name]) for name, dimension in space.items()):
            continue
        study.add_trial(
            optuna.trial.create_trial(params=dict(params), distributions=distributions, value=loss)
        )
    asked = study.ask(distributions).params
    return {name: space[name].rounded(value) for name, value in asked.items()}


def _distribution(dimension: Range | Choice) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    match dimension:
        case Choice(values):
            return CategoricalDistribution(values)
        case Range(low, high, log) if dimension.whole:
            return IntDistribution(int(low), int(high), log=log)
        case Range(low, high, log):
            return FloatDistribution(low, high, log=log)
