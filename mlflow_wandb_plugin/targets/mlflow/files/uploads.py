"""Sends files of one run to MLflow's artifacts in background threads."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.mapping.documents import canonical_json
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.files.losses import Loss, Losses

UPLOAD_THREADS = 2
FILE_GONE = "FILE_GONE"


class Uploads:
    """Uploads files and documents, so that points need not wait for large files.

    Attributes:
        refused: artifact paths that MLflow has refused.
    """

    def __init__(self, client: Client, run_id: str, losses: Losses) -> None:
        self._client = client
        self._run_id = run_id
        self.losses = losses
        self._pool = concurrent.futures.ThreadPoolExecutor(UPLOAD_THREADS, "mlflow-wandb-upload")
        self.refused: set[str] = set()
        self._pending: list[concurrent.futures.Future[None]] = []
        self._sent: dict[str, tuple[int, int]] = {}
        self._latest: dict[str, concurrent.futures.Future[None]] = {}
        self._folder: Path | None = None
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """A temporary folder for files to upload, created when it is first used: many runs need
        none."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="mlflow-wandb-"))
            return self._folder

    def upload(self, local: Path, target: str, loss: str) -> None:
        """Upload a file to an artifact path, unless it is unchanged since its last upload.
        Without a readable file, it is a loss of the kind ``loss``, which ends in ``missing``."""
        try:
            state = local.stat()
        except OSError:
            state = None
        if state is None or not local.is_file() or not os.access(local, os.R_OK):
            self.losses.add(loss, Loss(target, f"no readable file {local.name}"))
            return
        stamp = (state.st_size, state.st_mtime_ns)
        if self._sent.get(target) != stamp:
            self._sent[target] = stamp
            before = self._latest.get(target)
            sending = self._pool.submit(self._send_after, before, local, target, loss)
            self._latest[target] = sending
            self._pending.append(sending)

    def write_json(self, target: str, document: Any) -> None:
        """Write a JSON document to an artifact path."""
        self.write_lines(target, [canonical_json(document, indent=1)])

    def write_lines(self, target: str, lines: Iterable[str]) -> None:
        """Write a text file to an artifact path."""
        text = "".join(f"{line}\n" for line in lines)
        path = safe_path(target)
        try:
            if self._client.call(self._client.client.put_text, self._run_id, path, text):
                return
        except RefusedError as error:
            self.refused.add(target)
            self.losses.add("document_refused", Loss(target, str(error)), once=True)
            return
        local = self.folder / "documents" / path
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_text(text, encoding="utf-8")
        self.upload(local, target, "document_missing")

    def download(self, path: str) -> str:
        """Return the text of an artifact; RefusedError if it cannot be had."""
        folder = self.folder / "earlier"
        folder.mkdir(exist_ok=True)
        download = self._client.mlflow.download_artifacts
        local = self._client.call(download, self._run_id, path, str(folder))
        return Path(local).read_text(encoding="utf-8")

    def wait(self) -> None:
        """Wait for all uploads; TargetUnavailableError if MLflow did not answer one of them."""
        pending, self._pending = self._pending, []
        for upload in pending:
            upload.result()

    def close(self) -> None:
        """Cancel the uploads that have not begun, wait for the others, and remove the folder."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send_after(
        self,
        before: concurrent.futures.Future[None] | None,
        local: Path,
        target: str,
        loss: str,
    ) -> None:
        """Upload one file when the upload ``before`` to the same path has ended: each log of a
        resumed run has files of the same names, and those of the latest log are kept."""
        if before is not None:
            concurrent.futures.wait([before])
        self._send(local, target, loss)

    def _send(self, local: Path, target: str, loss: str) -> None:
        folder, _, name = target.rpartition("/")
        try:
            self._client.call(self._log_artifact, local, folder, name)
        except RefusedError as error:
            kind = loss if error.code == FILE_GONE else loss.replace("missing", "refused")
            self.refused.add(target)
            self.losses.add(kind, Loss(target, str(error)))

    def _log_artifact(self, local: Path, folder: str, name: str) -> None:
        """Upload one file under ``name``. A file that cannot be read is refused: repeating the
        upload, as for an error of MLflow, would not help."""
        try:
            with open(local, "rb"):
                pass
            if local.name != name:
                # MLflow names the artifact after the local file.
                named = Path(tempfile.mkdtemp(dir=self.folder)) / name
                shutil.copyfile(local, named)
                local = named
        except OSError as error:
            raise RefusedError(f"no readable file {local.name}", FILE_GONE) from error
        self._client.client.log_artifact(self._run_id, str(local), folder)
