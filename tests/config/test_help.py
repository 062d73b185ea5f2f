"""What a person is told of a setting."""

from __future__ import annotations

import re

import pytest

from psdp.config import either, help_of, settings
from psdp.modes import MODES, ONLY_WITH, SERVED

FIELDS = {field.name: field for _, field in settings()}


@pytest.mark.parametrize("name", sorted(ONLY_WITH.keys() - set(SERVED)))
def test_a_setting_of_some_modes_says_of_which(name: str) -> None:
    modes = [mode.name for mode in MODES.values() if mode.has(name)]
    assert help_of(FIELDS[name]).startswith(f"with --mode {either(modes)}: ")


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("n_layer", "4"),
        ("corpus", "stdlib"),
        ("bias", "True"),
        ("mode", "sync"),
        ("staleness", "4"),
        ("merge", "sync"),
        ("lag_compensation", "none"),
        ("local_steps", "50, with --mode easgd 8, with --mode auto 16, with --merge async 8"),
        ("outer_optimizer", "nesterov, with --merge async average"),
        ("beta1", "0.5"),
        ("elastic_rate", "0.9 / workers"),
    ],
)
def test_a_default_is_told_once_for_all_modes(name: str, default: str) -> None:
    text = help_of(FIELDS[name])
    assert text.endswith(f"(default {default})")
    assert text.count("(default") == 1


@pytest.mark.parametrize("name", ["overlap", "quiet", "vocab_size", "resume"])
def test_what_is_off_or_left_out_has_no_default_but_its_own_words(name: str) -> None:
    field = FIELDS[name]
    assert re.sub("^with --mode [^:]*: ", "", help_of(field)) == field.metadata["help"]
