"""Models of language as Hugging Face keeps them: ``config.json`` and safetensors with names.

Both ways, and without its libraries: an :class:`Architecture` says what a model's settings and its
parameters are called there.
"""

from __future__ import annotations

from psdp.huggingface.architectures import ARCHITECTURES, Architecture
from psdp.huggingface.folder import Folder, is_folder_of_a_model, read_folder
from psdp.huggingface.settings import architecture_of, config_json, settings_of, shape_of
from psdp.huggingface.tensors import Counterpart, counterparts
from psdp.huggingface.writing import Ending, write_folder

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Counterpart",
    "Ending",
    "Folder",
    "architecture_of",
    "config_json",
    "counterparts",
    "is_folder_of_a_model",
    "read_folder",
    "settings_of",
    "shape_of",
    "write_folder",
]
