"""What is known of a run whose settings came out best of a search: search.json, beside config.json.
Who searched writes it, when the run is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SEARCH = "search.json"


@dataclass(frozen=True)
class Search:
    """Some settings, each tried on the same seeds, and which were best.

    Attributes:
        best: their values, by field name.
        number: of the trial that had these; the first, 0, had what was given.
        trials: how many there were.
        seeds: of each trial.
        after_s: the seconds after which losses were compared; None: at the end, so at equal tokens.
        loss: that of the best, the mean over seeds.
        loss_given: that of the first trial; None if it diverged.
    """

    best: Mapping[str, Any]
    number: int
    trials: int
    seeds: tuple[int, ...]
    after_s: float | None
    loss: float
    loss_given: float | None

    def is_of(self, settings: Mapping[str, Any]) -> bool:
        """Say whether these are the settings that were best."""
        return all(settings[name] == value for name, value in self.best.items())


def search_from(record: Mapping[str, Any]) -> Search:
    """Return what a search.json says.

    Raises:
        KeyError: it does not say enough.
        TypeError: it says something else.
    """
    return Search(**{**record, "seeds": tuple(record["seeds"])})
