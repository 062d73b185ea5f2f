"""What endpoints say to one another, and their owners do not hear."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Taken:
    """The oldest weights that this worker saw in the server's shared memory and
    had not confirmed are copied; that memory may be written again."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What follows is of this term."""

    term: int


@dataclass(frozen=True, slots=True)
class Shares:
    """How to open the memory that the sender shares from now on;
    ``opened``: it has opened the receiver's."""

    pid: int
    bell: int
    pipe: str
    file: int
    name: str
    capacity: int
    opened: bool
