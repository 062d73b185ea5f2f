"""What a rank that holds a shard does in a term: lead, or follow."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NoReturn, Protocol

from psdp.job import Job
from psdp.protocol import order as o
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.servers.relief import Relief
from psdp.servers.serving import Owner, Serving
from psdp.transport import messages as m


class Role(Owner, Protocol):
    """Who leads or follows in a term."""

    job: Job
    serving: Serving
    over: bool
    record: Record | None
    relief: Relief
    gone: Callable[[], Collection[tuple[int, str]]]
    """Returns the ranks that are no more, as the launcher tells, and why it does."""

    @property
    def left(self) -> set[int]:
        """The ranks that take part no more."""

    @property
    def told(self) -> set[int]:
        """Of these, those that are accounted for."""

    @property
    def recorder(self) -> Recorder | None:
        """Has the records, at who leads or may come to."""

    def run(self) -> None:
        """Do it to the end of the run, or of the term."""

    def give_up(self, error: BaseException) -> NoReturn:
        """No other term can begin: end the run.

        Raises:
            BaseException: ``error``, or what it stands for.
        """

    def fail(self, error: BaseException, status: int) -> None:
        """Do what is left to do after an error."""

    def learn(self, noted: m.Noted) -> None:
        """Take a line of the record that another rank knows."""

    def note(self, update: o.Update, norm: float) -> None:
        """Take an update down that is made when the term is over."""
