"""Tables of Markdown, for pages that are made from the code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a ``|`` in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def code(text: str) -> str:
    """Return ``text`` as code."""
    return f"`{text}`"


def codes(texts: Iterable[str]) -> str:
    """Return several texts as code, with commas."""
    return ", ".join(map(code, texts))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
