"""Names of the folders in which wandb keeps the logs of runs."""

from __future__ import annotations

import re
from pathlib import Path

RUN_FOLDER = re.compile(r"^(?:offline-)?run-(\d{8}_\d{6}-.+)$")
"""A run folder; the group is the segment. Source: wandb.sdk.wandb_settings, ``sync_dir``."""


def segment_of(wandb_file: Path) -> str:
    """Return the name of a log: that of its run folder, without ``run-`` or ``offline-run-``."""
    match = RUN_FOLDER.match(wandb_file.parent.name)
    return match[1] if match else wandb_file.stem
