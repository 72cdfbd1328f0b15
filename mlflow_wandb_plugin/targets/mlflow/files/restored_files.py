"""The files of a run that was created in MLflow and comes back from W&B."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import NO_FILE, ArtifactRef, FileRef, RowObjects, RunInfo
from mlflow_wandb_plugin.mapping import from_wandb_mirror
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.targets.mlflow.client import RefusedError
from mlflow_wandb_plugin.targets.mlflow.files.losses import Loss
from mlflow_wandb_plugin.targets.mlflow.files.run_files import RunFiles
from mlflow_wandb_plugin.targets.mlflow.model_copies import ModelCopy, model_copy

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


class RestoredFiles(RunFiles):
    """Uploads files to where they were, without W&B's own files and without documents about the
    run. Datasets become inputs and models logged models again; other artifacts are carried as
    those of a W&B run."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._datasets: tuple[Mapping[str, Any], ...] = ()
        self._models: dict[str, tuple[ModelCopy, ArtifactRef]] = {}

    def add_row(self, row: RowObjects) -> None:
        """Images and tables are files, too; MLflow has no place for other values."""
        others = [v for v in row.values.values() if not from_wandb_mirror.is_shown_copy(v)]
        if others:
            self._losses.counts["row_value"] += len(others)

    def add_file(self, ref: FileRef) -> None:
        path = from_wandb_mirror.file_path(ref.path)
        if path is None:
            return
        target = safe_path(path)
        if ref.refused:
            self._losses.add("file_not_read", Loss(target, ref.refused), once=True)
            return
        self._uploads.upload(ref.local, target, "file_missing")

    def add_artifact(self, artifact: ArtifactRef) -> None:
        if from_wandb_mirror.is_copy_of_table(artifact):
            return
        model = model_copy(artifact)
        if model is not None:
            # A later version of its artifact has what the earlier one has, and more.
            self._models[model.first_id] = model, artifact
            return
        if artifact.type != rules.DATASET_TYPE:
            super().add_artifact(artifact)
            return
        documents = [
            entry.local.read_text(encoding="utf-8", errors="replace")
            for entry in artifact.entries
            if entry.path == rules.DATASET_FILE and entry.local not in (None, NO_FILE)
            if entry.local is not None
        ]
        found = _dataset(documents[0]) if documents else {}
        if found and found not in self._datasets:
            self._datasets = (*self._datasets, found)

    def _list_model(self, artifact: ArtifactRef, folder: str) -> None:
        """A model that does not return as what it was is an artifact alone."""

    def finish(self, info: RunInfo) -> None:
        """Log the models and inputs, and wait for all uploads."""
        for model, artifact in self._models.values():
            if not self._log_model(model):
                # Carried as an artifact of W&B's.
                self._losses.rewrites["model_as_artifact"] += 1
                super().add_artifact(artifact)
        known = {_identity(dataset) for dataset in self._datasets}
        listed = info.mlflow.datasets if info.mlflow is not None else ()
        # Of a dataset without its artifact, the config has no source and no schema.
        bare = [dataset for dataset in listed if _identity(dataset) not in known]
        self._losses.counts["dataset_source"] += len(bare)
        inputs = [_input(dataset) for dataset in (*self._datasets, *bare)]
        if inputs:
            try:
                self._client.call(self._client.client.log_inputs, self._run_id, inputs)
            except RefusedError:
                self._losses.counts["input_refused"] += len(inputs)
        self._uploads.wait()
        self.save_losses()


def _dataset(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def _identity(dataset: Mapping[str, Any]) -> tuple[str, str]:
    return str(dataset.get("name")), str(dataset.get("digest"))


def _input(dataset: Mapping[str, Any]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    optional = (dataset.get(name) for name in ("schema", "profile"))
    texts = (str(text) if text is not None else None for text in optional)
    name, digest = _identity(dataset)
    described = str(dataset.get("source_type") or ""), str(dataset.get("source") or "")
    tags = dataset.get("tags")
    given = tags.items() if isinstance(tags, Mapping) else ()
    entity = Dataset(name[:500], digest[:36], *described, *texts)
    return DatasetInput(entity, [InputTag(str(key), str(value)) for key, value in given])
