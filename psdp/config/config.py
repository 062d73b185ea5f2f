"""All settings of one run, from flat values and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from psdp.config import rules
from psdp.config.data import DataConfig
from psdp.config.handicap import check_slowed, drop_none
from psdp.config.model import ModelConfig
from psdp.config.optim import OptimConfig
from psdp.config.presets import with_preset
from psdp.config.run import RunConfig
from psdp.config.windows import check_windows
from psdp.errors import ConfigError
from psdp.fields import check_bounds, plain
from psdp.modes import MODES, Merge, Mode

TOPICS: Mapping[str, Any] = MappingProxyType(
    {"model": ModelConfig, "data": DataConfig, "optim": OptimConfig, "run": RunConfig}
)


OF_LANGUAGE = frozenset(
    {f.name for topic in (ModelConfig, DataConfig) for f in fields(topic)}
    | {"eval_batches", "init_from", "raw_weights", "label_smoothing", "precision"}
    | {"sample_prompt", "sample_tokens"}
)
"""Settings with a meaning for models of language alone."""


@dataclass(frozen=True)
class Config:
    """All settings of one run. ``Config().resolved()`` is a sensible run on two cores."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Config:
        """Build from ``{field name: value}``; a name that is missing has the value of the preset
        that is named, or its default.

        Raises:
            ConfigError: a name is unknown or a value has the wrong type.
        """
        known = {f.name: (topic, f) for topic, f in settings()}
        given: dict[str, dict[str, Any]] = {topic: {} for topic in TOPICS}
        for name, value in with_preset(values).items():
            if name not in known:
                raise ConfigError(f"unknown setting '{name}'; see python -m psdp.worker --help")
            topic, f = known[name]
            given[topic][name] = plain(f, value)
        return cls(**{topic: kind(**given[topic]) for topic, kind in TOPICS.items()})

    def flat(self) -> dict[str, Any]:
        """Return ``{field name: value}`` with plain JSON types, in the order of the fields."""
        flat: dict[str, Any] = {}
        for topic in asdict(self).values():
            flat.update(topic)
        return {k: list(value) if isinstance(value, tuple) else value for k, value in flat.items()}

    @property
    def mode(self) -> Mode:
        """What the run's mode is."""
        return MODES[self.run.mode]

    @property
    def in_rounds(self) -> bool:
        """Whether an update waits for one push of every worker."""
        return self.mode.in_rounds and self.run.merge != Merge.EACH

    def resolved(self) -> Config:
        """Validate and fill the defaults that depend on other settings.

        Raises:
            ConfigError: a value is out of range or contradicts another; the text names the flag.
        """
        for topic, f in settings():
            check_bounds(f, getattr(getattr(self, topic), f.name))
        model, data, optim, run = self.model, self.data, self.optim, self.run
        rules.check_own(model)
        rules.check_heads(model)
        rules.check_rotary(model)
        rules.check_corpus(data)
        check_windows(data)
        rules.check_meaning(optim, run)
        rules.check_server_device(run)
        rules.check_overlap(optim, run)
        rules.check_standby(run)
        rules.check_balance(data, run)
        check_slowed(run)
        rules.check_max_time(run)
        rules.check_raw_weights(run)
        rules.check_checkpoint_to(run)
        rules.check_spares(run)
        rules.check_precision(run)
        rules.check_early_stop(data, run)
        rules.check_samples(data, run)
        optim, run = rules.fill_for_mode(optim, drop_none(run))
        optim = rules.fill_outer(optim, run)
        optim = rules.fill_schedule(rules.fill_for_rule(optim), run)
        return Config(model, data, optim, rules.fill_wire(run))


def settings() -> Iterator[tuple[str, Field[Any]]]:
    """Yield (topic, dataclass field) of every setting, in the order of ``--help``."""
    for topic, kind in TOPICS.items():
        for f in fields(kind):
            yield topic, f
