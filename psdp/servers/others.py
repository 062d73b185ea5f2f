"""The other shards, at the rank that ends a run: each is saved by its server, or by who stands by
for that if it is gone."""

from __future__ import annotations

from collections.abc import Container

from psdp.checkpoint.layout import shard_name
from psdp.errors import PeerLost
from psdp.job import Job
from psdp.transport import Endpoint
from psdp.transport import messages as m


class Others:
    """Has other ranks save the version that a run ends with."""

    def __init__(self, job: Job, endpoint: Endpoint) -> None:
        self._job = job
        self._endpoint = endpoint
        self._asked: set[int] = set()

    @property
    def lost(self) -> bool:
        """Whether a shard is held by no rank any more."""
        return None in self._holders()

    def save(self, version: int, files: Container[str]) -> None:
        """Have all shards of a version saved whose files are not there, by the ranks that are left.
        Nobody is asked twice.

        Raises:
            PeerLost: of one none is.
        """
        servers = self._job.servers
        for shard, rank in enumerate(self._holders()):
            if rank == self._endpoint.rank or shard_name(shard, len(servers)) in files:
                continue
            if rank is None:
                text = f"server rank {servers[shard]} is gone, and its shard is lost with it"
                raise PeerLost(text)
            if rank not in self._asked:
                self._asked.add(rank)
                self._endpoint.send(rank, m.SaveNow(version))

    def _holders(self) -> list[int | None]:
        """Return of each shard the first rank that is left of those that hold it."""
        lost = self._endpoint.lost
        return [
            next((rank for rank in ranks if rank not in lost), None) for ranks in self._job.holders
        ]
