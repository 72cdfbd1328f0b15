"""Change what W&B has of a run where a transaction log cannot, with wandb's public API."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mlflow_wandb_plugin.core.model import ArtifactEntry
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import MODEL_ID, TYPE, Model, registered_versions
from mlflow_wandb_plugin.mapping.names import is_below
from mlflow_wandb_plugin.targets.wandb.log_records import LogArtifact
from mlflow_wandb_plugin.targets.wandb.sdk_errors import translated_errors
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress

if TYPE_CHECKING:
    import wandb

ArtifactKey: TypeAlias = tuple[str, str, str]
"""Type, name and digest of an artifact, of which a run logs one version."""


def artifact_key(artifact: LogArtifact) -> ArtifactKey:
    return artifact.about.type, artifact.about.name, artifact.digest


class RunChanges:
    """Changes one run.

    Args:
        address: of the run's project, with its API key.

    Raises from every method:
        TargetUnavailableError: W&B did not answer.
        TargetError: W&B refused.
    """

    def __init__(self, address: ProjectAddress, run_id: str) -> None:
        self._address = address
        self._run_id = run_id

    def delete_files(self, paths: Sequence[str]) -> None:
        """Delete files and folders."""
        with translated_errors():
            # All are listed before the first is deleted: the list comes in pages.
            for file in list(self._run().files()):
                if any(is_below(file.name, path) for path in paths):
                    file.delete()

    def clear(self, fields: Collection[str]) -> None:
        """Empty the run's ``tags`` or ``notes``."""
        with translated_errors():
            run = self._run()
            if "tags" in fields:
                run.tags = []
            if "notes" in fields:
                run.notes = ""
            run.update()

    def models(self) -> dict[str, Model]:
        """Return MLflow's logged models that the run has logged as artifacts, by id."""
        found: dict[str, Model] = {}
        with translated_errors():
            for artifact in self._logged():
                if artifact.type == TYPE and artifact.metadata.get(MODEL_ID):
                    model = Model.from_metadata(artifact.metadata, _name(artifact))
                    model.files |= _files(artifact)
                    # The newest of a model's versions is the last.
                    found[model.model_id] = model
        return found

    def update_artifacts(self, artifacts: Iterable[LogArtifact]) -> None:
        """Bring aliases and metadata of artifacts that the run has logged up to date; aliases and
        keys that users added stay."""
        with translated_errors():
            there = {(one.type, _name(one), one.digest): one for one in self._logged()}
            for artifact in artifacts:
                found = there.get(artifact_key(artifact))
                if found is not None:
                    _update(found, artifact)

    def _logged(self) -> Any:
        """The artifacts that the run logged, oldest first."""
        return self._run().logged_artifacts()

    def _run(self) -> Any:
        import wandb

        server = {"base_url": self._address.base_url}
        api = wandb.Api(overrides=server, api_key=self._address.api_key)
        return api.run(f"{self._address.path}/{self._run_id}")


def _name(artifact: wandb.Artifact) -> str:
    return str(artifact.source_name).split(":")[0]


def _files(artifact: wandb.Artifact) -> dict[str, ArtifactEntry]:
    return {
        path: ArtifactEntry(
            path,
            entry.digest,
            int(entry.size or 0),
            ref=entry.ref,
            kept_in=entry.birth_artifact_id or artifact.id or "",
        )
        for path, entry in artifact.manifest.entries.items()
    }


def _update(found: wandb.Artifact, wanted: LogArtifact) -> None:
    about = wanted.about
    # Registered versions of MLflow are the metadata that decides on aliases.
    before, now = registered_versions(found.metadata), registered_versions(about.metadata)
    aliases = rules.aliases({*found.aliases, *about.aliases}, before, now)
    # W&B moves the alias `latest` itself.
    aliases -= {"latest"} - set(found.aliases)
    metadata = {**found.metadata, **about.metadata}
    description = about.description or found.description
    wanted_now = aliases, metadata, description
    if wanted_now != (set(found.aliases), found.metadata, found.description):
        found.aliases, found.metadata = sorted(aliases), metadata
        found.description = description
        found.save()
