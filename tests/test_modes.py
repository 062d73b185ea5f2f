"""The table of modes agrees with itself and with the settings; nobody else knows a mode by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import psdp
from psdp.config import Config, RunConfig, settings
from psdp.fields import AUTO
from psdp.modes import (
    CANDIDATES,
    MODES,
    ONLY_WITH,
    SERVED,
    Candidate,
    Merge,
    Mode,
    ModeConfig,
    Pushed,
)

ROOT = Path(psdp.__file__).parent
FIELDS = {field.name: field for _, field in settings()}
NAMES = frozenset(MODES)

WORDS = frozenset({"local", "auto"})
"""Names that sentences have for other things too (a local rank): they count where a string is
nothing but names."""

OPERATION = "Allreduce"
"""Of MPI; a mode is called after it."""

FACTORIES = frozenset({"modes.py", "policies.py"})
"""Where names stand: in the table, and where what differs in kind is built."""

CHOICES = "fields.py"
"""Where the choice of devices, kernels and transports is that has the same name as a mode."""

PARTS = {"startswith", "endswith", "removeprefix", "removesuffix", "find", "index", "partition"}
PARTS |= {"rpartition", "split", "strip", "lstrip", "rstrip", "count", "match", "search"}
"""Methods that ask for a part of a string."""

WHICH = {"name", "order", "label", "help", "worth"}
"""What tells which mode it is, and not what it is."""


def text_of(node: ast.AST) -> str | None:
    """Return what a string is, also one that is put together from constants."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=value, format_spec=None):
            return text_of(value)
        case ast.JoinedStr(values=values):
            parts = [text_of(value) for value in values]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = [text_of(left), text_of(right)]
        case ast.Call(
            func=ast.Attribute(value=between, attr="join"),
            args=[ast.List(elts=values) | ast.Tuple(elts=values)],
        ) if (gap := text_of(between)) is not None:
            parts = [text_of(value) for value in values]
            return None if None in parts else gap.join(map(str, parts))
        case _:
            return None
    return None if None in parts else "".join(map(str, parts))


def names_in(text: str) -> set[str]:
    """Return the modes that a string names."""
    words = re.findall(r"[\w-]+", text)
    found = NAMES.intersection(words)
    if found and NAMES.issuperset(words):
        return set(found)
    if text.strip().casefold() in NAMES and text != OPERATION:
        return {text.strip().casefold()}
    after_flag = {word for flag, word in pairwise(words) if flag == "--mode"}
    return set(found - WORDS) | (after_flag & NAMES)


def is_part(text: str | None) -> bool:
    """Say whether a string, or a pattern, holds a part of a mode's name by which one may be told
    from others."""
    parts = re.findall(r"[\w-]{2,}", text or "")
    return any(part in name for part in parts for name in NAMES)


def named_mode(node: ast.AST) -> bool:
    """Say whether an expression is called a mode."""
    return getattr(node, "attr", getattr(node, "id", None)) == "mode"


def told_apart(node: ast.AST) -> bool:
    """Say whether a node asks for a part of a mode's name, or compares what tells which it is."""
    match node:
        case ast.Call(func=ast.Attribute(attr=method), args=[*args]) if method in PARTS:
            return any(
                is_part(text_of(part))
                for arg in args
                for part in (arg.elts if isinstance(arg, ast.Tuple) else [arg])
            )
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]):
            return is_part(text_of(left)) and named_mode(right)
        case ast.Subscript(value=ast.Call(args=[listed])) if "MODES" in ast.unparse(listed):
            return True
        case ast.Subscript(value=value):
            return named_mode(value) or (
                isinstance(value, ast.Attribute)
                and value.attr == "name"
                and named_mode(value.value)
            )
        case ast.Compare(left=left, comparators=[right]):
            sides = (left, right)
            constant = any(
                isinstance(side, ast.Constant) and side.value is not None for side in sides
            )
            return constant and any(
                isinstance(side, ast.Attribute) and side.attr in WHICH and named_mode(side.value)
                for side in sides
            )
    return False


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield names by which getattr, dict() or an Enum would know a mode."""
    match node:
        case ast.keyword(arg=str(name)):
            yield name
        case ast.ClassDef(body=body):
            for line in body:
                match line:
                    case ast.FunctionDef(name=name):
                        yield name
                    case ast.Assign(targets=[ast.Name(id=name)]):
                        yield name


def knowledge(source: str) -> list[str]:
    """Return where and how a source knows modes by name, docstrings and comments apart."""
    tree = ast.parse(source)
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in prose:
            continue
        text = text_of(node)
        names = names_in(text) if text is not None else set()
        names |= NAMES.intersection(identifiers(node))
        if names:
            line = getattr(node, "lineno", 0)
            found.append(f"line {line}: {', '.join(sorted(names))}")
        elif told_apart(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "mode == 'sync'",
        "mode in ('sync', 'async')",
        "mode in 'local easgd'",
        "mode in 'local,easgd'.split(',')",
        "paced = {'local': True}",
        "match mode:\n    case 'auto':\n        pass",
        "match mode, merge:\n    case ('sync', _) | ('ssp', None):\n        pass",
        "def run(mode='sync'): pass",
        "def run(*, mode: str = 'ssp'): pass",
        "f'{x}sync'",
        "f'sy{\"nc\"}'",
        "mode == 'sy' + 'nc'",
        "mode == ''.join(['al', 'lreduce'])",
        "mode == ' sync'.strip()",
        "mode.upper() == 'SYNC'",
        "mode.startswith('sy')",
        "mode.endswith(('sgd', 'x'))",
        "'sgd' in mode",
        "mode[:2] == x",
        "run.mode[0] == 's'",
        "mode.name[0] == 's'",
        "tuple(MODES)[1]",
        "list(modes.MODES.values())[1]",
        "mode.order == 0",
        "config.mode.order < 2",
        "re.match('easg.', mode)",
        "dict(easgd=1)",
        "class Kind(Enum):\n    local = 1",
        "class Kinds:\n    def ssp(self): pass",
        "print('as sync does')",
        "help = 'with --mode local only'",
        "MODES['easgd']",
    ],
)
def test_a_name_is_found_however_it_stands(source: str) -> None:
    assert knowledge(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""As sync and async."""',
        "class A:\n    x = 1\n    '''Of sync.'''",
        "# sync\nmode = run.mode",
        "'the local rank of a node'",
        "'--local-steps'",
        "local_rank = places['local_rank']",
        "'synchronous'",
        "'gradients by MPI Allreduce'",
        "operation = 'Allreduce'",
        "mode.served and not mode.in_rounds",
        "mode.worth is None",
        "MODES[run.mode]",
        "name.startswith('runs')",
        "a.order == 0",
        "f'{mode} runs'",
    ],
)
def test_what_names_no_mode_is_left_alone(source: str) -> None:
    assert not knowledge(source)


FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("file", [file for file in FILES if file not in FACTORIES | {CHOICES}])
def test_a_file_knows_no_mode_by_name(file: str) -> None:
    assert knowledge(FILES[file].read_text("utf-8")) == []


def test_the_choice_that_is_called_as_a_mode_stands_in_one_place() -> None:
    assert AUTO in NAMES
    assert knowledge(FILES[CHOICES].read_text("utf-8").replace(f'AUTO = "{AUTO}"', "")) == []


def test_no_template_or_kernel_knows_one() -> None:
    for path in ROOT.rglob("*"):
        if path.suffix in (".jinja", ".c", ".h", ".cu", ".cuh"):
            words = set(re.findall(r"['\"]([\w-]+)['\"]", path.read_text("utf-8")))
            assert not words & NAMES, path


def test_the_table_exports_no_mode_of_its_own() -> None:
    import psdp.modes

    own = [name for name, value in vars(psdp.modes).items() if isinstance(value, Mode)]
    assert own == []


# The table


def test_rows_are_known_by_their_names_and_cannot_be_changed() -> None:
    for name, mode in MODES.items():
        assert str(mode) == mode.name == name
        with pytest.raises(FrozenInstanceError):
            mode.served = False  # type: ignore[misc]
        with pytest.raises(TypeError):
            mode.settings["x"] = 1  # type: ignore[index]


def test_the_order_in_reports_is_one() -> None:
    assert len({mode.order for mode in MODES.values()}) == len(MODES)


def test_the_flag_has_the_rows_of_the_table_and_the_first_is_the_default() -> None:
    field = FIELDS["mode"]
    assert field.metadata["choices"] == tuple(MODES)
    assert field.default == next(iter(MODES))
    assert FIELDS["merge"].metadata["choices"] == tuple(Merge)
    for mode in MODES.values():
        assert f"{mode.name}: {mode.help}" in field.metadata["help"]


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_what_a_row_says_of_settings_is_what_a_run_gets(mode: Mode) -> None:
    config = Config.from_flat({"mode": mode.name}).resolved()
    assert config.mode is mode
    flat = config.flat()
    for name, default in mode.settings.items():
        assert FIELDS[name].default in (None, default), f"two defaults of {name}"
        assert default in (None, flat[name]), name
    for name in ONLY_WITH.keys() - mode.settings.keys() - set(SERVED):
        assert flat[name] == FIELDS[name].default, f"{name} has no meaning here"


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_a_label_is_made_of_settings_that_the_mode_has(mode: Mode) -> None:
    flat = Config.from_flat({"mode": mode.name}).resolved().flat()
    label = mode.label.format_map({name: flat[name] for name in mode.settings})
    assert label.startswith(mode.name)


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_traits_do_not_contradict_one_another(mode: Mode) -> None:
    assert len(set(mode.pushes)) == len(mode.pushes) > 0
    assert (Pushed.NOTHING in mode.pushes) is not mode.served
    if not mode.chooses:
        alone = Pushed.GRADIENT not in mode.pushes
        assert mode.own_optimizer is alone, "a gradient is for the optimizer of the servers"
        assert ("local_steps" in mode.settings) is (alone and mode.served)
    assert mode.merged_each.keys() <= mode.settings.keys()
    assert not mode.merged_each or "merge" in mode.settings


def test_there_is_something_to_choose_from() -> None:
    for name, one in CANDIDATES.items():
        assert name == one.name == str(one)
        assert one.mode.served
        assert not one.mode.chooses
        assert one.merge is None or one.mode.has("merge")
        for workers in range(1, 100):
            assert 0 < one.worth_of(workers) < 10
    pushed = {kind for one in CANDIDATES.values() for kind in one.pushes}
    for mode in MODES.values():
        if mode.chooses:
            assert pushed == set(mode.pushes)
            asked = {name for one in CANDIDATES.values() for name in one.mode.settings}
            assert mode.settings.keys() <= asked


def test_what_a_gradient_is_worth_lies_between_what_was_measured() -> None:
    one = Candidate("one", MODES["sync"], worth={2: 1.0, 8: 2.0})
    worths = [one.worth_of(workers) for workers in (1, 2, 4, 8, 99)]
    assert worths == pytest.approx([1.0, 1.0, 1.5, 2.0, 2.0])


def test_reports_have_an_exact_mode_with_servers_and_one_without_to_compare_with() -> None:
    assert {mode.served for mode in MODES.values() if mode.exact} == {True, False}


def test_what_stands_beside_the_table_is_for_some_of_its_modes_alone() -> None:
    own = {field.name for field in fields(ModeConfig)} - {"mode"}
    assert own == {name for name in ONLY_WITH.keys() - set(SERVED) if hasattr(RunConfig, name)}


def test_a_setting_of_some_modes_names_them_in_the_order_of_the_table() -> None:
    def of(trait: Any) -> tuple[str, ...]:
        return tuple(name for name, mode in MODES.items() if trait(mode))

    for name, modes in ONLY_WITH.items():
        assert name in FIELDS
        assert modes == of(lambda mode, name=name: mode.has(name))
    assert all(ONLY_WITH[name] == of(lambda mode: mode.served) for name in SERVED)
