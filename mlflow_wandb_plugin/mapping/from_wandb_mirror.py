"""Rules for runs that were created in MLflow and come back from W&B: the inverse of `to_wandb`.

Pure functions. A run's config may come from anybody: it describes this run, and chooses no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_wandb_plugin.core.identity import (
    IDENTITY_CONFIG_KEYS,
    RUN_ID_CONFIG_KEY,
    is_of_package,
)
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, NOTES_TAG, PARENT_TAG
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Key,
    MlflowOrigin,
    RowObjects,
    RunInfo,
    RunState,
    Series,
)
from mlflow_wandb_plugin.mapping import models, to_mlflow
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.names import is_below

STATES: Mapping[str, RunState] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}
"""The state of a run that has ended by its status in MLflow."""
NOT_FROM_TAGS = (NAME_TAG, NOTES_TAG, PARENT_TAG)
"""Tags that have a field of their own."""
TABLE_ARTIFACT = "run_table"
SHOWN_TYPES = frozenset({"image-file", "table-file"})
"""Types of the values that a run's images and tables have in W&B beside their files."""


def is_mirrored(info: RunInfo) -> bool:
    """Whether the run was created in MLflow, by what its config says."""
    section = info.config.get(rules.MLFLOW_KEY)
    return isinstance(section, Mapping) and info.config.get(RUN_ID_CONFIG_KEY) == info.run_id


def restored(info: RunInfo) -> RunInfo:
    """Return a run that was created in MLflow as it was there; another run as it is.

    The config is empty, because what is to become of it is in ``first_config`` and ``mlflow``, and
    so is the summary, which MLflow makes of the points.
    """
    if info.mlflow is not None or not is_mirrored(info):
        return info
    section = info.config[rules.MLFLOW_KEY]
    ended = info.state != "running"
    return replace(
        info,
        name=_text(section.get("name")) or info.name,
        tags=(),
        group="",
        job_type="",
        sweep_id="",
        state=STATES.get(_text(section.get("status")), "killed") if ended else "running",
        started_ms=_time(section.get("start_time"), info.started_ms),
        ended_ms=_time(section.get("end_time"), info.ended_ms) if ended else None,
        config={},
        first_config={(name,): text for name, text in _params(info.config, section).items()},
        summary={},
        last={},
        mlflow=_origin(section),
    )


def _origin(section: Mapping[str, Any]) -> MlflowOrigin:
    datasets = section.get("datasets")
    return MlflowOrigin(
        experiment=_text(section.get("experiment")),
        parent_id=_text(section.get("parent_run_id")),
        tags={
            str(key): value
            for key, value in _mapping(section.get("tags")).items()
            if isinstance(value, str) and key not in NOT_FROM_TAGS and not is_of_package(key)
        },
        datasets=tuple(
            one
            for one in (datasets if isinstance(datasets, list) else ())
            if isinstance(one, Mapping)
        ),
    )


def _params(config: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, str]:
    listed = section.get(rules.FLOAT_PARAMS)
    floats = set(map(str, listed)) if isinstance(listed, list) else set()
    not_params = (*IDENTITY_CONFIG_KEYS, rules.MLFLOW_KEY, rules.INTERNAL_KEY)
    return {
        name: _param(value, name in floats)
        for name, value in (
            (rules.param_of_config_key(key), value)
            for key, value in config.items()
            if key not in not_params
        )
    }


def _param(value: Any, is_float: bool) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    return to_mlflow.param_value(float(value) if is_float and number else value)


def metric_series(series: Series) -> Series:
    """Return points under MLflow's name of their metric. They are all of the history: MLflow's
    own system metrics are."""
    return replace(series, key=(rules.metric_of_key(".".join(series.key)),))


def is_shown_copy(value: Any) -> bool:
    """Whether a value of a row is an image or a table, which is a file of the run, too."""
    return isinstance(value, Mapping) and value.get("_type") in SHOWN_TYPES


def is_copy_of_table(artifact: ArtifactRef) -> bool:
    """Whether an artifact is what the wandb SDK makes of a table of a row."""
    return artifact.type == TABLE_ARTIFACT


def is_model_of_mlflow(artifact: ArtifactRef) -> bool:
    """Whether an artifact was made of a logged model."""
    return artifact.type == models.TYPE and bool(artifact.metadata.get(models.MODEL_ID))


def is_of_mlflow(artifact: ArtifactRef) -> bool:
    """Whether an artifact was made of a logged model or a dataset."""
    is_dataset = artifact.type == rules.DATASET_TYPE and "mlflow_digest" in artifact.metadata
    return is_dataset or is_model_of_mlflow(artifact)


def media_of_calls(row: RowObjects) -> dict[Key, Mapping[str, Any]]:
    """The values of a row that show files that MLflow's calls logged (`rules.CALLS_MEDIA`)."""
    return {
        key: value
        for key, value in row.values.items()
        if is_shown_copy(value) and is_below(str(value.get("path")), rules.CALLS_MEDIA)
    }


def file_path(path: str) -> str | None:
    """The path in MLflow of a file of the W&B run; None for W&B's own files."""
    below = f"{rules.FILES_DIR}/"
    return path.removeprefix(below) if path.startswith(below) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _time(value: Any, default: int | None) -> int | None:
    """Unix ms."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
