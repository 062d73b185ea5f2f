"""What every command line here has in common; no settings, and so nothing that is slow to load."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from psdp import __version__
from psdp.errors import ConfigError
from psdp.terminal import shown


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and exit; knows ``--version``."""

    def __init__(self, **how: Any) -> None:
        super().__init__(allow_abbrev=False, **how)
        self.add_argument("--version", action="version", version=f"psdp {__version__}")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def add_choice_of_weights(self) -> None:
        """Add the flags that say which weights of a run are taken."""
        self.add_argument(
            "--best",
            help="take the checkpoint of the run folder that has the lowest validation loss",
            action="store_true",
        )
        self.add_argument(
            "--raw-weights",
            help="take the weights themselves of a run that has averaged them (--ema)",
            action="store_true",
        )


def whole(text: str) -> int:
    """Return the whole number that an argument is, for any parser.

    Raises:
        argparse.ArgumentTypeError: it is none, or beyond 2^63.
    """
    digits = text.strip().lstrip("+-")
    if digits.isdecimal() and len(digits.lstrip("0")) > _LONGEST:
        raise argparse.ArgumentTypeError(
            f"expected a whole number below 2^63, got one of {len(digits)} digits"
        )
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {shown(text)}") from None


_LONGEST = len(str(1 << 63))
"""Digits of the longest number that is read; Python itself refuses thousands of them."""
