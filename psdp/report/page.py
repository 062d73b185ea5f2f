"""The report as one HTML file that needs no other: plots are inside, nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2

from psdp import __version__
from psdp.report.lost import LeftOut
from psdp.report.plots import Plot
from psdp.report.regimes import regimes
from psdp.report.runs import Run
from psdp.report.scenarios import Scenario
from psdp.report.setup import setup
from psdp.report.tables import Table, tables
from psdp.report.text import facts
from psdp.report.verdict import verdict


def render(
    title: str,
    about: str,
    scenarios: Sequence[Scenario],
    runs: Sequence[Run],
    left_out: Sequence[LeftOut],
    beside: Sequence[Table],
    plots: Sequence[Plot],
    folder: Path,
) -> str:
    """Return the page; the plots' files are in ``folder``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("psdp.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        {
            "title": scenario.title,
            "regimes": regimes(scenario),
            "verdict": verdict(scenario),
            "setup": setup(scenario),
            "facts": facts(scenario),
            "tables": tables(scenario),
        }
        for scenario in scenarios
    ]
    pictures = [
        {"plot": plot, "data": base64.b64encode((folder / plot.file).read_bytes()).decode()}
        for plot in plots
    ]
    page: str = environment.get_template("page.html.jinja").render(
        title=title,
        about=about,
        version=__version__,
        sections=sections,
        pictures=pictures,
        runs=runs,
        left_out=left_out,
        beside=beside,
    )
    return page
