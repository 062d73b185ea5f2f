"""Why a run ended: a closed set, as summary.json spells it."""

from __future__ import annotations

from enum import StrEnum


class StoppedBy(StrEnum):
    """What stopped a run."""

    BUDGET = "budget"
    """All of it was trained."""
    EARLY_STOP = "early_stop"
    """The validation loss did not get better any more."""
    SIGNAL = "signal"
    """Somebody wanted it so."""
    PREEMPTED = "preempted"
    """The machine is wanted for something else; the run is to go on some other time."""
    TIME_LIMIT = "time limit"
    """Its time was over (``--max-time``); it is to go on some other time."""
    END_OF_RECORD = "end of record"
    """The run that was replayed was cut off there."""
    NON_FINITE = "non-finite gradient"
    """A gradient with NaN or Inf."""
    NON_FINITE_STATE = "non-finite weights"
    """Weights, or what their optimizer keeps of them, with NaN or Inf: they are not saved."""
    WORKER_LOST = "worker lost"
    """A worker is gone, without which the others cannot go on."""
    WORKERS_LOST = "workers lost"
    """The last worker is gone."""
    FAILURES = "failures"
    """More ranks have failed than ``--max-failures`` allows."""
    REPLICAS_DIFFER = "replicas differ"
    """Workers that make the same updates have reached other weights."""
    ERROR = "error"
    """A rank failed, in any other way."""
