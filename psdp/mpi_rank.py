"""The life of one rank of an MPI job; its library is loaded when this is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psdp.errors import ConfigError
from psdp.line import Line
from psdp.rank import Signals, live_in, why_not
from psdp.startup.program import LANGUAGE, Program
from psdp.terminal import show_any_text
from psdp.transport.mpi import MpiWorld


def live(
    given: Mapping[str, Any],
    refused: ConfigError | None,
    line: Line,
    program: Program = LANGUAGE,
) -> int:
    """Run this rank to its end, as :func:`psdp.rank.live_in` does; return its exit status."""
    show_any_text()
    line.started()
    world = MpiWorld()
    line.declare = world.declare_dead
    refused = refused or why_not(world, given)
    with world.staying():
        return live_in(world, given, refused, Signals(line), line, program)
