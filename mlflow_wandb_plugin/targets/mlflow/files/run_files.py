"""The files of one MLflow run: W&B's files, artifacts and media, and documents of our own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import ArtifactRef, FileRef, RowObjects, RunInfo
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.core.server_values import is_kept_as
from mlflow_wandb_plugin.mapping import documents, from_wandb_mirror, to_mlflow
from mlflow_wandb_plugin.mapping.documents import artifact_document
from mlflow_wandb_plugin.mapping.models import TYPE
from mlflow_wandb_plugin.mapping.names import Limits, is_below, safe_path
from mlflow_wandb_plugin.mapping.to_wandb import CALLS_MEDIA
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.files.captions import Captions
from mlflow_wandb_plugin.targets.mlflow.files.charts import Charts
from mlflow_wandb_plugin.targets.mlflow.files.histograms import Histograms
from mlflow_wandb_plugin.targets.mlflow.files.history_file import HistoryFile
from mlflow_wandb_plugin.targets.mlflow.files.losses import Loss, Losses
from mlflow_wandb_plugin.targets.mlflow.files.media import RunMedia
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads
from mlflow_wandb_plugin.targets.mlflow.model_copies import ModelCopy, model_of_artifact

OURS = "wandb/"
"""Begins the path of everything that this package writes."""
LOSSES_FILE = "wandb/losses.jsonl"

DIGEST_LENGTH = 12
"""Characters of an artifact's digest that name its folder."""

RenamedKeys: TypeAlias = Mapping[str, list[str]]
"""W&B's keys, as the labels of their nesting, by the MLflow name that they were given."""


class RunFiles:
    """Collects files and documents and uploads them; what cannot be uploaded is a loss.

    Attributes:
        summary: of all logs; keys of later logs replace those of earlier ones.
        long_tags: full values of the tags that MLflow would cut.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        losses: Losses,
        tags: Mapping[str, str],
        secrets: Secrets,
    ) -> None:
        self._secrets = secrets
        self._client = client
        self._run_id = run_id
        self._losses = losses
        self._uploads = Uploads(client, run_id, losses)
        self._media = RunMedia(self._uploads, tags)
        self._longest_tag = Limits.installed().tag_value
        self._names_in_tag = _names_in_tag(tags)
        self._history = HistoryFile(self._uploads)
        self._histograms = Histograms(self._uploads)
        self._captions = Captions(self._uploads)
        self._charts = Charts(self._uploads, self._media.files)
        self._config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self._lineage: list[dict[str, Any]] = []
        self._alerts: list[dict[str, str]] = []
        self.long_tags: dict[str, str] = {}
        self._summary_points: dict[str, list[list[int]]] = {}
        self._has_calls = self._calls_were_here = False

    def note_calls(self, has_calls: bool, here: bool) -> None:
        """Note whether MLflow's calls logged files of the run, and to this MLflow run: it has them
        then, and another run gets them at the same paths."""
        self._has_calls, self._calls_were_here = has_calls, has_calls and here

    @property
    def tags(self) -> dict[str, str]:
        """Tags that the run needs because of its files."""
        return self._media.tags | to_mlflow.alerts_tag(self._alerts)

    @property
    def lacking_images(self) -> set[str]:
        """Paths of tables whose images are not known here."""
        return self._media.lacking_images

    def load_earlier(self) -> Mapping[str, RenamedKeys]:
        """Load the documents that an earlier session wrote; return the original keys of all names
        that it changed, by kind."""
        try:
            listed = self._client.call(self._client.mlflow.list_artifacts, self._run_id, "wandb")
            return self._load({item.path for item in listed})
        except RefusedError as error:
            self._losses.add("document_refused", Loss("wandb", str(error)), once=True)
            return self._names_in_tag

    def _load(self, paths: set[str]) -> Mapping[str, RenamedKeys]:
        """Load those of our documents that are among the artifacts ``paths``."""

        def load(path: str, default: Any) -> Any:
            """Read a document; one that was damaged in MLflow is written anew."""
            try:
                document = json.loads(self._uploads.download(path)) if path in paths else default
            except ValueError:
                return default
            return document if isinstance(document, type(default)) else default

        if documents.HISTORY_FILE in paths:
            with contextlib.suppress(UnicodeDecodeError):
                lines = self._uploads.download(documents.HISTORY_FILE)
                self._history.load(lines)
                for row in self._history.rows(lines):
                    self._show(row)
        self._config = load(documents.CONFIG_FILE, {})
        self.summary = load(documents.SUMMARY_FILE, {})
        self._lineage = load(documents.LINEAGE_FILE, [])
        self._alerts = _alerts(load(documents.ALERTS_FILE, []))
        self.long_tags = load(documents.LONG_TAGS_FILE, {})
        self._summary_points = load(documents.SUMMARY_POINTS_FILE, {})
        if LOSSES_FILE in paths:
            with contextlib.suppress(ValueError):
                self._losses.load(self._uploads.download(LOSSES_FILE))
        names: Mapping[str, RenamedKeys] = load(documents.RENAMED_FILE, self._names_in_tag)
        return names

    def forget_earlier(self) -> None:
        """Forget what an earlier session wrote: all of the run comes again."""
        self._history.clear()
        self._histograms.clear()
        self._charts.clear()
        self._captions.clear()
        self._config, self.summary, self._lineage, self.long_tags = {}, {}, [], {}
        self._summary_points, self._alerts = {}, []
        self._losses.clear()

    def add_row(self, row: RowObjects) -> None:
        """Keep a row's values that are not numbers; show its media in MLflow."""
        copies = from_wandb_mirror.media_of_calls(row) if self._has_calls else {}
        if copies and not self._calls_were_here:
            self._media.list_files(copies)
        rest = {key: value for key, value in row.values.items() if key not in copies}
        if rest:
            row = replace(row, values=rest) if copies else row
            if self._history.add(row):
                self._show(row)
            self._media.add_row(row)

    def _show(self, row: RowObjects) -> None:
        """Take what is shown of all rows at once; each row comes once."""
        self._histograms.add_row(row)
        self._charts.add_row(row)
        self._captions.add_row(row)

    def add_file(self, ref: FileRef) -> None:
        of_calls = from_wandb_mirror.file_path(ref.path) if self._has_calls else None
        if of_calls is not None and self._calls_were_here:
            return
        if self._has_calls and is_below(ref.path, CALLS_MEDIA):
            return
        target = f"{documents.FILES_DIR}/{safe_path(ref.path)}"
        if of_calls is not None and not of_calls.startswith(OURS):
            target = safe_path(of_calls)
        if ref.refused:
            self._losses.add("file_not_read", Loss(target, ref.refused), once=True)
            return
        self._media.add_file(ref)
        self._uploads.upload(ref.local, target, "file_missing")

    def add_artifact(self, artifact: ArtifactRef) -> None:
        """Upload the files and the description of a logged artifact; note a used one."""
        if self._calls_were_here and from_wandb_mirror.is_of_mlflow(artifact):
            return
        if artifact.used:
            used = {"type": artifact.type, "name": artifact.name, "version": artifact.version}
            used |= {"digest": artifact.digest} if artifact.digest else {}
            if used not in self._lineage:
                self._lineage.append(used)
            return
        self._media.add_artifact(artifact)
        # A local log does not know the version, which W&B's server numbers.
        version = artifact.digest[:DIGEST_LENGTH] or artifact.version
        base = "/".join(
            safe_path(part or "_").replace("/", "_")
            for part in (artifact.type, artifact.name, version)
        )
        for entry in artifact.entries:
            target = f"{documents.ARTIFACTS_DIR}/{base}/{safe_path(entry.path)}"
            if entry.refused:
                loss = Loss(target, entry.refused)
                self._losses.add("artifact_file_not_read", loss, once=True)
            elif entry.local is not None:
                self._uploads.upload(entry.local, target, "artifact_file_missing")
            elif entry.ref is None:
                self._losses.counts["artifact_file_missing"] += 1
        document = _describe(artifact)
        self._uploads.write_json(f"{documents.ARTIFACTS_DIR}/{base}.json", document)
        if artifact.type == TYPE:
            self._list_model(artifact, f"{documents.ARTIFACTS_DIR}/{base}")

    def _list_model(self, artifact: ArtifactRef, folder: str) -> None:
        """Let MLflow list an artifact as a model of the run."""
        if not self._log_model(model_of_artifact(artifact, folder, self._secrets)):
            self._losses.rewrites["model_not_listed"] += 1

    def _log_model(self, model: ModelCopy) -> bool:
        """Log a model, unless it is there; return whether MLflow takes it."""
        try:
            run = self._client.call(self._client.client.get_run_data, self._run_id)
            log_model = self._client.client.log_model
            self._client.call(log_model, run.info.experiment_id, self._run_id, model)
        except RefusedError:
            return False
        return True

    def add_summary_points(self, points: Mapping[str, Iterable[tuple[int, int]]]) -> None:
        """Note which points, (step, Unix ms) by metric, are of the summary and of no row."""
        for name, places in points.items():
            known = self._summary_points.setdefault(name, [])
            known += [list(place) for place in places if list(place) not in known]

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
            self._upload_rows(all_of_it=False)
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
        self._upload_rows(all_of_it=True)
        self._captions.upload()
        self._charts.upload(info)
        config = dict(self._config)
        for key, value in to_mlflow.config_document(info).items():
            # A resumed run has its config from W&B's server.
            if key not in config or not is_kept_as(config[key], value):
                config[key] = value
        self._uploads.write_json(documents.CONFIG_FILE, config)
        self._uploads.write_json(documents.SUMMARY_FILE, self.summary)
        if self._calls_were_here:
            of_calls = to_mlflow.used_by_calls(info)
            self._lineage = [used for used in self._lineage if _shown_name(used) not in of_calls]
        if self._lineage:
            self._uploads.write_json(documents.LINEAGE_FILE, self._lineage)
            self._log_inputs()
        self._alerts += [one for one in to_mlflow.alerts(info) if one not in self._alerts]
        optional = {
            documents.ALERTS_FILE: self._alerts,
            documents.LONG_TAGS_FILE: self.long_tags,
            documents.SUMMARY_POINTS_FILE: self._summary_points,
            documents.DEFINITIONS_FILE: to_mlflow.metric_definitions(info),
        }
        for path, content in optional.items():
            if content:
                self._uploads.write_json(path, content)
        self._uploads.wait()
        self.save_losses()

    def close(self) -> None:
        """End the uploads and remove temporary files; never raises."""
        self._uploads.close()
        self._history.close()

    def _upload_rows(self, all_of_it: bool) -> None:
        self._media.upload(all_of_it)
        self._histograms.upload()
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


def _shown_name(used: Mapping[str, Any]) -> str:
    return f"{used['name']}:{used['version']}"


def _alerts(saved: list[Any]) -> list[dict[str, str]]:
    """Read the alerts that an earlier session saved, without those that were damaged."""
    names = ("title", "text", "level")
    known = (one for one in saved if isinstance(one, dict))
    return [{name: str(one.get(name) or "") for name in names} for one in known]


def _names_in_tag(tags: Mapping[str, str]) -> Mapping[str, RenamedKeys]:
    """Original keys that an earlier session put into a tag; none if that was damaged."""
    try:
        names = json.loads(tags.get(identity.RENAMED, "{}"))
    except ValueError:
        return {}
    return names if isinstance(names, dict) else {}


def _describe(artifact: ArtifactRef) -> dict[str, Any]:
    entries = [
        {"path": entry.path, "digest": entry.digest, "size": entry.size}
        | ({"ref": entry.ref} if entry.ref else {})
        for entry in artifact.entries
    ]
    return artifact_document(artifact) | {"entries": entries}
