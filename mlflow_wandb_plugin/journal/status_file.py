"""The status file beside a journal, written by the process that ships it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.private_files import FILE_MODE, open_private

LEFT_OUT = "left out"
"""State of a journal whose run a plugin does not select."""
WANDB_RUN_ID = "wandb_run_id"
"""Key: the id of the W&B run; the journal's name may have more behind it."""


def read_status(path: Path) -> dict[str, Any]:
    """The status of journal ``path``; empty when there is none yet."""
    try:
        with open_private(path.with_suffix(".status")) as file:
            status = json.load(file)
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace the status of journal ``path`` in one step."""
    write_atomically(path.with_suffix(".status"), json.dumps(status), mode=FILE_MODE)
