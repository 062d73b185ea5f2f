"""What was compared, where and by what: the lines that a reader needs to make it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psdp.report.circumstances import SOFTWARE
from psdp.report.comparing import in_rows
from psdp.report.rows import Row
from psdp.report.scenarios import Scenario
from psdp.report.settings import said

MODEL = ("architecture", "n_layer", "n_head", "n_embd", "block_size")
DATA = ("batch_size", "grad_accum", "tokenizer")
OPTIMIZER = ("optimizer", "lr", "lr_schedule", "warmup_steps", "beta1", "beta2", "weight_decay")
BUDGET = ("max_steps", "eval_every", "eval_batches")
CIRCUMSTANCES = ("threads used", "kernels used", "vectors")


def setup(scenario: Scenario) -> list[tuple[str, str]]:
    """Return what each line is about, and what it says. Where rows differ, it names them."""
    rows, unit = scenario.rows, scenario.unit
    first = rows[0]
    size = "parameters not recorded"
    if first.parameters is not None:
        size = f"{first.parameters:,} parameters"
    about = {
        "Model": f"{_settings(rows, MODEL)}; {size}",
        "Data": f"{first.data}; {_settings(rows, DATA)}",
        "Optimizer": _settings(rows, OPTIMIZER),
        "Budget": _settings(rows, BUDGET),
        "Machine": f"{_ranks(scenario)} {_settings(rows, CIRCUMSTANCES)}",
        "Software": _settings(rows, SOFTWARE.values()),
    }
    if unit != "token":
        del about["Model"]  # these settings are those of models of language
    return list(about.items())


def _ranks(scenario: Scenario) -> str:
    rows = scenario.rows
    workers = f"{scenario.workers} worker{'s' if scenario.workers > 1 else ''}"
    servers = in_rows(rows, "servers")
    text = workers
    if servers:
        text += f" and {servers} server{'s' if servers != '1' else ''}"
    known = "machine" in rows[0].circumstances
    return f"{text} on {in_rows(rows, 'machine')}," if known else f"{text},"


def _settings(rows: Sequence[Row], names: Iterable[str]) -> str:
    known = [name for name in names if name in rows[0].settings or name in rows[0].circumstances]
    return ", ".join(f"{said(name)} {in_rows(rows, name)}" for name in known)
