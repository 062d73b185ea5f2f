"""``python -m psdp.trace RUN``: draw what each rank did when, for Perfetto or chrome://tracing.

A run that was made with ``--trace`` has a file of spans for each rank. They become the trace-event
format (Google, "Trace Event Format"): a process for each host, a thread for each rank, and an arrow
from where a gradient was pushed to the updates that it went into, and on to the answer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.arguments import Parser
from psdp.errors import ConfigError
from psdp.records.folder import CONFIG
from psdp.records.timeline import FOLDER, timeline_file
from psdp.terminal import path_of, run_program

OUT = "trace.json"
"""In the run folder, if nothing else is said."""

PUSH, UPDATE, PULL = "push", "update", "pull"
"""The spans that arrows join."""


@dataclass(frozen=True)
class Span:
    """What a rank did: from when to when, in microseconds, and of which gradients."""

    rank: int
    kind: str
    begin: int
    end: int
    aside: bool
    gradients: tuple[tuple[int, int], ...]
    about: dict[str, Any]


def read_spans(run: Path, ranks: int) -> list[Span]:
    """Return the spans of all ranks, as they began.

    Raises:
        ConfigError: there are none, or a line is none.
    """
    spans: list[Span] = []
    for rank in range(ranks):
        path = timeline_file(run, rank)
        if path.exists():
            spans += _spans_in(path, rank)
    if not spans:
        raise ConfigError(
            f"{run / FOLDER} has no spans; name the folder of a run that was made with --trace"
        )
    return sorted(spans, key=lambda span: (span.begin, span.rank))


def _spans_in(path: Path, rank: int) -> Iterator[Span]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; run with --trace again") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            return  # its rank was lost while it wrote
        try:
            kind, begin, end, aside, gradients, about = json.loads(line)
            of = tuple((int(worker), int(clock)) for worker, clock in gradients)
            yield Span(rank, str(kind), int(begin), int(end), bool(aside), of, dict(about))
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}:{number} is no span: {line[:60]!r}") from error


def events_of(spans: Sequence[Span], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a trace: names, spans, and arrows.

    Args:
        config: what config.json says of the run.
    """
    hosts: list[str] = config["hosts"]
    numbers = {host: number for number, host in enumerate(dict.fromkeys(hosts))}
    for host, number in numbers.items():
        yield _named("process_name", f"host {host}", pid=number, tid=0)
    for rank, aside in sorted({(span.rank, span.aside) for span in spans}):
        at = _at(numbers, hosts, rank, aside)
        who = "server" if rank < config["servers"] else "rank"
        name = f"{who} {rank}{', beside' if aside else ''}"
        yield _named("thread_name", name, **at)
        yield {"ph": "M", "name": "thread_sort_index", **at, "args": {"sort_index": at["tid"]}}
    start = min(span.begin for span in spans)
    for span in spans:
        yield {
            "ph": "X",
            "name": span.kind,
            "ts": span.begin - start,
            "dur": span.end - span.begin,
            **_at(numbers, hosts, span.rank, span.aside),
            "args": span.about | {"gradients": span.gradients},
        }
    for number, flow in enumerate(_flows(spans)):
        for phase, span in flow:
            at = _at(numbers, hosts, span.rank, span.aside)
            # An arrow begins, passes and ends within the spans that it joins.
            event = {"ph": phase, "id": number, "name": "gradient", "cat": "gradient", **at}
            yield event | {"ts": span.begin - start} | ({"bp": "e"} if phase == "f" else {})


def _flows(spans: Sequence[Span]) -> Iterator[list[tuple[str, Span]]]:
    """Yield the way of each gradient: its last push, the updates after that, and the answer. One
    that was begun again elsewhere has been pushed twice."""
    joined: defaultdict[tuple[int, int], list[Span]] = defaultdict(list)
    for span in spans:
        for gradient in span.gradients if span.kind in (PUSH, UPDATE, PULL) else ():
            joined[gradient].append(span)
    for gradient in sorted(joined):
        pushes, updates, pulls = (
            [span for span in joined[gradient] if span.kind == kind]
            for kind in (PUSH, UPDATE, PULL)
        )
        if pushes and updates:
            yield [
                ("s", pushes[-1]),
                *(("t", update) for update in updates if update.end >= pushes[-1].begin),
                *(("f", pull) for pull in pulls[-1:]),
            ]


def _at(numbers: dict[str, int], hosts: Sequence[str], rank: int, aside: bool) -> dict[str, int]:
    return {"pid": numbers[hosts[rank]], "tid": 2 * rank + aside}


def _named(what: str, name: str, **at: int) -> dict[str, Any]:
    return {"ph": "M", "name": what, **at, "args": {"name": name}}


def draw(run: Path, out: Path) -> int:
    """Write the trace of a run; return how many spans it has.

    Raises:
        ConfigError: the run cannot be read, has no spans, or ``out`` cannot be written.
    """
    try:
        config = json.loads((run / CONFIG).read_bytes())
        ranks = len(config["hosts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{run / CONFIG} cannot be read ({type(error).__name__}); name the folder of a run"
        ) from error
    spans = read_spans(run, ranks)
    trace = {"traceEvents": list(events_of(spans, config)), "displayTimeUnit": "ms"}
    try:
        out.write_text(json.dumps(trace), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    return len(spans)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a run; return the exit status."""

    def work() -> int:
        options = parse(argv)
        run = path_of(options.run, "RUN")
        out = run / OUT if options.out is None else path_of(options.out, "--out")
        count = draw(run, out)
        print(f"{count:,} spans in {out}; open it at https://ui.perfetto.dev, or chrome://tracing")
        return 0

    return run_program("psdp.trace", work)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: an unknown flag.
        SystemExit: ``--help``.
    """
    parser = Parser(
        prog="python -m psdp.trace",
        description="Draw what each rank of a run did when, as a trace for Perfetto or Chrome: "
        "computing, pushes, waits, pulls, updates, evaluations and checkpoints, with an arrow from "
        "each push to its update and to its answer.",
        epilog="example: python -m psdp.trace runs/mine",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run that was made with --trace")
    parser.add_argument("--out", metavar="FILE", help=f"default {OUT} in the run folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
