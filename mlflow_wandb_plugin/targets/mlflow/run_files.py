"""The files of one MLflow run: what W&B kept as files, artifacts, media and documents.

Uploads run in the background so that points never wait behind a large file; `finish` waits for
them. What cannot be carried is counted in ``losses``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from mlflow_wandb_plugin.core.model import (
    ArtifactEntry,
    ArtifactRef,
    FileRef,
    RowObjects,
    RunInfo,
    nest,
)
from mlflow_wandb_plugin.mapping import names, run_documents, to_mlflow
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.mapping.run_documents import artifact_document, canonical_json
from mlflow_wandb_plugin.targets.mlflow import media
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError

LONG_TAGS_FILE = "wandb/long_tags.json"
TABLES_TAG = "mlflow.loggedArtifacts"
LOSSES_FILE = "wandb/losses.jsonl"
UPLOAD_THREADS = 2
KEPT_LOSSES = 10_000
POINT_LOSS = "metric_refused"
FILE_GONE = "FILE_GONE"
HISTORY_SPOOL = "history.jsonl"

Names: TypeAlias = Mapping[str, list[str]]
"""Keys, as labels, by the name that they were given."""


class RunFiles:
    """Collects and uploads.

    ``losses`` and ``rewrites`` are the run's counters, shared; ``tags`` are those it has.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        losses: Counter[str],
        rewrites: Counter[str],
        tags: Mapping[str, str],
    ) -> None:
        self.tags: dict[str, str] = {}
        self._client = client
        self._run_id = run_id
        self._losses = losses
        self._rewrites = rewrites
        self._spool_made: Path | None = None
        self._pool = concurrent.futures.ThreadPoolExecutor(UPLOAD_THREADS, "mlflow-wandb-upload")
        self._uploads: list[concurrent.futures.Future[None]] = []
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[int, int]] = {}
        self._local: dict[str, Path] = {}
        self._media: list[tuple[str, RowObjects]] = []
        self._history: TextIO | None = None
        self._known_rows: set[bytes] = set()
        self._saved_rows = 0
        self._lineage: list[dict[str, Any]] = []
        self._tables: list[dict[str, str]] = json.loads(tags.get(TABLES_TAG, "[]"))
        self._long_tags: dict[str, str] = {}
        self._lost: dict[str, None] = {}
        self._saved_losses = 0
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}

    @property
    def _spool(self) -> Path:
        """A folder for what waits to be uploaded; many runs need none."""
        with self._lock:
            if self._spool_made is None:
                self._spool_made = Path(tempfile.mkdtemp(prefix="mlflow-wandb-"))
            return self._spool_made

    def _write_history(self, text: str) -> None:
        if self._history is None:
            self._history = open(self._spool / HISTORY_SPOOL, "a", encoding="utf-8")  # noqa: SIM115
        self._history.write(text)

    # -- what an earlier session left on the run ------------------------------------------

    def take_up(self) -> tuple[Names, Names]:
        """Take up the run's earlier documents; the metric and param names rewritten before."""
        listed = self._client.call(self._client.client.list_artifacts, self._run_id, "wandb")
        paths = {item.path for item in listed}
        if run_documents.HISTORY_FILE in paths:
            text = self._download(run_documents.HISTORY_FILE)
            self._known_rows = set(map(_digest, text.split("\n")))
            self._write_history(text)
            self._saved_rows = self._rows_size()
        self._config = self._earlier(run_documents.CONFIG_FILE, paths, {})
        self._summary = self._earlier(run_documents.SUMMARY_FILE, paths, {})
        self._lineage = self._earlier(run_documents.LINEAGE_FILE, paths, [])
        self._long_tags = self._earlier(LONG_TAGS_FILE, paths, {})
        if LOSSES_FILE in paths:
            lines = self._download(LOSSES_FILE).split("\n")
            self._lost = {line: None for line in lines if line}
            metrics = sum("step" in json.loads(line) for line in self._lost)
            if metrics:
                self._losses[POINT_LOSS] = metrics
        names = self._earlier(run_documents.RENAMED_FILE, paths, {})
        return names.get("metrics", {}), names.get("params", {})

    def _earlier(self, path: str, paths: Container[str], otherwise: Any) -> Any:
        return json.loads(self._download(path)) if path in paths else otherwise

    def _download(self, path: str) -> str:
        folder = self._spool / "earlier"
        folder.mkdir(exist_ok=True)
        local = self._client.call(
            self._client.client.download_artifacts, self._run_id, path, str(folder)
        )
        return Path(local).read_text(encoding="utf-8")

    # -- collecting -----------------------------------------------------------------------

    def add_row(self, row: RowObjects) -> None:
        """Keep a row's values that are no numbers; show its images and tables in MLflow."""
        document = nest(row.values)
        line = canonical_json({"_step": row.step, "_timestamp_ms": row.timestamp_ms, **document})
        digest = _digest(line)
        if digest not in self._known_rows:
            self._known_rows.add(digest)
            self._write_history(line + "\n")
        for key, value in row.values.items():
            if isinstance(value, dict) and value.get("_type") in media.SHOWN:
                self._media.append((".".join(key), RowObjects(row.step, row.timestamp_ms, value)))

    def add_summary(self, summary: Mapping[str, Any]) -> None:
        """The summary of one log; its keys stand over those of earlier logs."""
        self._summary.update(summary)

    def add_file(self, ref: FileRef) -> None:
        self._local[ref.path] = ref.local
        self._upload(ref.local, f"{run_documents.FILES_DIR}/{safe_path(ref.path)}", "file_missing")

    def add_artifact(self, artifact: ArtifactRef) -> None:
        if artifact.used:
            entry = {"type": artifact.type, "name": artifact.name, "version": artifact.version}
            if entry not in self._lineage:
                self._lineage.append(entry)
            return
        base = "/".join(
            safe_path(part or "_").replace("/", "_")
            for part in (artifact.type, artifact.name, artifact.version)
        )
        for entry_ in artifact.entries:
            if entry_.local is not None:
                target = f"{run_documents.ARTIFACTS_DIR}/{base}/{safe_path(entry_.path)}"
                self._upload(entry_.local, target, "artifact_file_missing")
            elif entry_.ref is None:
                self._losses["artifact_file_missing"] += 1
        self._write_document(f"{run_documents.ARTIFACTS_DIR}/{base}.json", _describe(artifact))

    def keep_text(self, key: str, text: str) -> None:
        """The whole of a tag that MLflow would cut."""
        self._long_tags[key] = text

    def keep_loss(self, item: Any, reason: str) -> bool:
        """What MLflow refused, and why, is written out in full (the first `KEPT_LOSSES`).

        Returns:
            Whether it is new: an item may come again when a log is read again.
        """
        lost = {
            name: str(getattr(item, name))
            for name in ("key", "value", "step", "timestamp")
            if hasattr(item, name)
        }
        return self._note_loss({**lost, "reason": reason})

    def _note_loss(self, lost: Mapping[str, str]) -> bool:
        line = canonical_json(lost)
        with self._lock:
            if line in self._lost:
                return False
            if len(self._lost) < KEPT_LOSSES:
                self._lost[line] = None
            return True

    def save_losses(self) -> None:
        """Losses reach MLflow before the position that leaves them behind."""
        if len(self._lost) != self._saved_losses:
            self._saved_losses = len(self._lost)
            self._write_lines(LOSSES_FILE, self._lost)
            self._wait()

    def save_rows(self) -> bool:
        """Bring what rows hold beside numbers to MLflow, before a position leaves them behind.

        Returns:
            False while they are few beside those there: the document is written as a whole.
        """
        size = self._rows_size()
        if size > self._saved_rows:
            if size < 2 * self._saved_rows:
                return False
            self._write_rows()
            self._wait()
        return True

    def _rows_size(self) -> int:
        if self._history is None:
            return 0
        self._history.flush()
        return os.fstat(self._history.fileno()).st_size

    def _write_rows(self) -> None:
        for key, row in self._media:
            self._show(key, row)
        self._media = []
        if self._tables:
            self.tags[TABLES_TAG] = json.dumps(self._listed_tables())
        self._saved_rows = self._rows_size()
        if self._saved_rows:
            self._upload(
                self._spool / HISTORY_SPOOL, run_documents.HISTORY_FILE, "document_missing"
            )

    def save_names(self, metrics: Mapping[str, list[str]], params: Mapping[str, list[str]]) -> None:
        if metrics or params:
            names = {"metrics": dict(metrics), "params": dict(params)}
            self._write_document(run_documents.RENAMED_FILE, names)
            self._wait()

    # -- the end --------------------------------------------------------------------------

    def finish(self, info: RunInfo) -> None:
        """Upload the documents and wait for everything."""
        self._write_rows()
        self._write_document(
            run_documents.CONFIG_FILE, {**self._config, **to_mlflow.config_document(info)}
        )
        self._write_document(run_documents.SUMMARY_FILE, self._summary)
        if self._lineage:
            self._write_document(run_documents.LINEAGE_FILE, self._lineage)
            self._log_inputs()
        if self._long_tags:
            self._write_document(LONG_TAGS_FILE, self._long_tags)
        self._wait()
        self.save_losses()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._history is not None:
            self._history.close()
        if self._spool_made is not None:
            shutil.rmtree(self._spool_made, ignore_errors=True)

    def _show(self, key: str, row: RowObjects) -> None:
        """Put an image or table where MLflow's UI looks for it."""
        try:
            shown = media.render(key, row, self._local, self._spool)
        except Exception:
            # Whatever is wrong with a picture or table: its file and its value are carried.
            self._rewrites["media_not_shown"] += 1
            return
        for local, target in shown.files:
            self._upload(local, target, "media_missing")
        self._tables.extend(table for table in shown.tables if table not in self._tables)
        self.tags.update(shown.tags)

    def _listed_tables(self) -> list[dict[str, str]]:
        """As many tables as fit into MLflow's tag; the rest stay as files."""
        limit = names.Limits.installed().tag_value
        listed = list(self._tables)
        while len(json.dumps(listed)) > limit:
            listed.pop()
        self._rewrites["table_not_listed"] = len(self._tables) - len(listed)
        return listed

    def _log_inputs(self) -> None:
        from mlflow.entities import Dataset, DatasetInput

        datasets = [
            DatasetInput(
                Dataset(
                    name=entry["name"][:500],
                    digest=entry["version"][:36],
                    source_type="wandb",
                    source=json.dumps(entry),
                ),
                [],
            )
            for entry in self._lineage
        ]
        try:
            self._client.call(self._client.client.log_inputs, self._run_id, datasets)
        except RefusedError:
            self._losses["input_refused"] += len(datasets)

    # -- uploading ------------------------------------------------------------------------

    def _write_document(self, target: str, document: Any) -> None:
        self._write_lines(target, [canonical_json(document, indent=1)])

    def _write_lines(self, target: str, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if self._client.put_text(self._run_id, safe_path(target), text):
            return
        local = self._spool / "documents" / safe_path(target)
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_text(text, encoding="utf-8")
        self._upload(local, target, "document_missing")

    def _upload(self, local: Path, target: str, loss: str) -> None:
        try:
            state = local.stat()
        except OSError:
            state = None
        if state is None or not local.is_file() or not os.access(local, os.R_OK):
            self._lose(target, loss, f"no readable file {local.name}")
            return
        stamp = (state.st_size, state.st_mtime_ns)
        if self._sent.get(target) != stamp:
            self._sent[target] = stamp
            self._uploads.append(self._pool.submit(self._send, local, target, loss))

    def _send(self, local: Path, target: str, loss: str) -> None:
        folder, _, name = target.rpartition("/")
        try:
            self._client.call(self._log_artifact, local, folder, name)
        except RefusedError as error:
            kind = loss if error.code == FILE_GONE else loss.replace("missing", "refused")
            self._lose(target, kind, str(error))

    def _log_artifact(self, local: Path, folder: str, name: str) -> None:
        """Upload one file under ``name``; what is wrong with the file is not MLflow's fault."""
        try:
            with open(local, "rb"):
                pass
            if local.name != name:
                # MLflow names the artifact after the local file.
                named = Path(tempfile.mkdtemp(dir=self._spool)) / name
                shutil.copyfile(local, named)
                local = named
        except OSError as error:
            raise RefusedError(f"no readable file {local.name}", FILE_GONE) from error
        self._client.client.log_artifact(self._run_id, str(local), folder)

    def _lose(self, target: str, kind: str, reason: str) -> None:
        self._note_loss({"key": target, "reason": reason})
        with self._lock:
            self._losses[kind] += 1

    def _wait(self) -> None:
        """Wait for all uploads. An upload that failed for want of MLflow is the caller's error."""
        uploads, self._uploads = self._uploads, []
        for upload in uploads:
            upload.result()


def _digest(line: str) -> bytes:
    """Stands for a history line: a row may come again when a log is read again."""
    return hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _describe(artifact: ArtifactRef) -> dict[str, Any]:
    def entry(item: ArtifactEntry) -> dict[str, Any]:
        described = {"path": item.path, "digest": item.digest, "size": item.size}
        return described | ({"ref": item.ref} if item.ref else {})

    return artifact_document(artifact) | {"entries": [entry(item) for item in artifact.entries]}
