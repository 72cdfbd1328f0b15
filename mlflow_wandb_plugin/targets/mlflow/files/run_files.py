"""The files of one MLflow run: W&B's files, artifacts and media, and documents of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import ArtifactRef, FileRef, RowObjects, RunInfo
from mlflow_wandb_plugin.mapping import documents, to_mlflow
from mlflow_wandb_plugin.mapping.documents import artifact_document
from mlflow_wandb_plugin.mapping.names import Limits, Namer, safe_path
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.files.history_file import HistoryFile
from mlflow_wandb_plugin.targets.mlflow.files.losses import Loss, Losses
from mlflow_wandb_plugin.targets.mlflow.files.media import RunMedia
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads

if TYPE_CHECKING:
    from mlflow.entities import RunData

LONG_TAGS_FILE = "wandb/long_tags.json"
LOSSES_FILE = "wandb/losses.jsonl"

RenamedKeys: TypeAlias = Mapping[str, list[str]]
"""W&B's keys, as the labels of their nesting, by the MLflow name that they were given."""


class RunFiles:
    """Collects files and documents and uploads them; what cannot be uploaded is a loss.

    Attributes:
        summary: of all logs; keys of later logs replace those of earlier ones.
        long_tags: full values of the tags that MLflow would cut.
    """

    def __init__(
        self, client: Client, run_id: str, losses: Losses, tags: Mapping[str, str]
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._losses = losses
        self._uploads = Uploads(client, run_id, losses)
        self._media = RunMedia(self._uploads, tags)
        self._longest_tag = Limits.installed().tag_value
        self._names_in_tag: Mapping[str, RenamedKeys] = json.loads(tags.get(identity.RENAMED, "{}"))
        self._history = HistoryFile(self._uploads)
        self._config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self._lineage: list[dict[str, Any]] = []
        self.long_tags: dict[str, str] = {}

    @property
    def tags(self) -> dict[str, str]:
        """Tags that the run needs because of its files."""
        return self._media.tags

    def load_earlier(self, rows: bool = True) -> Mapping[str, RenamedKeys]:
        """Load the documents that an earlier session wrote, those of its rows only if ``rows``;
        return the original keys of all names that it changed, by kind."""
        try:
            listed = self._client.call(self._client.mlflow.list_artifacts, self._run_id, "wandb")
            return self._load({item.path for item in listed}, rows)
        except RefusedError as error:
            self._losses.add("document_refused", Loss("wandb", str(error)), once=True)
            return self._names_in_tag

    def _load(self, paths: set[str], rows: bool) -> Mapping[str, RenamedKeys]:
        """Load those of our documents that are among the artifacts ``paths``."""

        def load(path: str, default: Any) -> Any:
            return json.loads(self._uploads.download(path)) if path in paths else default

        if rows and documents.HISTORY_FILE in paths:
            self._history.load(self._uploads.download(documents.HISTORY_FILE))
        self._config = load(documents.CONFIG_FILE, {})
        self.summary = load(documents.SUMMARY_FILE, {})
        self._lineage = load(documents.LINEAGE_FILE, [])
        self.long_tags = load(LONG_TAGS_FILE, {})
        if LOSSES_FILE in paths:
            self._losses.load(self._uploads.download(LOSSES_FILE))
        names: Mapping[str, RenamedKeys] = load(documents.RENAMED_FILE, self._names_in_tag)
        return names

    def add_row(self, row: RowObjects) -> None:
        """Keep a row's values that are not numbers; show its images and tables in MLflow."""
        self._history.add(row)
        self._media.add_row(row)

    def add_file(self, ref: FileRef) -> None:
        self._media.add_file(ref)
        target = f"{documents.FILES_DIR}/{safe_path(ref.path)}"
        self._uploads.upload(ref.local, target, "file_missing")

    def add_artifact(self, artifact: ArtifactRef) -> None:
        """Upload the files and the description of a logged artifact; note a used one."""
        if artifact.used:
            used = {"type": artifact.type, "name": artifact.name, "version": artifact.version}
            if used not in self._lineage:
                self._lineage.append(used)
            return
        base = "/".join(
            safe_path(part or "_").replace("/", "_")
            for part in (artifact.type, artifact.name, artifact.version)
        )
        for entry in artifact.entries:
            if entry.local is not None:
                target = f"{documents.ARTIFACTS_DIR}/{base}/{safe_path(entry.path)}"
                self._uploads.upload(entry.local, target, "artifact_file_missing")
            elif entry.ref is None:
                self._losses.counts["artifact_file_missing"] += 1
        document = _describe(artifact)
        self._uploads.write_json(f"{documents.ARTIFACTS_DIR}/{base}.json", document)

    def save_losses(self) -> None:
        """Upload new losses; call it before a position is written behind them."""
        lines = self._losses.unsaved_lines()
        if lines:
            self._uploads.write_lines(LOSSES_FILE, lines)
            self._uploads.wait()

    def save_rows(self) -> bool:
        """Upload new lines of the history file; call it before a position is written behind
        them. Returns False if there are too few of them yet to upload all lines again."""
        if self._history.has_grown():
            if not self._history.has_doubled():
                return False
            self._upload_rows()
            self._uploads.wait()
        return True

    def save_names(self, names: Mapping[str, RenamedKeys]) -> None:
        """Upload the original keys of changed names, by kind; where MLflow refuses files, keep
        them in a tag, if one can hold them."""
        from mlflow.entities import RunTag

        self._uploads.write_json(documents.RENAMED_FILE, names)
        self._uploads.wait()
        text = documents.canonical_json(names)
        if documents.RENAMED_FILE in self._uploads.refused and len(text) <= self._longest_tag:
            self._client.log_batch(self._run_id, tags=[RunTag(identity.RENAMED, text)])

    def finish(self, info: RunInfo) -> None:
        """Upload the documents and wait for all uploads."""
        self._upload_rows()
        config = {**self._config, **to_mlflow.config_document(info)}
        self._uploads.write_json(documents.CONFIG_FILE, config)
        self._uploads.write_json(documents.SUMMARY_FILE, self.summary)
        if self._lineage:
            self._uploads.write_json(documents.LINEAGE_FILE, self._lineage)
            self._log_inputs()
        if self.long_tags:
            self._uploads.write_json(LONG_TAGS_FILE, self.long_tags)
        self._uploads.wait()
        self.save_losses()

    def close(self) -> None:
        """End the uploads and remove temporary files; never raises."""
        self._uploads.close()
        self._history.close()

    def _upload_rows(self) -> None:
        self._media.upload()
        self._history.upload()

    def _log_inputs(self) -> None:
        from mlflow.entities import Dataset, DatasetInput

        datasets = [
            DatasetInput(Dataset(used["name"][:500], used["version"][:36], "wandb", text), [])
            for used, text in zip(self._lineage, map(json.dumps, self._lineage), strict=True)
        ]
        try:
            self._client.call(self._client.client.log_inputs, self._run_id, datasets)
        except RefusedError:
            self._losses.counts["input_refused"] += len(datasets)


class RunNames:
    """Names of one run's W&B keys, unique within each kind.

    The original key of a changed name is saved before anything is written under the name: else a
    session that follows a killed one would take the name for another key's, and choose a new one.

    Args:
        data: has the names that the run uses already.
        earlier: original keys by name, by kind, as an earlier session saved them.
    """

    def __init__(self, files: RunFiles, data: RunData, earlier: Mapping[str, RenamedKeys]) -> None:
        limit = Limits.installed().key
        self.metrics = Namer(limit, earlier.get("metrics"), data.metrics)
        self.params = Namer(limit, earlier.get("params"), data.params)
        self.tags = Namer(limit, earlier.get("tags"), data.tags)
        self._namers = {"metrics": self.metrics, "params": self.params, "tags": self.tags}
        self._files = files
        self._saved = self._count()

    def save(self) -> None:
        """Save the original keys of the names that were changed since the last call; call this
        before anything is written under them."""
        if self._count() != self._saved:
            renamed = {kind: dict(namer.renamed) for kind, namer in self._namers.items()}
            self._files.save_names(renamed)
            self._saved = self._count()

    def _count(self) -> int:
        return sum(len(namer.renamed) for namer in self._namers.values())

    def count_rewritten(self) -> int:
        """Number of names that differ from their dotted key."""
        return sum(
            name != ".".join(key)
            for namer in self._namers.values()
            for name, key in namer.renamed.items()
        )


def _describe(artifact: ArtifactRef) -> dict[str, Any]:
    entries = [
        {"path": entry.path, "digest": entry.digest, "size": entry.size}
        | ({"ref": entry.ref} if entry.ref else {})
        for entry in artifact.entries
    ]
    return artifact_document(artifact) | {"entries": entries}
