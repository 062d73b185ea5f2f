"""psdp: an MPI parameter server that trains Transformer language models, and what else can say its
parameters and its gradient.

What a task of one's own needs is here; each name is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from psdp.api import load, run
    from psdp.config import Config
    from psdp.params import Init, ParamSpec, ParamTable
    from psdp.records.tracking import Tracker
    from psdp.task import Measured, Model, NumpyTask, Share, Step, Task

__all__ = [
    "Config",
    "Init",
    "Measured",
    "Model",
    "NumpyTask",
    "ParamSpec",
    "ParamTable",
    "Share",
    "Step",
    "Task",
    "Tracker",
    "load",
    "run",
]

_HOMES = {
    "api": ("load", "run"),
    "config": ("Config",),
    "params": ("Init", "ParamSpec", "ParamTable"),
    "records.tracking": ("Tracker",),
    "task": ("Measured", "Model", "NumpyTask", "Share", "Step", "Task"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"psdp.{home}"), name)
    raise AttributeError(f"module 'psdp' has no attribute '{name}'")
