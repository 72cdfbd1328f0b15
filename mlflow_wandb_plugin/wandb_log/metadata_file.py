"""Read ``wandb-metadata.json``: the machine and the program of a run.

wandb before 0.20 records them in this file only; W&B's server keeps it for all runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METADATA_FILE = "wandb-metadata.json"
MAX_BYTES = 10_000_000
_NAMES: Mapping[str, str] = {
    "os": "os",
    "python": "python",
    "program": "program",
    "host": "host",
    "email": "email",
    "executable": "executable",
    "docker": "docker",
    "cpu_count": "cpu_count",
    "gpu": "gpu",
    "gpu_count": "gpu_count",
    "codePath": "code_path",
    "username": "user",
    "cuda": "cuda",
    "cudaVersion": "cuda",
}
"""Names of facts by their names in the file; of two, the later one is preferred."""
_COUNTS = ("cpu_count", "gpu_count")


def facts_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts about a run's origin, from the file or its copy in the config.

    Values of another type than wandb writes are left out.
    """
    facts = {
        ours: metadata[theirs]
        for theirs, ours in _NAMES.items()
        if isinstance(metadata.get(theirs), int if ours in _COUNTS else str) and metadata[theirs]
    }
    args = metadata.get("args")
    if isinstance(args, list) and args:
        facts["args"] = [str(argument) for argument in args]
    git = metadata.get("git")
    for theirs, ours in (("remote", "git_remote"), ("commit", "git_commit")):
        value = git.get(theirs) if isinstance(git, Mapping) else None
        if isinstance(value, str) and value:
            facts[ours] = value
    return facts


def json_object(path: Path, max_bytes: int | None = None) -> Mapping[str, Any]:
    """Read a JSON file; empty if it has no JSON object, or more than ``max_bytes``."""
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}
