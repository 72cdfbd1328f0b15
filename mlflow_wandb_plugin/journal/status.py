"""The status file beside a journal: what whoever ships it last said."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_status(path: Path) -> dict[str, Any]:
    """What the shipper of journal ``path`` last said; empty when it said nothing yet."""
    try:
        status = json.loads(path.with_suffix(".status").read_text())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace the status of journal ``path`` in one step."""
    target = path.with_suffix(".status")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(status, file)
    os.replace(temporary, target)
