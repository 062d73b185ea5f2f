"""The terms of a run, as a rank goes through them that holds a shard.

A term ends with the loss of a rank that held a shard, or for another to join those that do, and the
next one begins much as a run is resumed, but from memory. The first holder of the first shard that
is left leads the way there: it asks all others which updates they know of (each worker's pushes are
with all of them), has all come to the last version of these, and lets the workers ask again. Who
joins is handed its shard then. What was decided beside updates, and all that was under way, is
void.
"""

from __future__ import annotations

from collections.abc import Callable

from psdp.job import Job
from psdp.servers.changing import Change, TermEnds
from psdp.servers.role import Role
from psdp.transport import messages as m

GOODBYE_S = 0.5
"""How long a leader that fails tells the others so."""


class Terms:
    """A rank that holds a shard: one role after the other.

    Args:
        first: its role in the first term.
        follow: returns its role in the term of a job, after another one.

    Attributes:
        role: the present one.
    """

    replaceable = False

    def __init__(self, first: Role, follow: Callable[[Job, Role], Role]) -> None:
        self.role = first
        self._follow = follow
        self._given_up = False

    @property
    def job(self) -> Job:
        """The job in the present term."""
        return self.role.job

    @property
    def leads(self) -> bool:
        """Whether this rank leads the run."""
        return self.role.job.leader == self.role.serving.endpoint.rank

    def run(self) -> None:
        """Hold the shard to the end of the run.

        Raises:
            PeerLost: a shard is lost.
            BaseException: it ended early.
        """
        while True:
            try:
                self.role.run()
                return
            except TermEnds as ends:
                end = ends
            try:
                job = self._next(end)
                self.role.serving.giving.writer.leave()
                self.role = self._follow(job, self.role)
            except BaseException as error:
                self._given_up = True
                self.role.give_up(error)

    def _next(self, ends: TermEnds) -> Job:
        """Return the job in the next term."""
        role = self.role
        if role.over:  # others may have ended, and nothing is asked of them any more
            return role.job.without({ends.rank, *role.left, *role.serving.endpoint.lost})
        return Change(role).run(ends)

    def leaves_it_to_another(self, error: BaseException) -> bool:
        """Say whether another rank goes on with this one's shard after an error here."""
        return not self._given_up and self.role.relief.found(error)

    def fail(self, error: BaseException, status: int) -> None:
        """Do what is left to do after an error: where this rank leads, the others are not to go on
        without it."""
        if not self.leads or not self.job.stands_by:
            self.role.fail(error, status)
            return
        job, endpoint = self.role.job, self.role.serving.endpoint
        others = {*job.worker_ranks, *job.holding} - {endpoint.rank} - self.role.left
        endpoint.flush([endpoint.send(rank, m.Failed(status)) for rank in others], GOODBYE_S)
