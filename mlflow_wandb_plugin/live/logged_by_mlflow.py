"""Files, models and datasets that MLflow's calls log, in an open W&B run."""

from __future__ import annotations

import glob
import json
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.atomic_files import copy_file, replaced
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.mapping import media
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.journal_state import JournalModels, JournalState
from mlflow_wandb_plugin.mapping.models import EMPTY_FILE, TYPE, Model
from mlflow_wandb_plugin.mapping.names import safe_path

PATIENCE_S = 60
"""How long the end of the run waits for W&B to have an artifact."""


class LoggedFiles:
    """Files of the MLflow run: they become files of the W&B run, images and tables also media."""

    def __init__(self, run: Any, state: JournalState) -> None:
        self._run = run
        self._lost = state.lost
        self._root = Path(run.dir)

    def add(self, path: str, local: Path, at_ms: int) -> dict[str, Any] | None:
        """Save a file; it is copied at once.

        Returns:
            The row of W&B's history in which it is shown, if it is.
        """
        self._save(rules.file_path(path), local)
        try:
            return self._row(path, local, at_ms)
        except SourceError as error:
            self._lost[str(error)] += 1
            return None

    def _save(self, path: str, local: Path) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # In one step: wandb-core may be reading the file that was there before.
        with replaced(target) as temporary:
            copy_file(local, temporary)
        self._run.save(glob.escape(str(target)), base_path=str(self._root), policy="now")

    def _row(self, path: str, local: Path, at_ms: int) -> dict[str, Any] | None:
        number, folder = self._run.step, rules.CALLS_MEDIA
        name = rules.image_name(path)
        if name is not None:
            at_ms = name.timestamp_ms or at_ms
            row: dict[str, Any] = {
                name.key: self._shown(media.image(name.key, number, local, folder))
            }
            row |= {} if name.step is None else {rules.STEP_METRIC: name.step}
        elif rules.may_be_table(path, local.stat().st_size):
            table = rules.shown_table(local.read_text(encoding="utf-8", errors="replace"))
            if table is None:
                return None
            with tempfile.TemporaryDirectory() as temporary:
                file = Path(temporary, "table.json")
                row = {path: self._shown(media.table(path, number, *table, file, folder))}
        else:
            return None
        return row | {"_timestamp": rules.seconds(at_ms)}

    def _shown(self, shown: media.Media) -> dict[str, Any]:
        self._save(shown.file.path, shown.file.local)
        return shown.value


class LoggedModels:
    """Logged models of the MLflow run: they become artifacts when MLflow has all of them."""

    def __init__(self, run: Any, state: JournalState) -> None:
        self._run = run
        self._state = state
        self._models = JournalModels(dict)
        self._artifacts: dict[str, Any] = {}
        self._registered: dict[str, list[dict[str, Any]]] = {}
        self._changed: dict[str, Model] = {}

    def apply(self, operation: Mapping[str, Any]) -> None:
        """Apply an operation on models."""
        self._models.apply(operation, self._state)

    def add_file(self, model_id: str, path: str, local: Path) -> None:
        """Add a file of a model; it is copied at once."""
        if model_id in self._registered:
            self._state.lost["file of a model that W&B had already"] += 1
            return
        artifact = self._artifact(self._models.change(model_id))
        artifact.add_file(str(local), name=safe_path(path), skip_cache=True, overwrite=True)

    def log(self, last: bool = False) -> None:
        """Log the models of which MLflow has all; with ``last``, all models, and what has changed
        since they were logged."""
        for model in self._models.take_changed(unfinished=last):
            if model.model_id in self._registered:
                self._changed[model.model_id] = model
            elif model.known:
                self._log(model)
            else:
                self._state.lost["version of a model that W&B does not have"] += 1
        for model in self._changed.values() if last else ():
            try:
                self._change(model)
            except Exception as error:
                self._state.lost[f"change of a model, for {type(error).__name__}"] += 1

    def _log(self, model: Model) -> None:
        artifact = self._artifact(model)
        artifact.metadata = model.metadata
        if not artifact.manifest.entries:
            # W&B identifies artifacts by content: models without files would all be one artifact.
            _write(artifact, EMPTY_FILE, model.metadata)
        self._registered[model.model_id] = model.registered
        self._run.log_artifact(artifact, aliases=sorted(model.aliases))

    def _change(self, model: Model) -> None:
        """Change what W&B has of a model; where there is no server, that is lost."""
        if self._run.offline:
            self._state.lost["change of a model that W&B had already"] += 1
            return
        artifact = self._artifacts[model.model_id].wait(PATIENCE_S)
        before = self._registered[model.model_id]
        artifact.aliases = sorted(rules.aliases(artifact.aliases, before, model.registered))
        artifact.metadata = model.metadata
        artifact.save()

    def _artifact(self, model: Model) -> Any:
        import wandb

        if model.model_id not in self._artifacts:
            name = rules.artifact_name(model.name)
            self._artifacts[model.model_id] = wandb.Artifact(name, type=TYPE)
        return self._artifacts[model.model_id]


class UsedDatasets:
    """Datasets of the MLflow run: they become artifacts that the run used, but where there is no
    server, which takes none.

    Attributes:
        names: of the artifacts that W&B has, with their versions.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self.names: list[str] = []
        self._known: list[dict[str, Any]] = []
        self._threads: list[threading.Thread] = []

    def add(self, dataset: Mapping[str, Any]) -> None:
        """Use a dataset; wandb waits for the server, which the script does not."""
        import wandb

        used = rules.used_dataset(dataset)
        if used.document in self._known or self._run.offline:
            return
        self._known.append(used.document)
        artifact = wandb.Artifact(used.name, type=rules.DATASET_TYPE, metadata=used.metadata)
        _write(artifact, rules.DATASET_FILE, used.document)
        thread = threading.Thread(
            target=self._use, args=(artifact,), name="mlflow-wandb", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """Wait until W&B has them."""
        deadline = time.monotonic() + PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _use(self, artifact: Any) -> None:
        try:
            self.names.append(self._run.use_artifact(artifact).name)
        except Exception as error:
            warn_once(f"W&B lacks the dataset {artifact.name} of MLflow's calls: {error}")


def _write(artifact: Any, name: str, document: Mapping[str, Any]) -> None:
    with artifact.new_file(name) as file:
        json.dump(document, file, sort_keys=True, indent=1)
