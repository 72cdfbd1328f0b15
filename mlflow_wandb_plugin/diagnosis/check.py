"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found.

    Attributes:
        state: "note" for what works, and could be better.
        said: one line, without secrets.
        todo: what to do about it; empty where there is nothing to do.
    """

    name: str
    state: State
    said: str
    todo: str = ""
