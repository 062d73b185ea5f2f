"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, Self, TextIO

_LAUNCHERS = ("mpirun", "mpiexec", "prterun", "orterun", "hydra", "srun", "slurmstepd")


class Bar:
    """How far something is, on the terminal at which a person watches; nothing where nobody does.

    Args:
        units: in all.
        done: of them, before.
        name: of the units.
        quiet: somebody watches, but not this.

    Attributes:
        drawn: whether it is.
    """

    def __init__(self, units: int, done: int = 0, *, name: str, quiet: bool) -> None:
        self._terminal = None if quiet else open_terminal()
        self.drawn = self._terminal is not None
        self._bar: Any = None
        if self._terminal is not None:
            from tqdm import tqdm  # which takes longer to load than all else here, and few watch

            width_known = knows_its_width(self._terminal)
            self._bar = tqdm(
                total=units,
                initial=done,
                unit=name[:3],
                unit_scale=True,
                dynamic_ncols=width_known,
                ncols=None if width_known else 80,
                mininterval=0.2,
                file=self._terminal,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def advance(self, units: int, **told: str) -> None:
        """Move on, and tell this beside it from now on."""
        if self._bar is not None:
            self._bar.set_postfix(told, refresh=False)
            self._bar.update(units)

    def clear(self) -> None:
        """Make place for a line."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._terminal not in (None, sys.stderr):
            self._terminal.close()
            self._terminal = None


class Console:
    """Progress of one run on rank 0.

    Args:
        units: the budget.
        done: units processed before (of a resumed run).
        name: of the units.
    """

    def __init__(self, units: int, done: int, *, name: str, quiet: bool) -> None:
        self._quiet = quiet
        self._budget = units
        self._name = name
        self._bar = Bar(units, done, name=name, quiet=quiet)

    def say(self, text: str) -> None:
        """Print a line on stdout, in the bar's place if there is one; the bar moves down."""
        if self._quiet:
            return
        self._bar.clear()
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print a line on stderr, however quiet the run is to be."""
        self._bar.clear()
        print(f"psdp: {text}", file=sys.stderr, flush=True)

    def advance(self, units: int, loss: float, lag: float) -> None:
        """Move the bar on; every update."""
        self._bar.advance(units, loss=f"{loss:.3f}", lag=f"{lag:.1f}")

    def progress(self, record: dict[str, Any], step: int) -> None:
        """Print a train record as a line where there is no bar."""
        if not self._bar.drawn:
            rate = record[f"{self._name}_per_s"]
            left_s = (self._budget - record[self._name]) / max(rate, 1e-9)
            loss = math.nan if record["loss"] is None else record["loss"]
            self.say(
                f"step {step:6d}  loss {loss:.4f}  lr {record['lr']:.2e}  "
                f"{rate:,.0f} {self._name}/s  lag {record['version_lag']:.1f}  "
                f"{left_s:,.0f} s left"
            )

    def close(self) -> None:
        self._bar.close()


def knows_its_width(terminal: TextIO) -> bool:
    """Say whether a terminal tells its width; tqdm draws nothing on one that says 0."""
    try:
        return os.get_terminal_size(terminal.fileno()).columns > 0
    except OSError:
        return False


def open_terminal() -> TextIO | None:
    """Return the terminal at which a person watches, None if there is none.

    It is our stderr, or that of the launcher which passes ours on. Launchers pass on whole lines,
    but a bar is redrawn within one, so it is written to the terminal itself.
    """
    if sys.stderr is None:
        return None
    if sys.stderr.isatty():
        return sys.stderr
    pid = "self"
    while pid not in ("0", "1"):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if fields["Name"].startswith(_LAUNCHERS):
                target = Path(f"/proc/{pid}/fd/2").readlink()
                if str(target).startswith(("/dev/pts/", "/dev/tty")):
                    return target.open("w", encoding=sys.stderr.encoding, errors="replace")
            pid = fields["PPid"]
        except (OSError, KeyError):
            return None
    return None
