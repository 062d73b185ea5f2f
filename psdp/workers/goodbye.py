"""The end of a rank that computes, or waits to, and cannot go on: it tells the leader, which saves
the weights and ends all."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from psdp.errors import PeerLost
from psdp.transport import Endpoint
from psdp.transport import messages as m

GOODBYE_S = 0.5
"""How long a rank that fails tries to tell the leader so."""

PATIENCE_S = 4.2
"""How long it waits for the leader to save the weights, and to end all."""

TICK_S = 0.01


def part(
    endpoint: Endpoint,
    leader: int,
    error: BaseException,
    status: int,
    listen: Callable[[float], object],
) -> None:
    """Tell the leader that this rank cannot go on, and ends with this exit status; give it the time
    to save the weights and end all ranks, this one too, unless it is gone.

    Args:
        listen: moves on what travels, and does what is still to be done, for so many seconds.
    """
    if not isinstance(error, PeerLost):  # which the leader sees for itself
        sending = endpoint.send(leader, m.Failed(status))
        # Other messages may be under way, and the leader gone: try for a while, then go.
        deadline = time.monotonic() + GOODBYE_S
        while not sending.done and time.monotonic() < deadline:
            with suppress(Exception):
                listen(TICK_S)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not endpoint.has_lost(leader):
        with suppress(Exception):  # nothing else that comes now matters any more
            listen(TICK_S)
