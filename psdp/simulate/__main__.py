"""``python -m psdp.simulate``: how a job would go, with what costs, for each mode and size."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence

from psdp.errors import ConfigError, PsdpError
from psdp.simulate.plan import Plan, parse
from psdp.simulate.scenario import Prediction, predict
from psdp.simulate.table import table
from psdp.terminal import nobody_reads, show_any_text


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, each row as it is done; return the exit status."""
    show_any_text()
    predictions: list[Prediction] = []
    try:
        plan = parse(sys.argv[1:] if argv is None else argv)
        try:
            print("\n".join(describe(plan)), flush=True)
            room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            for line in table(rows(plan, predictions), plan.grid["mode"], room):
                print(line, flush=True)
        finally:
            # What was done is kept, however it ends.
            if plan.json is not None:
                _write(plan, predictions)
    except PsdpError as error:
        print(f"psdp.simulate: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return nobody_reads()
    except KeyboardInterrupt:
        print(f"psdp.simulate: interrupted after {len(predictions)} row(s)", file=sys.stderr)
        return 130
    return 0


def rows(plan: Plan, done: list[Prediction]) -> Iterator[Prediction]:
    """Simulate every combination, each as soon as the one before is done; add it to ``done``."""
    for job in plan.jobs():
        done.append(predict(job, plan.costs))
        yield done[-1]


def describe(plan: Plan) -> list[str]:
    """Return lines that say what is simulated: the costs, and how well they fit."""
    lines = [] if plan.calibration is None else [str(plan.calibration)]
    return [*lines, f"{plan.size:,} parameters; {plan.costs}"]


def _write(plan: Plan, predictions: Sequence[Prediction]) -> None:
    assert plan.json is not None
    record = {
        "costs": plan.costs.record(),
        "fits": [] if plan.calibration is None else plan.calibration.record(),
        "error": None if plan.calibration is None else plan.calibration.error,
        "settings": plan.settings,
        "predictions": [prediction.record() for prediction in predictions],
    }
    try:
        plan.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {plan.json}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
