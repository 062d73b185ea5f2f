"""Every setting of a run: one frozen dataclass a topic, validated once at the edge.

The command line and ``--config FILE.toml`` are both derived from the fields of these classes (see
psdp.cli); what is added here appears there. Settings that have a meaning in some modes alone, and
what each mode has for a default, psdp.modes says. Nothing in this folder reads a file, a clock or
an environment.

model.py, data.py, optim.py, run.py   settings by topic
presets.py                            models that are well known by one name
help.py                               what a person is told of a setting
rules.py                              between settings: contradictions, and what is filled in
windows.py                            the same, of windows and documents
handicap.py                           what --straggler and --jitter say
url.py                                places elsewhere
config.py                             all settings of one run
"""

from psdp.config.config import OF_LANGUAGE, Config, settings
from psdp.config.data import DOCUMENT, PACKED, DataConfig
from psdp.config.help import either, help_of
from psdp.config.model import ModelConfig, head_size, kv_heads, mlp_width, rotary_dims
from psdp.config.optim import OptimConfig
from psdp.config.presets import with_preset
from psdp.config.run import RunConfig
from psdp.config.url import check_url, is_url
from psdp.config.windows import check_prompts
from psdp.fields import base_type, flag_of

__all__ = [
    "DOCUMENT",
    "PACKED",
    "Config",
    "DataConfig",
    "OF_LANGUAGE",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "base_type",
    "check_prompts",
    "check_url",
    "either",
    "flag_of",
    "head_size",
    "help_of",
    "is_url",
    "kv_heads",
    "mlp_width",
    "rotary_dims",
    "settings",
    "with_preset",
]
