"""Logged models: those that come back from W&B to MLflow, and those that stand for W&B's models."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import ArtifactRef, flatten
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import models
from mlflow_wandb_plugin.mapping.documents import canonical_json
from mlflow_wandb_plugin.mapping.names import legal_name, safe_path, storable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

FINAL = ("READY", "FAILED")
OF_REGISTRY = "mlflow.modelVersions"
"""Tag of a model that names its registered versions; MLflow sets it."""


MOST_PARAMS, PARAM_LENGTH = 100, 500
"""Params of the logged model of an artifact, and the characters of each."""
_NO_NAME = re.compile(r"""[/:.%"'\x00-\x1f]""")
"""Characters that MLflow allows in no name of a logged model."""


@dataclass(frozen=True, slots=True)
class ModelCopy:
    """A logged model as it was, or as it is made of a W&B artifact.

    Attributes:
        first_id: the id with which it was created; MLflow gives a copy another one.
        steps: at which the run logged it.
        files: by their path in the model.
    """

    first_id: str
    name: str
    kind: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    steps: Sequence[int]
    files: Mapping[str, Path]


def model_copy(artifact: ArtifactRef) -> ModelCopy | None:
    """Return the logged model of an artifact that the mirror made of one; None for another
    artifact, one whose files are not all here, or a model that was deleted or never finished."""
    known = artifact.metadata
    first_id, status = str(known.get(models.MODEL_ID) or ""), str(known.get("mlflow_status") or "")
    entries = [entry for entry in artifact.entries if entry.path != models.EMPTY_FILE]
    if artifact.type != models.TYPE or not first_id or status not in FINAL:
        return None
    files = {safe_path(entry.path): entry.local for entry in entries if entry.local is not None}
    if len(files) != len(entries):
        return None
    steps = known.get("mlflow_steps")
    return ModelCopy(
        first_id,
        str(known.get(models.NAME) or artifact.name),
        str(known.get("mlflow_model_type") or ""),
        status,
        models.texts(known.get("mlflow_params")),
        {
            key: text
            for key, text in models.texts(known.get("mlflow_tags")).items()
            if key not in (*identity.all_names(identity.MODEL_ID), OF_REGISTRY)
        },
        [step for step in steps if isinstance(step, int)] if isinstance(steps, list) else [],
        files,
    )


def model_of_artifact(artifact: ArtifactRef, folder: str, secrets: Secrets) -> ModelCopy:
    """Return the logged model that stands for an artifact of W&B's of the type ``model``.

    It is what MLflow calls an external model: its files are those of the run, in ``folder``, and
    are not there twice.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

    leaves = sorted(flatten(secrets.value(artifact.metadata)).items())
    params = {
        ".".join(path): text
        for path, value in leaves[:MOST_PARAMS]
        if len(text := value if isinstance(value, str) else canonical_json(value)) <= PARAM_LENGTH
        and text
        and legal_name(".".join(path), PARAM_LENGTH // 2) == ".".join(path)
    }
    tags = {
        MLFLOW_MODEL_IS_EXTERNAL: "true",
        "wandb.artifact": f"{artifact.name}:{artifact.version}",
        "wandb.files": folder,
    }
    name = _NO_NAME.sub("_", storable(artifact.name))[: PARAM_LENGTH // 2] or "_"
    return ModelCopy(folder, name, "", "READY", params, tags, [0], {})


def find_model(client: MlflowClient, experiment_id: str, run_id: str, first_id: str) -> Any:
    """Return the copy of a model in a run, or None."""
    token: str | None = None
    while True:
        page = client.search_logged_models(
            [experiment_id], f"source_run_id = '{run_id}'", page_token=token
        )
        for found in page:
            if identity.present_tags(found.tags).get(identity.MODEL_ID) == first_id:
                return found
        token = page.token
        if not token:
            return None


def log_model(client: MlflowClient, experiment_id: str, run_id: str, model: ModelCopy) -> None:
    """Create a logged model of a run, or complete one of which only a part was written."""
    from mlflow.entities import LoggedModelOutput

    there: LoggedModel | None = find_model(client, experiment_id, run_id, model.first_id)
    if there is None:
        tags = {**model.tags, identity.MODEL_ID: model.first_id}
        there = client.create_logged_model(
            experiment_id, model.name, run_id, tags, dict(model.params), model.kind or None
        )
    if str(there.status) in FINAL:
        return
    for path, local in model.files.items():
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mlflow-wandb-model-") as temporary:
            named = local
            if local.name != name:
                named = Path(shutil.copyfile(local, Path(temporary, name)))
            client.log_model_artifact(there.model_id, str(named), folder or None)
    if model.steps:
        outputs = [LoggedModelOutput(there.model_id, step) for step in model.steps]
        client.log_outputs(run_id, outputs)
    client.finalize_logged_model(there.model_id, model.status)  # type: ignore[arg-type]
