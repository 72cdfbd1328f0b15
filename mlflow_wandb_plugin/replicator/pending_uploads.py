"""Files, datasets, models and aliases of a mirrored run, until they are sent to W&B."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import TargetError
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import DONE, Model
from mlflow_wandb_plugin.targets.wandb.run_writer import WandbRunWriter


@dataclass
class PendingUploads:
    """What a journal adds to its run beside rows, until it is sent.

    Attributes:
        run_name: for log lines.
        lost: where refused uploads are counted.
        files: local files by their path in the run.
        removed_paths: files and folders to delete from the run; an empty path is all of them.
        datasets: as `mlflow_wandb_plugin.journal.outbox` has them.
        models: all logged models of the journal by id; those in ``changed_models`` are to be sent.
        aliases: name, alias and version of aliases that point to no version of this journal.
        local_files: all files beside the journal that it names, sent or not.
        uploaded: files of the run that were sent, by their path in the W&B run.
    """

    run_name: str
    lost: Counter[str]
    files: dict[str, Path] = field(default_factory=dict)
    removed_paths: list[str] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    changed_models: set[str] = field(default_factory=set)
    aliases: list[tuple[str, str, str | None]] = field(default_factory=list)
    local_files: list[Path] = field(default_factory=list)
    uploaded: dict[str, Path] = field(default_factory=dict)

    def change_model(self, model_id: str) -> Model:
        """The logged model, which is sent again."""
        self.changed_models.add(model_id)
        return self.models.setdefault(model_id, Model(model_id))

    def update_model(self, op: Mapping[str, Any]) -> None:
        model = self.change_model(op["id"])
        # Params alone may be added to a model that an earlier journal has.
        model.known = model.known or bool(op.get("name"))
        model.name = op.get("name") or model.name
        model.kind = op.get("type") or model.kind
        model.status = op.get("status") or model.status
        model.params.update(op.get("params") or {})
        model.tags = dict(op.get("tags") or model.tags)

    def remove_files(self, path: str, model_id: str | None) -> None:
        """Remove a file, or the files of a folder, from the run or from one of its models."""
        files = self.change_model(model_id).files if model_id else self.files
        for known in [name for name in files if _is_below(name, path)]:
            del files[known]
        if not model_id:
            self.removed_paths.append(path)

    def move_alias(self, name: str, alias: str, version: str | None) -> None:
        """Let an alias of a registered model point to ``version``; None removes it."""
        known = False
        for model in self.models.values():
            for key, before in list(model.versions.items()):
                now = before.with_alias(name, alias, version)
                known = known or key == (name, version)
                if now != before:
                    known = True
                    model.versions[key] = now
                    self.changed_models.add(model.model_id)
        if not known:
            # An earlier journal registered the version.
            self.aliases.append((name, alias, version))

    def send(self, writer: WandbRunWriter, final: bool) -> None:
        """Send everything; models that are not ready yet only if ``final``: no more will come."""
        self._send_files(writer)
        for dataset in self.datasets:
            self._unless_refused("dataset", writer.use_dataset, dataset)
        self.datasets.clear()
        self._send_models(writer, final)
        for alias in self.aliases:
            if writer.online:
                self._unless_refused("alias", writer.set_alias, *alias)
            else:
                self.lost["alias of a model that was written offline before"] += 1
        self.aliases.clear()

    def _send_files(self, writer: WandbRunWriter) -> None:
        if self.removed_paths:
            removed = [rules.file_path(p) if p else rules.FILES_DIR for p in self.removed_paths]
            for path in [p for p in self.uploaded if any(_is_below(p, top) for top in removed)]:
                del self.uploaded[path]
            self._unless_refused("removal of a file", writer.delete, removed)
            self.removed_paths.clear()
        files = {rules.file_path(path): local for path, local in self.files.items()}
        writer.save(files)
        self.uploaded.update(files)
        self.files.clear()

    def _send_models(self, writer: WandbRunWriter, final: bool) -> None:
        for model_id in sorted(self.changed_models):
            model = self.models[model_id]
            ready = model.status in DONE or not model.known
            if not final and not (ready and writer.online):
                continue
            if model.known or writer.online:
                self._unless_refused("model", writer.log_model, model)
            else:
                self.lost["version of a model that was written offline before"] += 1
            self.changed_models.discard(model_id)

    def _unless_refused(self, what: str, call: Callable[..., None], *arguments: Any) -> None:
        """Call; what W&B refuses for good is counted and left out."""
        try:
            call(*arguments)
        except TargetError as error:
            print(f"{self.run_name}: {what} refused: {error}", flush=True)
            self.lost[f"{what} refused"] += 1


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")
