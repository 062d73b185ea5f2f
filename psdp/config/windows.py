"""Rules between the settings of windows and of documents."""

from __future__ import annotations

from psdp.config.data import DOCUMENT, DataConfig
from psdp.errors import ConfigError


def check_windows(data: DataConfig) -> None:
    """
    Raises:
        ConfigError: prompts are told of, and windows do not respect documents, or nothing ends a
            prompt, or cleaning may change what does; or the prompt is the text.
    """
    if data.prompt_separator is None:
        if data.prompt_field is not None:
            raise ConfigError(
                f"--prompt-field {data.prompt_field} needs --prompt-separator, the text between a "
                "prompt and what is learnt"
            )
        return
    if data.prompt_field == data.text_field:
        raise ConfigError(
            f"--prompt-field and --text-field are both {data.text_field}; name another one"
        )
    if not data.prompt_separator:
        raise ConfigError("--prompt-separator is empty; give text that stands in no prompt")
    if data.window != DOCUMENT:
        raise ConfigError(
            f"--prompt-separator has a meaning with --window {DOCUMENT} only, got --window "
            f"{data.window}; drop it, or give --window {DOCUMENT}"
        )
    if data.clean != DataConfig.clean:
        raise ConfigError(
            f"--clean {data.clean} may change the --prompt-separator, too; drop one of the two"
        )
