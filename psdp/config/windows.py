"""Rules between the settings of windows and of documents."""

from __future__ import annotations

from psdp.config.data import DOCUMENT, DataConfig
from psdp.errors import ConfigError


def check_windows(data: DataConfig) -> None:
    """
    Raises:
        ConfigError: prompts are told of, and windows do not respect documents, or as
            :func:`check_prompts`.
    """
    check_prompts(data)
    if data.prompt_separator is not None and data.window != DOCUMENT:
        raise ConfigError(
            f"--prompt-separator has a meaning with --window {DOCUMENT} only, got --window "
            f"{data.window}; drop it, or give --window {DOCUMENT}"
        )


def check_prompts(data: DataConfig) -> None:
    """
    Raises:
        ConfigError: nothing ends a prompt, or the same as a document, or cleaning may change what
            does; or the prompt is what is learnt.
    """
    field, separator = data.prompt_field, data.prompt_separator
    if field is not None and separator is None:
        raise ConfigError(
            f"--prompt-field {field} needs --prompt-separator, the text between a prompt and what "
            "is learnt"
        )
    if field == data.text_field:
        raise ConfigError(f"--prompt-field and --text-field are both {field}; name another one")
    if separator is None:
        return
    if not separator:
        raise ConfigError("--prompt-separator is empty; give text that stands in no prompt")
    if separator == data.document_separator:
        raise ConfigError(
            f"--prompt-separator {separator!r} is the --document-separator, too; give another one"
        )
    if data.clean != DataConfig.clean:
        raise ConfigError(
            f"--clean {data.clean} may change the --prompt-separator, too; drop one of the two"
        )
