"""What is told of prompts must have a meaning."""

from __future__ import annotations

from typing import Any

import pytest

from psdp.config import Config
from psdp.errors import ConfigError

PROMPTS: dict[str, Any] = {"window": "document", "prompt_separator": "=>", "prompt_field": "asked"}


def test_prompts_go_with_windows_of_documents() -> None:
    data = Config.from_flat(PROMPTS).resolved().data
    assert (data.window, data.prompt_separator, data.prompt_field) == ("document", "=>", "asked")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt_separator": None}, "--prompt-field asked needs --prompt-separator"),
        ({"prompt_separator": ""}, "--prompt-separator is empty"),
        ({"window": "packed"}, "has a meaning with --window document only"),
        ({"document_separator": "=>"}, "'=>' is the --document-separator, too"),
        ({"clean": "basic"}, "--clean basic may change the --prompt-separator"),
        ({"text_field": "asked"}, "--prompt-field and --text-field are both asked"),
    ],
)
def test_what_has_none_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Config.from_flat(PROMPTS | changes).resolved()
