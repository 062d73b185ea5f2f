"""A replay in this process: every rank of the recorded job is a thread of it."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from psdp.errors import PsdpError, StartRefused
from psdp.records.folder import CONFIG
from psdp.servers.ending import Ended
from psdp.startup import Ready, Waiting, prepare
from psdp.transport.in_memory import Aborted
from psdp.transport.in_memory_world import InMemoryWorlds
from psdp.transport.world import World

WHAT_COMPUTES = ("psdp", "python", "numpy")
"""Of what config.json has versions of."""

LONGEST_S = 1e8
"""How long a replay may take."""


def live(given: Mapping[str, Any], ranks: int) -> None:
    """Replay a run in this process, each rank a thread, as far as its record goes.

    Raises:
        ReplayError: it diverges.
        PsdpError: it cannot start, or fails.
    """
    # Where there is no MPI, all of an audit but this is to work.
    from psdp.rank import take_role
    from psdp.startup.asking import Asking

    errors: dict[int, BaseException] = {}

    def one(world: World) -> int:
        ready: Ready | Waiting | None = None
        try:
            ready = prepare(world, given, None)
            role, endpoint = take_role(world, ready, Asking())
            role.run()
            endpoint.close()
        except StartRefused as refusal:  # which all ranks find, and rank 0 says why
            errors[world.rank] = refusal
        except BaseException as error:
            errors[world.rank] = error
            world.abort(1)
        finally:
            if ready is not None:
                ready.folder.let_go()
        return 0

    gc.collect()  # the files of an earlier job, whose ranks refer to one another
    said = io.StringIO()
    with redirect_stderr(said):
        InMemoryWorlds(["here"] * ranks).run(one, LONGEST_S)
    reasons = [errors[rank] for rank in sorted(errors)]
    match next((reason for reason in reasons if not isinstance(reason, Aborted)), None):
        case None | Ended():
            return
        case StartRefused():
            lines = said.getvalue().strip().splitlines()
            raise PsdpError(lines[-1].removeprefix("psdp: ") if lines else "it cannot start")
        case PsdpError() as error:
            raise error
        case error:
            raise PsdpError(f"it failed: {error!r}") from error


def others_here(config: Mapping[str, Any], again: Path) -> str:
    """Return what computes otherwise here than where a run was made; nothing if nothing does."""
    try:
        own, there = _computing(json.loads((again / CONFIG).read_bytes())), _computing(config)
    except (OSError, ValueError):
        return ""
    other = {name: there.get(name) for name, value in own.items() if there.get(name) != value}
    return ", ".join(f"{name} is {own[name]}, there {was}" for name, was in other.items())


def _computing(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run was computed with, by name."""
    versions = config.get("versions", {})
    found = {name: str(versions.get(name)) for name in WHAT_COMPUTES}
    return found | {"kernels": " and ".join(sorted(filter(None, {*config.get("kernels", [])})))}
