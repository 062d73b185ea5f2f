"""Messages of all kinds, with whatever values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from psdp.transport.messages import Message

Strategy = st.SearchStrategy[Any]


def messages_of(whole: Strategy, floats: Strategy) -> Strategy:
    """Return messages made of such numbers."""
    plain = {int: whole, float: floats, bool: st.booleans(), str: st.text(max_size=64)}
    every = plain | {NoneType: st.none()}
    return st.sampled_from(get_args(Message)).flatmap(lambda kind: _values(kind, every))


def _values(kind: Any, plain: Mapping[Any, Strategy]) -> Strategy:
    """Return values of the type of a field."""
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is tuple:
        return st.lists(_values(get_args(kind)[0], plain), max_size=16).map(tuple)
    if isinstance(kind, UnionType):
        return st.one_of([_values(one, plain) for one in get_args(kind)])
    if issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    hints = get_type_hints(kind)
    return st.builds(kind, **{f.name: _values(hints[f.name], plain) for f in fields(kind)})
