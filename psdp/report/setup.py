"""What was compared, where and by what: the lines that a reader needs to make it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from psdp.records.search import Search
from psdp.report.circumstances import SOFTWARE
from psdp.report.comparing import in_rows
from psdp.report.formats import loss
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
    if tuned := "; ".join(_searches(scenario)):
        about["Tuned"] = tuned
    if unit != "token":
        del about["Model"]  # these settings are those of models of language
    return list(about.items())


def _searches(scenario: Scenario) -> Iterator[str]:
    """Yield how rows were tuned, and what came out; those of like searches together."""
    like: defaultdict[str, list[str]] = defaultdict(list)
    for row in scenario.all_rows:
        if row.search is not None:
            like[_how(row.search)].append(f"{row.label}: {_best(row.search)}")
    for how, rows in like.items():
        yield f"{how}: {'; '.join(rows)}"


def _how(search: Search) -> str:
    """Return how long was searched, on what, and by what was judged."""
    seeds = f"seed{'s' if len(search.seeds) > 1 else ''} {', '.join(map(str, search.seeds))}"
    after = "at the end" if search.after_s is None else f"after {search.after_s:g} s"
    return f"the best of {search.trials} trials on {seeds}, by the loss {after}"


def _best(search: Search) -> str:
    settings = ", ".join(said(name, value) for name, value in search.best.items())
    given = "which is as given"
    if search.number:
        known = "diverged" if search.loss_given is None else loss(search.loss_given)
        given = f"as given {known}"
    return f"{settings} (loss {loss(search.loss)}, {given})"


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
