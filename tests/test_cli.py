"""The command line: every setting has a flag, flags win over the file, and a mistake is named."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from psdp import __version__
from psdp.cli import build_parser, given_settings
from psdp.config import Config, base_type, flag_of, settings
from psdp.errors import ConfigError

FIELDS = [field for _, field in settings()]
EXAMPLES: dict[str, tuple[list[str], Any]] = {
    "int": (["7"], 7),
    "float": (["0.5"], 0.5),
    "str": (["x y"], "x y"),
    "tuple[str, ...]": (["a.txt", "folder"], ["a.txt", "folder"]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def refusal(*argv: object) -> str:
    with pytest.raises(ConfigError) as refused:
        given_settings([str(word) for word in argv])
    return str(refused.value)


def output_of(*argv: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit, match="0"):
        build_parser().parse_args(argv)
    return out.getvalue()


def test_nothing_said_is_nothing_given() -> None:
    assert given_settings([]) == {}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_has_a_flag(field: Any) -> None:
    if base_type(field) == "bool":
        flag = flag_of(field.name)
        argv, value = ([flag], True) if not field.default else (["--no-" + flag[2:]], False)
    else:
        words, value = EXAMPLES[base_type(field)]
        if choices := field.metadata["choices"]:
            words, value = [choices[-1]], choices[-1]
        argv = [flag_of(field.name), *words]
    assert given_settings(argv) == {field.name: value}


def test_help_tells_every_flag_its_meaning_and_its_default() -> None:
    text = " ".join(output_of("--help").split())
    for field in FIELDS:
        assert flag_of(field.name) in text
        first_words = " ".join(field.metadata["help"].split()[:3])
        assert first_words in text, field.name
        if field.default not in (None, False) and not isinstance(field.default, tuple):
            assert f"(default {field.default})" in text, field.name
    assert "--no-bias" in text
    assert "--config FILE.toml" in text


def test_version_is_psdps() -> None:
    assert output_of("--version") == f"psdp {__version__}\n"


def test_a_switch_can_be_switched_off_where_it_is_on_by_default() -> None:
    assert given_settings(["--no-bias"]) == {"bias": False}
    assert given_settings(["--bias"]) == {"bias": True}
    assert "unrecognized arguments: --no-quiet" in refusal("--no-quiet")


def test_what_a_preset_switches_on_can_be_switched_off() -> None:
    given = given_settings(["--preset", "nanochat", "--no-qk-norm"])
    assert given == {"preset": "nanochat", "qk_norm": False}
    model = Config.from_flat(given).model
    assert (model.qk_norm, model.zero_init, model.activation) == (False, True, "relu2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--layers", "3"], "unrecognized arguments: --layers 3"),
        (["--max-step", "3"], "unrecognized arguments: --max-step 3"),
        (["stray"], "unrecognized arguments: stray"),
        (["--n-layer"], "argument --n-layer: expected one argument"),
        (["--n-layer", "2.5"], "argument --n-layer: invalid int value: '2.5'"),
        (["--max-steps", "1e3"], "argument --max-steps: invalid int value: '1e3'"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["--mode", "ps"], "argument --mode: invalid choice: 'ps'"),
        (["--corpus"], "argument --corpus: expected at least one argument"),
        (["--bias", "false"], "unrecognized arguments: false"),
    ],
)
def test_what_cannot_be_read_is_named_and_help_is_offered(argv: list[str], message: str) -> None:
    got = refusal(*argv)
    assert got.startswith(message)
    assert got.endswith("; see python -m psdp.worker --help")


def test_paths_given_one_by_one_are_kept_all() -> None:
    flags = ["--corpus", "a", "--quiet", "--corpus", "b", "c"]
    assert given_settings(flags) == {"quiet": True, "corpus": ["a", "b", "c"]}


@pytest.mark.parametrize("flag", ["--out", "--resume"])
def test_a_folder_without_a_name_is_refused(flag: str) -> None:
    for argv in ([flag, ""], [f"{flag}="]):
        with pytest.raises(ConfigError, match=f"^{flag} is empty; name a folder, or drop it$"):
            Config.from_flat(given_settings(argv)).resolved()


@pytest.mark.parametrize("value", ["-1", "-1e-3", "-.5", "-2.E+1"])
def test_a_negative_number_is_a_value_and_no_flag(value: str) -> None:
    given = given_settings(["--lr", value])
    assert given == {"lr": float(value)}
    with pytest.raises(ConfigError, match=f"^--lr must be at least 0, got {float(value)}$"):
        Config.from_flat(given).resolved()


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_number_that_python_reads_but_no_run_can_use_is_refused_later(value: str) -> None:
    given = given_settings([f"--lr={value}"])
    with pytest.raises(ConfigError, match="--lr must be"):
        Config.from_flat(given).resolved()


def test_a_file_names_settings_plainly_or_under_their_topic_with_either_dash(file: Path) -> None:
    file.write_text(
        'max_steps = 5\nn-layer = 2\n[data]\ncorpus = ["a", "b"]\n[optim]\nlr = 0.1\nmin-lr = 0\n'
        "[model]\nbias = false\n[run]\nquiet = true\n"
    )
    assert given_settings(["--config", str(file)]) == {
        "max_steps": 5,
        "n_layer": 2,
        "corpus": ["a", "b"],
        "lr": 0.1,
        "min_lr": 0,
        "bias": False,
        "quiet": True,
    }


def test_a_lone_path_in_a_file_is_a_list_of_one(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('val-corpus = "b.txt"\n')
    assert given_settings(["--config", str(file)]) == {"val_corpus": ["b.txt"]}


@pytest.mark.parametrize("content", ['corpus = "a.txt"', '[data]\ncorpus = "a.txt"'])
def test_one_path_in_a_file_needs_no_brackets(file: Path, content: str) -> None:
    file.write_text(content)
    assert given_settings(["--config", str(file)]) == {"corpus": ["a.txt"]}


def test_flags_win_over_the_file_wherever_they_stand(file: Path) -> None:
    file.write_text('n_layer = 2\nmode = "ssp"\ncorpus = ["a", "b"]\nbias = false\n')
    flags = ["--n-layer", "3", "--config", str(file), "--corpus", "c", "--bias"]
    expected = {"n_layer": 3, "mode": "ssp", "corpus": ["c"], "bias": True}
    assert given_settings(flags) == expected


def test_an_empty_file_says_nothing(file: Path) -> None:
    file.write_text("")
    assert given_settings(["--config", str(file)]) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("layers = 3", "unknown setting 'layers'"),
        ("[model]\nlayers = 3", "unknown setting 'layers'"),
        ("[modle]\nn_layer = 3", "unknown setting 'modle'"),
        ("model = 3", "unknown setting 'model'"),
        ('config = "other.toml"', "unknown setting 'config'"),
        ("n_layer = 2.0", "--n-layer expects int, got 2.0"),
        ('n_layer = "2"', "--n-layer expects int, got '2'"),
        ("n_layer = true", "--n-layer expects int, got True"),
        ("lr = [0.1]", "--lr expects float, got [0.1]"),
        ("bias = 0", "--bias expects bool, got 0"),
        ("mode = 3", "--mode expects str, got 3"),
        ("corpus = []", "--corpus expects a list of paths, got []"),
        ("corpus = [1]", "--corpus expects a list of paths, got [1]"),
        ("out = 2026-01-01", "--out expects str, got datetime.date(2026, 1, 1)"),
        ("n_layer = ", "is not TOML: Invalid value"),
        ("n_layer = 1\nn_layer = 2", "is not TOML: Cannot overwrite a value"),
    ],
)
def test_a_mistake_in_the_file_names_the_file(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    got = refusal("--config", file)
    assert got.startswith(f"--config {file}")
    assert message in got


def test_a_file_that_cannot_be_read_is_named(file: Path, tmp_path: Path) -> None:
    assert refusal("--config", file) == f"--config {file}: No such file or directory"
    assert refusal("--config", tmp_path) == f"--config {tmp_path}: Is a directory"
    file.write_bytes(b"\xff")
    assert f"--config {file} is not TOML: 'utf-8' codec" in refusal("--config", file)


def test_a_file_is_read_as_other_systems_write_it(file: Path) -> None:
    text = '[run]\nmode = "ssp"\nout = "rün"\n'
    for raw in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode("utf-8-sig")):
        file.write_bytes(raw)
        assert given_settings(["--config", str(file)]) == {"mode": "ssp", "out": "rün"}
    file.write_text(text, encoding="utf-16")
    assert refusal("--config", file) == f"--config {file} is UTF-16, TOML is UTF-8; save it as that"


def test_a_tilde_is_the_home_folder_in_every_path(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text('out = "~/x"\ncorpus = ["~/a.txt", "b~"]\n')
    given = {"out": f"{tmp_path}/x", "corpus": [f"{tmp_path}/a.txt", "b~"]}
    assert given_settings([f"--config=~/{file.name}"]) == given
    flags = ["--out=~/y", "--resume=~/r", "--replay=~/p", "--corpus", "~/c", "d"]
    given = {"out": "y", "resume": "r", "replay": "p"}
    assert given_settings(flags) == {
        **{name: f"{tmp_path}/{path}" for name, path in given.items()},
        "corpus": [f"{tmp_path}/c", "d"],
    }


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_number_of_any_length_is_one_line(digits: int, file: Path) -> None:
    for flag in ("--seed", "--staleness", "--threads"):
        got = refusal(flag, "9" * digits)
        assert got.startswith(f"argument {flag}: expected a whole number below 2^63, got one of ")
    file.write_text(f"seed = {'9' * digits}")
    assert re.search("seed is beyond 64 bits|is not TOML: Exceeds the", refusal("--config", file))


@pytest.mark.parametrize("name", ["seed", "threads", "lr", "out", "corpus", "record"])
def test_a_number_too_long_to_be_written_out_is_named_where_a_file_holds_it(
    name: str, file: Path
) -> None:
    file.write_text(f"{name} = {'[' * (name == 'corpus')}0x{'f' * 9000}{']' * (name == 'corpus')}")
    got = refusal("--config", file)
    assert got == f"--config {file}: {name} is beyond 64 bits, and no number of TOML is"


@pytest.mark.parametrize("command", ["worker", "launch", "generate", "report", "simulate"])
def test_every_command_tells_its_version(command: str) -> None:
    words = [sys.executable, "-m", f"psdp.{command}", "--version"]
    assert subprocess.run(words, capture_output=True, text=True).stdout == f"psdp {__version__}\n"


def test_the_file_is_checked_even_where_flags_win(file: Path) -> None:
    file.write_text('n_layer = "two"')
    assert "--n-layer expects int, got 'two'" in refusal("--config", file, "--n-layer", 3)
