"""What others have named, on a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.core.messages import cell, printable


def test_what_commands_a_terminal_is_shown_as_an_escape() -> None:
    """Colours, links, a window's title, a line that is written over, a text that runs backwards."""
    assert printable("\x1b]8;;http://x\x07a\x1b[31m\r\x9b2J\u202eb\x00") == (
        r"\x1b]8;;http://x\x07a\x1b[31m\x0d\x9b2J\u202eb\x00"
    )


@given(st.text())
def test_a_text_keeps_its_other_characters(text: str) -> None:
    """Lines, tabs, accents and symbols are as they were."""
    shown = printable(text)
    assert printable(shown) == shown
    assert all(char.isprintable() or char in "\n\t" or ord(char) > 159 for char in shown)
    plain = "".join(char for char in text if char.isprintable() or char in "\n\t")
    assert printable(plain) == plain


def test_a_cell_has_no_markup() -> None:
    """A name in brackets is a name."""
    assert cell("[red]a[/red] \x1b").plain == r"[red]a[/red] \x1b"
