"""MLflow's logged models and datasets as W&B artifacts, and calls of W&B's public API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import EMPTY_FILE, MODEL_ID, REGISTERED, TYPE, Model
from mlflow_wandb_plugin.mapping.names import safe_path

if TYPE_CHECKING:
    import wandb

WAIT_S = 600


def models_of_run(path: str) -> list[wandb.Artifact]:
    """The model artifacts that the run at ``path`` (entity/project/id) logged, oldest first."""
    return [found for found in _api().run(path).logged_artifacts() if found.type == TYPE]


def set_alias(path: str, name: str, alias: str, version: str | None) -> None:
    """Move ``alias`` of the registered model ``name`` to ``version`` (None removes it), in the
    model artifacts of the run at ``path``."""
    for artifact in models_of_run(path):
        registered = artifact.metadata.get(REGISTERED) or ()
        before = [rules.Version.from_document(document) for document in registered]
        now = [each.with_alias(name, alias, version) for each in before]
        if now != before:
            artifact.aliases = sorted(rules.aliases(artifact.aliases, registered, now))
            artifact.metadata = {**artifact.metadata, REGISTERED: [v.document() for v in now]}
            artifact.save()


def find(path: str, model_id: str) -> wandb.Artifact | None:
    """The newest artifact of the run at ``path`` that holds the model."""
    found = [each for each in models_of_run(path) if each.metadata.get(MODEL_ID) == model_id]
    return found[-1] if found else None


def log(run: wandb.Run, model: Model, wait: bool) -> None:
    import wandb

    artifact = wandb.Artifact(rules.artifact_name(model.name), type=TYPE, metadata=model.metadata)
    if not model.files:
        # W&B identifies artifacts by content: models without files would all be one artifact.
        with artifact.new_file(EMPTY_FILE) as file:
            json.dump(artifact.metadata, file, sort_keys=True, indent=1)
    _add(artifact, model.files, wait)
    _log(run, artifact, model.aliases, wait)


def update(run: wandb.Run, artifact: wandb.Artifact, model: Model) -> None:
    """Bring files, metadata and aliases of the model's artifact in W&B up to date."""
    registered = artifact.metadata.get(REGISTERED) or ()
    before = {*artifact.aliases, model.model_id}
    aliases = rules.aliases(before, registered, model.versions.values())
    metadata = {**artifact.metadata, **_merged_metadata(model, artifact.metadata)}
    if _differ(artifact, model.files):
        draft = artifact.new_draft()
        for name in map(safe_path, model.files):
            if name in draft.manifest.entries:
                draft.remove(name)
        _add(draft, model.files, fast=True)
        draft.metadata = metadata
        # W&B moves the alias `latest` itself.
        _log(run, draft, aliases - {"latest"}, wait=True)
        return
    if aliases != set(artifact.aliases) or metadata != artifact.metadata:
        artifact.metadata = metadata
        artifact.aliases = sorted(aliases)
        artifact.save()


def use_dataset(run: wandb.Run, dataset: Mapping[str, Any]) -> None:
    """Mark a dataset of MLflow as an input of ``run``; the artifact's content is its metadata."""
    import wandb

    used = rules.used_dataset(dataset)
    artifact = wandb.Artifact(used.name, type=rules.DATASET_TYPE, metadata=used.metadata)
    with artifact.new_file(rules.DATASET_FILE) as file:
        json.dump(used.document, file, sort_keys=True, indent=1)
    run.use_artifact(artifact)


def delete_files(path: str, names: Sequence[str]) -> None:
    """Delete the files and folders ``names`` of the run at ``path``."""
    # All are listed before the first is deleted: the list comes in pages.
    for file in list(_api().run(path).files()):
        if any(file.name == name or file.name.startswith(f"{name}/") for name in names):
            file.delete()


def remove_tags(path: str) -> None:
    run = _api().run(path)
    run.tags = []
    run.update()


def _log(run: wandb.Run, artifact: wandb.Artifact, aliases: Iterable[str], wait: bool) -> None:
    logged = run.log_artifact(artifact, aliases=sorted(aliases))
    if wait:
        logged.wait(WAIT_S)


def _add(artifact: wandb.Artifact, files: Mapping[str, Path], fast: bool) -> None:
    # Offline, the journal's files are deleted before `wandb sync` runs: wandb keeps a copy.
    policy: Any = "immutable" if fast else "mutable"
    for path, local in sorted(files.items()):
        artifact.add_file(str(local), name=safe_path(path), policy=policy, skip_cache=True)


def _differ(artifact: wandb.Artifact, files: Mapping[str, Path]) -> bool:
    """Whether the artifact lacks one of ``files`` or has it with another content."""
    from wandb.sdk.lib.hashutil import md5_file_b64

    entries = artifact.manifest.entries
    return any(
        safe_path(path) not in entries or entries[safe_path(path)].digest != md5_file_b64(local)
        for path, local in files.items()
    )


def _merged_metadata(model: Model, before: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that the journal knows, with versions that were registered before it."""
    registered = before.get(REGISTERED) or ()
    earlier = [e for e in registered if (e.get("name"), e.get("version")) not in model.versions]
    return (model.metadata if model.known else {}) | {REGISTERED: earlier + model.registered}


def _api() -> Any:
    import wandb

    return wandb.Api()
