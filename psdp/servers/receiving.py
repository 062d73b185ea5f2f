"""What workers push to one shard: from whom it is taken, where it lands, and what of it counts."""

from __future__ import annotations

from psdp.errors import ProtocolError
from psdp.job import Job
from psdp.params import Array
from psdp.protocol import Hosting
from psdp.servers.means import Maker
from psdp.servers.shard import Shard
from psdp.transport import Room
from psdp.transport import messages as m


class Receiving:
    """Takes pushes into the slots of a shard.

    Attributes:
        hosting: which rank computes for which worker.
        pushes: what lies in each slot.
    """

    def __init__(self, job: Job, shard: Shard, maker: Maker) -> None:
        self.hosting: Hosting = job.hosting()
        self.pushes: dict[int, m.Push] = {}
        self._job = job
        self._shard = shard
        self._maker = maker
        for _, rank in job.term.moved:
            self._detach(rank)
        self._expected = (
            tuple(m.PUSHES[kind] for kind in job.pushes if kind in m.PUSHES) or m.Reached
        )

    def landing(self, peer: int, message: m.Message) -> Array | Room:
        """Return where a peer's payload goes.

        Raises:
            ProtocolError: none is expected from that peer with such a message.
        """
        # What is no push is of what all workers have reached, and the first one's rank sends it.
        worker = message.worker if isinstance(message, m.Push) else self._job.workers[0]
        if self.hosting.host(worker) == peer:
            landing = self._maker.landing(self._job.slot_of(worker), message)
            if landing is not None:
                return landing
        elif self.hosting.hosted_once(peer, worker):
            return self._shard.nowhere()
        raise ProtocolError(f"rank {peer} sent a payload with {message}")

    def counts(self, peer: int, worker: int) -> bool:
        """Say whether what a rank says of a worker counts: not if another rank computes for it by
        now.

        Raises:
            ProtocolError: it never was the rank of that worker.
        """
        if self.hosting.host(worker) == peer:
            return True
        if self.hosting.hosted_once(peer, worker):
            return False
        raise ProtocolError(f"rank {peer} speaks of worker {worker}, which is not its own")

    def take(self, peer: int, message: m.Push) -> int | None:
        """Take a push that has landed; return its slot, None if it does not count.

        Raises:
            ProtocolError: no such push is expected from that peer.
        """
        if not isinstance(message, self._expected):
            raise ProtocolError(
                f"rank {peer} pushed a {type(message).__name__}, which has no meaning with --mode "
                f"{self._job.mode}"
            )
        if not self.counts(peer, message.worker):
            return None
        slot = self._job.slot_of(message.worker)
        if slot in self.pushes:
            raise ProtocolError(
                f"rank {peer} pushed for worker {message.worker} again without having been answered"
            )
        self.pushes[slot] = message
        self.pushes[slot] = message
        return slot

    def move(self, worker: int, rank: int) -> None:
        """Another rank computes for a worker from now on. What that rank shares of its memory is no
        slot any more, since it computes for several workers there."""
        self.hosting.move(worker, rank)
        self._detach(rank)

    def _detach(self, rank: int) -> None:
        for worker in self.hosting.hosted(rank):
            self._shard.detach(self._job.slot_of(worker))
