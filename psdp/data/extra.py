"""Libraries that only some need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from psdp.errors import ConfigError


class NotInstalled(ConfigError):
    """A library is not there."""


def needed(library: str, why: str, extra: str = "data") -> Any:
    """Return a library, loaded now, which comes with an extra of psdp.

    Raises:
        NotInstalled: it is not; the text begins with ``why``.
    """
    try:
        return import_module(library)
    except ImportError as error:
        raise NotInstalled(
            f"{why}, which needs {error.name}; pip install 'psdp[{extra}]'"
        ) from error
