"""Logged models and datasets of MLflow as W&B artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.file_digests import base64_md5
from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import EMPTY_FILE, TYPE, Model
from mlflow_wandb_plugin.sources.mlflow.artifact_store import temporary_file


def model_artifact(
    model: Model, models: Iterable[Model], entries: Iterable[ArtifactEntry]
) -> ArtifactRef:
    """Return a model as an artifact; local files exist while their paths are referenced.

    Args:
        models: all of the run, oldest first: those whose artifacts have one name are its versions.
    """
    name = rules.artifact_name(model.name)
    same = [one for one in models if rules.artifact_name(one.name) == name]
    return ArtifactRef(
        TYPE,
        name,
        f"v{same.index(model)}",
        aliases=tuple(sorted(model.aliases)),
        metadata=model.metadata,
        # W&B identifies artifacts by content: models without files would all be one artifact.
        entries=tuple(entries) or (document_entry(EMPTY_FILE, model.metadata),),
    )


def used_datasets(datasets: Iterable[Mapping[str, Any]]) -> Iterator[ArtifactRef]:
    """Yield a run's datasets as artifacts that it used."""
    versions: dict[str, list[Any]] = {}
    for dataset in datasets:
        used = rules.used_dataset(dataset)
        known = versions.setdefault(used.name, [])
        if used.document in known:
            continue
        known.append(used.document)
        yield ArtifactRef(
            rules.DATASET_TYPE,
            used.name,
            f"v{len(known) - 1}",
            metadata=used.metadata,
            entries=(document_entry(rules.DATASET_FILE, used.document),),
            used=True,
        )


def file_entry(path: str, local: Path) -> ArtifactEntry:
    return ArtifactEntry(path, base64_md5(local), local.stat().st_size, local)


def document_entry(name: str, content: Mapping[str, Any]) -> ArtifactEntry:
    """A file of an artifact that is made of what is known."""
    local = temporary_file(name)
    local.write_text(json.dumps(content, sort_keys=True, indent=1), encoding="utf-8")
    return file_entry(name, local)
