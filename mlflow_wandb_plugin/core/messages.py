"""Texts for a terminal: warnings that a process shows once, and what others have named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_logger = logging.getLogger("mlflow_wandb_plugin")
_shown: set[str] = set()


def show_once(message: str, show: Callable[[str], None]) -> None:
    """Pass ``message`` to ``show``, the first time in this process only."""
    if message not in _shown:
        _shown.add(message)
        show(message)


def log_once(message: str) -> None:
    """Log a warning, the first time in this process only.

    Printing it as `live.terminal` does would import wandb: half a second of a script's time.
    """
    show_once(f"mlflow-wandb: {message}", _logger.warning)


_ESCAPED = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}
"""The control characters of Unicode, and those that change the direction of a text."""


def printable(text: str) -> str:
    """Return ``text`` with its control characters as escapes: the name of a run, or the answer of a
    server, must not command the terminal that shows it."""
    return text.translate(_ESCAPED)


def cell(text: str) -> Text:
    """Return a cell of a table, or a line of a progress bar, in which nothing is markup and nothing
    commands the terminal."""
    from rich.text import Text

    return Text(printable(text))
