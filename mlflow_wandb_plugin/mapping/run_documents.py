"""The files below ``wandb/`` in an MLflow run's artifacts, and how their JSON is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

FILES_DIR = "wandb/files"
ARTIFACTS_DIR = "wandb/artifacts"
CONFIG_FILE = "wandb/config.json"
SUMMARY_FILE = "wandb/summary.json"
HISTORY_FILE = "wandb/history.jsonl"
RENAMED_FILE = "wandb/renamed.json"
SWEEP_CONFIG_FILE = "wandb/sweep_config.json"
LINEAGE_FILE = "wandb/lineage.json"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical_json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys; a float without fraction is written as an integer.

    W&B's core and its server rewrite ``1.0`` as ``1``: without this rule a document would depend
    on which way it came.
    """
    document = _canonical(value)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, default=str, indent=indent)
    # UTF-8 has no place for a lone surrogate; wandb-core writes the same in its stead.
    return _LONE_SURROGATE.sub("\ufffd", text)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(below) for below in value]
    return value
