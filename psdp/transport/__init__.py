"""Messages between ranks: a small header, and a raw vector that lands where it is used.

Everything above sees :class:`Endpoint`; MPI stays in this folder.
"""

from psdp.transport.base import Arrival, Endpoint, Lost, Sending
from psdp.transport.landing import Landing, Room

__all__ = ["Arrival", "Endpoint", "Landing", "Lost", "Room", "Sending"]
