"""What the pages say is there: links lead somewhere, and commands are ones that psdp takes.

A fenced block ``sh run`` takes less than a minute and is run here, in the order of its page; a
block ``sh``, and a command within a sentence, is parsed by what it starts.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from files_table import files_table
from made_runs import write_run
from mpi import run_job
from session import run_session
from settings_tables import settings_tables

import psdp.audit.__main__
import psdp.evaluate
import psdp.export
import psdp.generate
import psdp.launch.options
import psdp.report.__main__
import psdp.simulate.__main__
import psdp.tokenize
import psdp.virtual
from benchmarks import forecast, regret, sweep
from psdp.cli import given_settings
from psdp.config import Config, flag_of, settings
from psdp.modes import MODES
from psdp.records.reasons import StoppedBy

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"(python|python3|mpirun|mpiexec|srun|pip|make) ")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return [body for info, body in FENCE.findall(page.read_text("utf-8")) if info == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return what a heading of the page is called in links, as Git hosts and Sphinx have it."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pages
def test_every_internal_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue  # to another site
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


@pages
def test_every_path_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"\b(?:psdp|tests|benchmarks|examples)/[\w./*-]+", page.read_text("utf-8"))
    for path in {name.rstrip(".") for name in named if "NAME" not in name}:
        assert any(ROOT.glob(path)), f"{page.name} names {path}"


def test_readme_is_a_face_and_not_the_manual() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


def said(page: Path) -> Iterator[list[str]]:
    """Yield the commands of a page that are not run, those within its sentences too."""
    for block in blocks(page, "sh"):
        yield from commands(block)
    for text in CODE.findall(prose(page)):
        if COMMAND.match(text):
            yield from commands(text.replace("\n", " "))


def parse_worker(argv: Sequence[str]) -> None:
    if argv == ["--help"]:
        return
    Config.from_flat(given_settings(argv)).resolved()


def parse_launch(argv: Sequence[str]) -> None:
    parse_worker(psdp.launch.options.parse(list(argv)).flags)


def parse_sweep(argv: Sequence[str]) -> None:
    sweep.read_spec(sweep.find_spec(sweep.parse(argv).spec))


def parse_forecast(argv: Sequence[str]) -> None:
    sweep.read_spec(sweep.find_spec(forecast.parse(argv).spec))


def parse_lm_eval(argv: Sequence[str]) -> None:
    """The harness need not be installed."""
    said = dict(zip(argv[::2], argv[1::2], strict=True))
    assert said.keys() <= {"--model", "--model_args", "--tasks"}
    assert said["--model"] == "psdp"
    assert said["--model_args"].startswith("checkpoint=")


MODULES: dict[str, Callable[[list[str]], object]] = {
    "psdp.worker": parse_worker,
    "psdp.launch": parse_launch,
    "psdp.evaluate": psdp.evaluate.parse,
    "psdp.export": psdp.export.parse,
    "psdp.generate": psdp.generate.parse,
    "psdp.lm_eval": parse_lm_eval,
    "psdp.report": psdp.report.__main__.parse,
    "psdp.tokenize": psdp.tokenize.parse,
    "psdp.audit": psdp.audit.__main__.parse,
    "psdp.simulate": psdp.simulate.__main__.parse,
    "psdp.virtual": psdp.virtual.parse,
    "benchmarks.forecast": parse_forecast,
    "benchmarks.regret": regret.parse,
    "benchmarks.sweep": parse_sweep,
}

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def check(words: Sequence[str]) -> None:
    """Have a command parsed by what it starts.

    Raises:
        AssertionError, PsdpError, SystemExit: that would not take it, or nothing is known of it.
    """
    match words:
        case ["export", *assignments]:
            assert all(re.match(r"[A-Z_a-z]+=", word) for word in assignments)
        case [".", ".venv/bin/activate"] | ["python3", "-m", "venv", ".venv"]:
            pass
        case ["make", *goals]:
            assert {goal for goal in goals if "=" not in goal} <= TARGETS
        case ["pip", "install", *what]:
            named = re.search(r"\[(.*)\]$", what[-1])
            assert named is None or set(named[1].split(",")) <= EXTRAS.keys()
        case ["mpirun" | "mpiexec" | "srun", *rest] if "python" in rest:
            check(rest[rest.index("python") :])
        case ["python", "-m", "pytest", *rest]:
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
        case ["python", "-m", module]:
            assert module in MODULES  # its name
        case ["python", "-m", module, *flags]:
            MODULES[module](flags)
        case ["python", "setup.py", "build_ext", "--inplace"]:
            assert (ROOT / "setup.py").is_file()
        case ["python", file, *flags] if file == "mine.py" or file.startswith("examples/"):
            assert file == "mine.py" or (ROOT / file).is_file()
            parse_worker(flags)  # a task of one's own takes these
        case ["python", file, *flags]:
            source = (ROOT / file).read_text("utf-8")
            assert all(f'"{flag}"' in source for flag in flags if flag.startswith("--"))
        case _:
            raise AssertionError(f"nothing is known of the command {shlex.join(words)}")


@pages
def test_commands_are_ones_that_psdp_takes(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in said(page):
        try:
            check(words)
        except Exception as error:
            raise AssertionError(f"{page.name}: {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize(
    "command",
    [
        "python -m psdp.launch -n 3 --stalness 4",
        "python -m psdp.launch -n 3 --mode sync --staleness 4",
        "mpirun -n 3 python -m psdp.worker --mode fast",
        "python -m psdp.generate --checkpoint runs/mine --top 3",
        "python -m psdp.report --out report",
        "python -m psdp.audit runs/mine --recompute many",
        "python -m psdp.simulate --mode ssp --stragglers 1:4",
        "python -m benchmarks.sweep no_such_spec",
        "python benchmarks/compute.py --turns 3",
        "python -m psdp.serve",
        "python -m psdp.serve --port 80",
        "make tea",
        "pip install -e '.[cuda11]'",
        "rm -rf runs",
    ],
)
def test_a_command_that_psdp_does_not_take_is_found(command: str) -> None:
    (words,) = commands(command)
    with pytest.raises((Exception, SystemExit)):
        check(words)


def run(page: Path) -> list[str]:
    """Return the blocks of a page that are run here."""
    return blocks(page, "sh run")


def starts_jobs(page: Path) -> bool:
    return any(starter in block for block in run(page) for starter in ("psdp.launch", "mpirun"))


RUN = [
    pytest.param(
        page,
        id=page.name,
        marks=[pytest.mark.mpi, pytest.mark.one_mpi] if starts_jobs(page) else [],
    )
    for page in PAGES
    if run(page)
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN)
def test_what_takes_less_than_a_minute_works_as_typed(page: Path, tmp_path: Path) -> None:
    """In a folder with a text of one's own and two runs."""
    texts = tmp_path / "my" / "texts"
    texts.mkdir(parents=True)
    for source in (ROOT / "psdp" / "nn").glob("*.py"):
        (texts / f"{source.stem}.txt").write_text(source.read_text("utf-8"), encoding="utf-8")
    write_run(tmp_path / "runs" / "one", mode="sync")
    write_run(tmp_path / "runs" / "two", mode="async")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-euxo", "pipefail", "-c", "".join(run(page))]
    ended = run_session(shell, timeout_s=800, env=env, cwd=tmp_path)
    assert ended.status == 0, f"{page.name}:\n{ended.output}"


def test_readme_has_commands_that_are_run() -> None:
    assert run(ROOT / "README.md")


def test_the_settings_file_that_is_shown_is_taken(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "settings.md", "toml")
    file = tmp_path / "settings.toml"
    file.write_text(shown)
    Config.from_flat(given_settings(["--config", str(file)])).resolved()


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_the_task_that_is_shown_is_trained(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "api.md", "python")
    (tmp_path / "mine.py").write_text(shown)
    ended = run_job(3, "mine.py", "--mode", "ssp", "--max-steps", "50", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "'slope': array(" in ended.stdout


def test_the_settings_page_has_every_flag_and_mode() -> None:
    tables = settings_tables()
    for _, field in settings():
        assert f"| `{flag_of(field.name)}` | " in tables
    for mode in MODES.values():
        assert f"| `{mode.name}` | " in tables
    cells = "".join(" `4` |" if mode.has("staleness") else "  |" for mode in MODES.values())
    assert f"| `--staleness` |{cells}\n" in tables


def test_the_architecture_page_has_every_file_and_what_it_says_of_itself() -> None:
    table = files_table(ROOT / "psdp")
    for file in (ROOT / "psdp").rglob("*.py"):
        if file.name != "__init__.py":
            assert re.search(rf"^\| `{re.escape(file.name)}` \| .+ \|$", table, re.MULTILINE), file
    assert "| `modes.py` | The table of modes:" in table


def test_every_reason_that_a_run_may_end_for_is_named() -> None:
    page = (ROOT / "docs" / "endings.md").read_text("utf-8")
    assert all(f"`{reason}`" in page for reason in StoppedBy)


def test_every_page_is_in_the_table_of_contents() -> None:
    folder = ROOT / "docs"
    listed = re.findall(r"^[a-z]+$", (folder / "index.md").read_text("utf-8"), re.MULTILINE)
    assert {*listed, "index"} == {page.stem for page in PAGES if page.parent == folder}
