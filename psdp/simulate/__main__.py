"""``python -m psdp.simulate``: how a job would go, with what costs, for each mode and size."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from psdp.errors import ConfigError, PsdpError
from psdp.simulate.plan import Plan, parse
from psdp.simulate.scenario import Prediction, predict, predict_alone
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
            for line in table(rows(plan, predictions), plan.grid["mode"]):
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
    alone: dict[str, float] = {}
    for settings, job in plan.jobs():
        key = repr(settings)
        if key not in alone:
            alone[key] = predict_alone(settings, plan.costs, plan.parameters)
        done.append(predict(job, plan.costs, alone=alone[key]))
        yield done[-1]


def describe(plan: Plan) -> list[str]:
    """Return lines that say what is simulated: the costs, and how well they fit."""
    costs, lines = plan.costs, []
    if plan.calibration is not None:
        fit = plan.calibration
        lines.append(
            f"fitted from {len(fit.costs.step_s)} steps of a run of {fit.workers} worker(s): "
            f"{fit.measured:.1f} gradients/s measured, {fit.fitted:.1f} simulated"
        )
    failures = ""
    if costs.mtbf_s is not None:
        back = "never" if costs.restart_s is None else f"after {costs.restart_s:g} s"
        failures = f"; a worker fails every {costs.mtbf_s:g} s and is back {back}"
    lines.append(
        f"{plan.size:,} parameters; step {1e3 * costs.mean_step_s:.4g} ms of a core, "
        f"{'unlimited' if costs.cores is None else costs.cores} cores; message "
        f"{1e6 * costs.latency_s:.4g} us, and {1e6 * costs.server_message_s:.4g} us of a server, "
        f"{1e6 * costs.worker_message_s:.4g} us of a worker; a push "
        f"{1e9 * costs.push_s_per_byte:.3g} ns/byte, a pull {1e9 * costs.pull_s_per_byte:.3g} "
        f"ns/byte; update {1e3 * costs.apply_s:.4g} ms, averaging {1e3 * costs.average_s:.4g} ms "
        f"per gradient{failures}"
    )
    return lines


def _write(plan: Plan, predictions: Sequence[Prediction]) -> None:
    assert plan.json is not None
    record = {
        "costs": plan.costs.record(),
        "settings": plan.settings,
        "predictions": [prediction.record() for prediction in predictions],
    }
    try:
        plan.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {plan.json}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
