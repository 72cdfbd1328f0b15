"""The logged models, registered versions, datasets and traces of an MLflow run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import Model, model_of_version, registered_file
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.sources.mlflow.artifact_refs import (
    file_entry,
    model_artifact,
    used_datasets,
)
from mlflow_wandb_plugin.sources.mlflow.artifact_store import ArtifactStore
from mlflow_wandb_plugin.sources.mlflow.run_description import RunDetails, datasets
from mlflow_wandb_plugin.sources.mlflow.store_client import PAGE, StoreClient

if TYPE_CHECKING:
    from mlflow.entities import Run

TRACE_RUN = "mlflow.sourceRun"
"""Metadata key of a trace: id of the run in which it was recorded."""
MODELS = "models"
MODELS_A_PAGE = 50
REGISTRY_FILE = "registered_model_meta"
"""A file that MLflow adds to a registered model when it downloads it, and not the model's own."""


class RunModels:
    """What belongs to one run beside its points and files.

    Attributes:
        details: what the run's config says of it; complete once `load` was called.
    """

    def __init__(self, client: StoreClient, run: Run, follow_links: bool) -> None:
        self._client = client
        self._run = run
        self._follow_links = follow_links
        self.details = RunDetails()
        self._models: dict[str, tuple[Model, str]] = {}

    def load(self) -> dict[str, str]:
        """Ask MLflow for the run's models, versions and traces.

        Returns:
            Why something is not known, by what it is: "models", "registered versions", "traces".

        Raises:
            SourceUnavailableError: MLflow does not answer.
        """
        parts = {
            MODELS: self._load_models,
            "registered versions": self._load_versions,
            "traces": self._load_traces,
        }
        unknown = {}
        for what, load in parts.items():
            try:
                load()
            except SourceUnavailableError:
                raise
            except SourceError as error:
                unknown[what] = str(error)
                self.details.lost[f"{what} not listed"] = 1
        return unknown

    def _load_models(self) -> None:
        run_id = self._run.info.run_id
        found = self._client.pages(
            self._client.mlflow.search_logged_models,
            [self._run.info.experiment_id],
            f"source_run_id = '{run_id}'",
            max_results=MODELS_A_PAGE,
        )
        for one in sorted(found, key=lambda model: (model.creation_timestamp, model.model_id)):
            self._models[one.model_id] = self._model(one), str(one.artifact_location)

    def _load_versions(self) -> None:
        search = self._client.mlflow.search_model_versions
        condition = f"run_id = '{self._run.info.run_id}'"
        for found in self._client.pages(search, condition, max_results=PAGE):
            # A search does not tell the aliases.
            self._add_version(self._version(found.name, found.version))

    @property
    def models(self) -> list[str]:
        """Ids of the models, oldest first; known once `load` was called."""
        return list(self._models)

    def artifact(self, model_id: str) -> ArtifactRef:
        """Return a model as an artifact; local files exist while their paths are referenced.

        Raises:
            SourceError: its files cannot be read.
        """
        model, location = self._models[model_id]
        models = [each for each, _ in self._models.values()]
        return model_artifact(model, models, self._entries(location))

    def used(self) -> Iterator[ArtifactRef]:
        """Yield the run's datasets as artifacts that it used."""
        return used_datasets(datasets(self._run))

    def _model(self, found: Any) -> Model:
        outputs = getattr(self._run.outputs, "model_outputs", None) or ()
        steps = [int(each.step or 0) for each in outputs if each.model_id == found.model_id]
        return Model(
            found.model_id,
            found.name or "",
            found.model_type or "",
            str(getattr(found.status, "name", found.status)),
            dict(found.params or {}),
            dict(found.tags or {}),
            list(dict.fromkeys(steps)),
            known=True,
        )

    def _version(self, name: str, version: str) -> Any:
        return self._client.ask(self._client.mlflow.get_model_version, name, version)

    def _add_version(self, found: Any) -> None:
        version = rules.Version(
            found.name,
            str(found.version),
            tuple(found.aliases or ()),
            found.source or "",
            found.description or "",
            dict(found.tags or {}),
        )
        model_id = model_of_version(found, self._version)
        if model_id in self._models:
            self._models[model_id][0].versions[version.name, version.version] = version
        elif not model_id:
            alias, document = registered_file(version)
            self.details.registered_files[alias] = document

    def _entries(self, location: str) -> Iterator[ArtifactEntry]:
        store = ArtifactStore(self._client, location, self._follow_links)
        for file in store.files():
            if file.path == REGISTRY_FILE:
                continue
            copy = store.fetch(file.path)
            path = safe_path(file.path)
            if copy.refused:
                yield ArtifactEntry(path, "", file.size, refused=copy.refused)
            else:
                yield file_entry(path, copy.path)

    def _load_traces(self) -> None:
        search = self._client.store.search_traces
        experiment = [self._run.info.experiment_id]
        places = "locations" if "locations" in inspect.signature(search).parameters else ""
        condition = f"request_metadata.`{TRACE_RUN}` = '{self._run.info.run_id}'"
        token = None
        while True:
            found, token = self._client.ask(
                search,
                **{places or "experiment_ids": experiment},
                filter_string=condition,
                max_results=PAGE,
                page_token=token,
            )
            self.details.traces += len(found)
            if not token:
                return
