"""URLs of places elsewhere, as a person gives them in a setting."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from psdp.errors import ConfigError
from psdp.terminal import masked

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Say whether this is a URL, and not the path of a folder here."""
    return _URL.match(text) is not None


def check_url(text: str, flag: str) -> None:
    """
    Raises:
        ConfigError: it is no URL of a folder, or holds what must not be written down.
    """
    said = masked(text)
    if not is_url(text):
        raise ConfigError(
            f"{flag} {said} is no URL; name a folder as PROTOCOL://..., such as s3://bucket/mine"
        )
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {said} is no URL: {error}") from None
    if parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{flag} {said}: passwords and options do not belong in a URL, which is written down; "
            "set them in the environment, or in the configuration of fsspec"
        )
    if not (parts.netloc + parts.path).strip("/"):
        raise ConfigError(f"{flag} {said} names no place; add a bucket or a path")
