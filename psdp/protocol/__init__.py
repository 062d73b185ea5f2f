"""When a push is applied and when it is answered: pure decisions, no MPI, arrays, clock or I/O.

``policy.handle(event)`` takes a frozen event and returns the frozen effects to perform, in order.
The same classes run under MPI and in property tests.
"""

from psdp.protocol.adaptive import Adaptive, Phase
from psdp.protocol.choice import Choice, Chooser, Forecast
from psdp.protocol.deal import Deck, Ranges
from psdp.protocol.evaluation import Evaluations, Portion, Sums
from psdp.protocol.events import (
    Apply,
    Drained,
    Drop,
    Effect,
    Event,
    Leave,
    Move,
    Pull,
    Push,
    SendWeights,
    Stop,
    Switch,
    Work,
    some_of,
)
from psdp.protocol.hosting import Hosting
from psdp.protocol.lockstep import Lockstep
from psdp.protocol.policy import Policy
from psdp.protocol.stale import Asynchronous, StaleBounded
from psdp.protocol.sync import Synchronous

__all__ = [
    "Adaptive",
    "Apply",
    "Asynchronous",
    "Choice",
    "Chooser",
    "Deck",
    "Drained",
    "Drop",
    "Effect",
    "Evaluations",
    "Event",
    "Forecast",
    "Hosting",
    "Leave",
    "Lockstep",
    "Move",
    "Phase",
    "Policy",
    "Portion",
    "Pull",
    "Push",
    "Ranges",
    "SendWeights",
    "StaleBounded",
    "Stop",
    "Sums",
    "Switch",
    "Synchronous",
    "Work",
    "some_of",
]
