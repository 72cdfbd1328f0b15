"""How often tests kill a command before it may end."""

from __future__ import annotations

import os

ALL = "TEST_KILLS"
"""The variable that ``make test-kills`` sets."""


def kills(number: int) -> int:
    """Return ``number`` for ``make test-kills``, a quarter of it for ``make test``."""
    return number if os.environ.get(ALL) else number // 4
