"""Changes of mode in a simulated job, by the chooser that real jobs have, which is told of virtual
times."""

from __future__ import annotations

from psdp.job import Job
from psdp.protocol import Adaptive, Choice, Leave, Policy, Pull, Push
from psdp.servers.choosing import Choosing
from psdp.simulate.clock import Clock
from psdp.simulate.costs import Costs


class Changes:
    """Proposes changes of a job's mode. Losses are not known here, so none is taken back."""

    def __init__(self, job: Job, costs: Costs, clock: Clock) -> None:
        average_s = len(job.workers) * costs.average_s
        of_server = costs.apply_s / len(job.servers), average_s / len(job.servers)
        self._choosing = Choosing(job, lambda: of_server, lambda: clock.now_s)

    def answered(self, worker: int) -> None:
        """A worker was given weights to train on."""
        self._choosing.answered(worker)

    def after(self, event: Pull | Push | Leave, policy: Policy | Adaptive) -> Choice | None:
        """Return the mode that follows an event on which the policy has decided, another one or the
        same, and why; None where nothing was compared."""
        if isinstance(event, Leave):
            self._choosing.left(event.worker)
        if not isinstance(event, Push) or not isinstance(policy, Adaptive) or policy.drained:
            return None
        self._choosing.pushed(event.worker, event.work)
        return self._choosing.choose(policy.mode, len(policy.clocks))
