"""JSON documents about a run: their paths in MLflow's artifacts, their text and their content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.model import ArtifactRef

FILES_DIR = "wandb/files"
ARTIFACTS_DIR = "wandb/artifacts"
CONFIG_FILE = "wandb/config.json"
SUMMARY_FILE = "wandb/summary.json"
HISTORY_FILE = "wandb/history.jsonl"
RENAMED_FILE = "wandb/renamed.json"
SWEEP_CONFIG_FILE = "wandb/sweep_config.json"
LINEAGE_FILE = "wandb/lineage.json"
LONG_TAGS_FILE = "wandb/long_tags.json"
SUMMARY_POINTS_FILE = "wandb/summary_points.json"
"""(step, Unix ms) of the points that the summary alone has, by MLflow's name of the metric."""
DEFINITIONS_FILE = "wandb/metric_definitions.json"
"""How W&B shows metrics (`define_metric`), as the run's internal config has it."""
ALERTS_FILE = "wandb/alerts.json"
"""What the user said with `wandb.alert`, which W&B's server does not tell."""
CAPTIONS_FILE = "wandb/captions.json"
"""The captions of images, by the path of the image."""
KNOWN_TO_ONE = (SUMMARY_POINTS_FILE, DEFINITIONS_FILE, ALERTS_FILE)
"""Documents that a local log and W&B's server give different content."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical_json(value: Any, indent: int | None = None) -> str:
    """Encode ``value`` as JSON with sorted keys, and floats without fraction as integers.

    W&B's core and its server rewrite ``1.0`` as ``1``: otherwise the text would depend on where
    the value was read.
    """
    document = _canonical(value)
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, default=str, indent=indent)
    # UTF-8 cannot encode a lone surrogate; wandb-core replaces it in the same way.
    return _LONE_SURROGATE.sub("\ufffd", text)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(below) for below in value]
    return value


def artifact_document(artifact: ArtifactRef) -> dict[str, Any]:
    """Describe an artifact, without its files."""
    return {
        "type": artifact.type,
        "name": artifact.name,
        "version": artifact.version,
        "digest": artifact.digest,
        "description": artifact.description,
        "aliases": list(artifact.aliases),
        "metadata": dict(artifact.metadata),
    }
