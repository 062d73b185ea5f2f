"""Predictions as a table for a terminal, line by line as they come."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator

from psdp.protocol import Forecast
from psdp.simulate.scenario import Prediction

Column = tuple[str, int, Callable[[Prediction], str]]

COLUMNS: tuple[Column, ...] = (
    ("mode", -6, lambda p: p.mode),
    ("W", 6, lambda p: str(p.workers)),
    ("K", 4, lambda p: str(p.servers)),
    ("H", 4, lambda p: _text(p.local_steps)),
    ("S", 4, lambda p: _text(p.staleness)),
    ("steps/s", 10, lambda p: f"{p.steps_per_s:.4g}"),
    ("tokens/s", 13, lambda p: f"{p.tokens_per_s:,.0f}"),
    ("speed-up", 9, lambda p: "" if p.speed_up is None else f"{p.speed_up:.2f}"),
    ("compute", 8, lambda p: f"{p.computing:.1%}"),
    ("wait", 7, lambda p: f"{p.waiting:.1%}"),
    ("away", 7, lambda p: f"{p.away:.1%}"),
    ("lag mean", 9, lambda p: f"{p.lag_mean:.1f}"),
    ("p95", 6, lambda p: str(p.lag_p95)),
    ("max", 6, lambda p: str(p.lag_max)),
    ("gap", 5, lambda p: str(p.max_clock_gap)),
    ("push/step", 10, lambda p: _bytes(p.pushed_bytes_per_step)),
    ("pull/step", 10, lambda p: _bytes(p.pulled_bytes_per_step)),
    ("dropped", 8, lambda p: str(p.dropped)),
    ("failed", 7, lambda p: str(p.failures) + ("" if p.drained else "!")),
)
"""Name, width (negative: to the left), and what stands there."""

LEGEND = (
    "W workers, K servers, H local steps, S staleness; a step is a gradient of each worker. Shares "
    "are of the workers' time, lags in versions, the gap in clocks."
)
SPARED = (
    *("max", "gap", "dropped", "p95", "push/step", "pull/step", "away", "failed"),
    *("S", "H", "K"),
)
"""Columns that a narrow terminal does without, in this order."""
UNFINISHED = "!: failures ended the run before its budget was spent"


def table(
    predictions: Iterable[Prediction], modes: Iterable[str], room: int | None = None
) -> Iterator[str]:
    """Yield a line of names, one for each prediction as soon as it is there, and what they mean.

    Args:
        modes: that predictions may be of.
        room: characters of a line; None: as many as it takes.
    """
    (mode, least, of_mode), *others = COLUMNS
    columns = [(mode, min(least, *(-len(name) for name in modes)), of_mode), *others]
    left_out: list[str] = []
    for name in SPARED:
        if room is None or sum(abs(width) for _, width, _ in columns) <= room:
            break
        left_out.append(name)
        columns = [column for column in columns if column[0] != name]
    yield "".join(_cell(name, width) for name, width, _ in columns).rstrip()
    drained = True
    for prediction in predictions:
        drained &= prediction.drained
        yield "".join(_cell(of(prediction), width) for _, width, of in columns).rstrip()
        yield from _choices(prediction, room)
    yield LEGEND
    if left_out:
        yield f"No room for {', '.join(left_out)}: a wider terminal, or --json, shows all."
    if not drained:
        yield UNFINISHED


def _choices(prediction: Prediction, room: int | None) -> Iterator[str]:
    """Yield when a mode that chooses went over to which other, and whether it stayed there when it
    last looked, each time with what was compared: gradients/s, times what one is worth."""
    told = [("goes over to", choice) for choice in prediction.changes]
    if prediction.stayed is not None:
        told.append(("stays in", prediction.stayed))
    for does, choice in told:
        compared = ", ".join(str(Forecast(**one)) for one in choice["compared"])
        line = (
            f"  {choice['time_s']:.4g} s: {does} {choice['mode']}: {compared}; to change takes "
            f"{choice['margin']:.3g} times the measured one's"
        )
        yield from [line] if room is None else textwrap.wrap(line, room, subsequent_indent="    ")


def _cell(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
