"""Misbehaviour on demand: rules that are matched against each request."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Match = str | Callable[["Request"], bool]


@dataclass
class Request:
    """One request as the server saw it; `status` is 0 while it is under way."""

    method: str
    path: str
    operation: str = ""
    """The GraphQL operation, or an empty string."""
    variables: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    """The run's name (its id in an address), where the request is about one run."""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0

    def is_like(self, match: Match) -> bool:
        """A text is a shell-style pattern for the operation or for `METHOD /path`."""
        if callable(match):
            return match(self)
        return fnmatch.fnmatchcase(self.operation, match) or fnmatch.fnmatchcase(
            f"{self.method} {self.path}", match
        )


@dataclass
class Fault:
    """What to do to requests that match; `hits` counts those it was done to."""

    match: Match
    times: int | None = 1
    skip: int = 0
    status: int | None = None
    retry_after: float | None = None
    drop_after_bytes: int | None = None
    delay: float = 0.0
    gate: threading.Event | None = None
    before: Callable[[], object] | None = None
    then: Callable[[], object] | None = None
    hits: int = 0
    _seen: int = 0

    def applies(self, request: Request) -> bool:
        if not request.is_like(self.match):
            return False
        self._seen += 1
        if self._seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True
