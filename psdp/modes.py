"""The table of modes: what each is called, what it needs, and what it is; and their settings.

Everyone else reads these rows and their traits. A mode's name stands here and where its policy is
built (psdp/policies.py), and nowhere else. Pure: no settings are parsed here and nothing is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from psdp.fields import setting


class Pushed(StrEnum):
    """What a worker pushes. It says by which rule a server takes it, and how it is trained."""

    GRADIENT = "gradient"
    """Of the loss, on the weights of the last answer: the job's optimizer takes it."""
    CHANGE = "change"
    """A pseudo-gradient, the weights before some steps of its own minus those after: for the outer
    optimizer, which takes the mean of all workers'."""
    SHARE = "share"
    """The same, which the outer optimizer takes alone, as this worker's share of such a mean."""
    WEIGHTS = "weights"
    """The worker's own, towards which the server's are drawn."""
    NOTHING = "nothing"
    """Workers have made the updates among themselves; one of them hands over what they reached."""


class Merge(StrEnum):
    """When what workers changed on their own is merged (``--merge``)."""

    TOGETHER = "sync"
    """The average of all, once all are there."""
    EACH = "async"
    """Each as it comes."""


SERVED = ("servers", "standby", "record", "replay", "wire_dtype", "balance")
"""Settings with a meaning where a mode is served."""


@dataclass(frozen=True)
class Mode:
    """One mode.

    Attributes:
        help: what it does, in a line.
        settings: those with a meaning in some modes alone that have one here, with their defaults
            (None: it depends on other settings, see psdp.config.rules).
        merged_each: defaults that differ with ``--merge`` as in :attr:`Merge.EACH`.
        pushes: what its workers push; of a mode that goes over from one to another, all of it.
            (:meth:`pushes_with` knows of ``--merge``.)
        served: whether what workers push goes to servers, in an order of its own. If not, workers
            make the updates themselves, all at once.
        in_rounds: whether an update waits for one push of every worker (``--merge`` may differ).
        own_optimizer: whether workers run an optimizer of their own.
        exact: whether W workers with batch b do what one does with batch W x b.
        survives_loss: whether a run goes on when it loses a worker.
        chooses: whether it is now one and now another of the :data:`CANDIDATES`.
        label: what a report calls a run, with its settings in braces.
        order: in reports, rising.
    """

    name: str
    help: str
    order: int
    label: str
    pushes: tuple[Pushed, ...] = (Pushed.GRADIENT,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    merged_each: Mapping[str, Any] = field(default_factory=dict)
    served: bool = True
    in_rounds: bool = False
    own_optimizer: bool = False
    exact: bool = False
    survives_loss: bool = True
    chooses: bool = False

    def __post_init__(self) -> None:
        for name in ("settings", "merged_each"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __str__(self) -> str:
        return self.name

    @property
    def updates(self) -> tuple[Pushed, ...]:
        """Of what workers push, that of which servers make updates, by a rule each."""
        return tuple(kind for kind in self.pushes if kind is not Pushed.NOTHING)

    def pushes_with(self, merge: str | None) -> tuple[Pushed, ...]:
        """Return what workers push where ``--merge`` is this."""
        return (Pushed.SHARE,) if self.merged_each and merge == Merge.EACH else self.pushes

    def has(self, setting: str) -> bool:
        """Say whether a setting that has no meaning in some modes has one in this."""
        return setting in self.settings or (self.served and setting in SERVED)


# Momentum makes up for averaging (measured at 2 and 4 workers: docs/results.md).
_OUTER = {"outer_optimizer": "nesterov", "outer_lr": None, "outer_momentum": None}

_TABLE = (
    Mode(
        "sync",
        "one gradient of every worker, averaged, for each update",
        order=0,
        label="sync",
        settings={"backup_workers": 0, "overlap": False},
        in_rounds=True,
        exact=True,
    ),
    Mode(
        "async",
        "every gradient is applied on arrival, and answered at once",
        order=3,
        label="async",
        settings={"lag_compensation": "none", "overlap": False},
    ),
    Mode(
        "ssp",
        "as async, but no worker goes on more than --staleness clocks ahead of the slowest",
        order=2,
        label="ssp S={staleness}",
        settings={"staleness": 4, "lag_compensation": "none", "overlap": False},
    ),
    Mode(
        "local",
        "workers train alone for some steps, then their weights are averaged",
        order=4,
        label="local H={local_steps} {outer_optimizer}",
        pushes=(Pushed.CHANGE,),
        settings={"local_steps": 50, "merge": Merge.TOGETHER.value, "keep_inner": True, **_OUTER},
        # Not where workers are merged one by one, which should be often.
        merged_each={"local_steps": 8, "outer_optimizer": "average"},
        in_rounds=True,
        own_optimizer=True,
    ),
    Mode(
        "easgd",
        "workers keep weights of their own, which the server's draw together",
        order=5,
        label="easgd H={local_steps}",
        pushes=(Pushed.WEIGHTS,),
        settings={"local_steps": 8, "elastic_rate": None, "keep_inner": True},
        own_optimizer=True,
    ),
    Mode(
        "allreduce",
        "workers reduce gradients among themselves by MPI, as sync without a server in the way",
        order=1,
        label="allreduce",
        pushes=(Pushed.NOTHING,),
        served=False,
        in_rounds=True,
        own_optimizer=True,
        exact=True,
        survives_loss=False,
    ),
    Mode(
        "auto",
        "sync, async, ssp or local, merged together or each as it comes, whichever is seen to "
        "learn fastest",
        order=6,
        label="auto",
        pushes=(Pushed.GRADIENT, Pushed.CHANGE, Pushed.SHARE),
        settings={"staleness": 4, "local_steps": 16, **_OUTER},
        chooses=True,
    ),
)

MODES: Mapping[str, Mode] = MappingProxyType({mode.name: mode for mode in _TABLE})
"""Every mode by its name, the default first."""


@dataclass(frozen=True)
class Candidate:
    """What a run may be in whose mode chooses: another mode, with what settings that has there
    which are not the run's own.

    Attributes:
        name: in records.
        merge: where that mode knows of it.
        optim: settings of optimizers.
        worth: by the number of workers, how many gradients of the first candidate one gradient is
            worth (:meth:`worth_of`).
    """

    name: str
    mode: Mode
    worth: Mapping[int, float]
    merge: str | None = None
    optim: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def pushes(self) -> tuple[Pushed, ...]:
        """What workers push in it."""
        return self.mode.pushes_with(self.merge)

    @property
    def in_rounds(self) -> bool:
        """Whether an update waits for one push of every worker."""
        return self.mode.in_rounds and self.merge != Merge.EACH

    def worth_of(self, workers: int) -> float:
        """Return how many gradients of the first candidate one is worth with so many workers:
        between the numbers that were measured by the logarithm, beyond them as at the last."""
        known = sorted(self.worth)
        workers = min(max(workers, known[0]), known[-1])
        above = next(count for count in known if count >= workers)
        below = max(count for count in known if count <= workers)
        if above == below:
            return self.worth[above]
        share = math.log(workers / below) / math.log(above / below)
        return self.worth[below] + share * (self.worth[above] - self.worth[below])


# Measured by benchmarks/regret.py, see docs/modes.md. More updates teach more, the more the more
# workers there are to be averaged.
_ON_ARRIVAL = {1: 1.0, 2: 1.4, 4: 1.6, 8: 1.7}

_CANDIDATES = (
    Candidate("sync", MODES["sync"], worth={1: 1.0}),
    Candidate("async", MODES["async"], worth=_ON_ARRIVAL),
    Candidate("ssp", MODES["ssp"], worth=_ON_ARRIVAL),
    Candidate(
        "local",
        MODES["local"],
        worth={1: 1.0, 2: 1.4, 4: 1.05, 8: 1.05},
        merge=Merge.TOGETHER.value,
    ),
    Candidate(
        "local-async",
        MODES["local"],
        worth={1: 1.0, 2: 1.1, 4: 0.8, 8: 0.87},
        merge=Merge.EACH.value,
        # An outer momentum is for the mean of all.
        optim={"outer_optimizer": "average", "outer_lr": None, "outer_momentum": None},
    ),
)

CANDIDATES: Mapping[str, Candidate] = MappingProxyType({one.name: one for one in _CANDIDATES})
"""What a mode that ``chooses`` is one of at a time, by name; it begins in the first."""

ONLY_WITH: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(mode.name for mode in _TABLE if mode.has(name))
        for name in (*SERVED, *dict.fromkeys(name for mode in _TABLE for name in mode.settings))
    }
)
"""The names of the modes in which a setting has a meaning, where that is not all."""


@dataclass(frozen=True)
class ModeConfig:
    """The mode of a run, and what has a meaning in some modes alone: as the table says, which also
    has the defaults. (How such a mode updates the weights is among the settings of optimizers.)"""

    mode: str = setting(
        next(iter(MODES)),
        "; ".join(f"{mode}: {mode.help}" for mode in MODES.values()),
        choices=tuple(MODES),
    )
    local_steps: int | None = setting(None, "steps between exchanges", low=1)
    merge: str | None = setting(
        None,
        f"{Merge.TOGETHER} averages all workers at once, {Merge.EACH} merges each as it comes",
        choices=tuple(merge.value for merge in Merge),
    )
    keep_inner: bool = setting(
        True,
        "keep in checkpoints what each worker has for itself, its optimizer above all: a file "
        "each, and a copy in its memory",
    )
    staleness: int | None = setting(None, "clocks that a worker may be ahead of the slowest", low=0)
    backup_workers: int = setting(
        0, "gradients of each step that are not waited for, and dropped", low=0
    )
    overlap: bool = setting(
        False,
        "compute the next gradient while the last one and its answer travel, on weights that are "
        "one exchange older",
    )
