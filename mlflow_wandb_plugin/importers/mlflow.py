"""Import the runs of an MLflow store into W&B."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.tracking_uri import absolute_uri
from mlflow_wandb_plugin.importers.carrying import (
    ChosenRuns,
    ImportResult,
    carry,
    import_options,
    log,
)
from mlflow_wandb_plugin.importers.namespace import Namespace
from mlflow_wandb_plugin.sources.mlflow.opening import open_mlflow
from mlflow_wandb_plugin.sources.mlflow.replica import is_parent_of_replicas
from mlflow_wandb_plugin.sources.mlflow.source import MlflowSource
from mlflow_wandb_plugin.targets.wandb.lookup import Access
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress, target_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PROJECT = "imported-from-mlflow"
"""The project of runs that are imported without a namespace."""


@dataclass(frozen=True)
class MlflowRun:
    """A run of an MLflow store, and MLflow's client of that store."""

    run: Run
    mlflow_client: MlflowClient

    def run_id(self) -> str:
        """The run's id in MLflow."""
        return str(self.run.info.run_id)

    def display_name(self) -> str:
        """The run's name."""
        return str(self.run.info.run_name)


class MlflowImporter:
    """Imports runs of MLflow into a W&B server.

    Args:
        mlflow_tracking_uri: of the runs.
        mlflow_registry_uri: of the registered models; None means MLflow's own setting.
        wandb_base_url, wandb_api_key: the W&B server and its key; None means the server that wandb
            itself uses, and the key that it was logged in with.
        dst_base_url, dst_api_key: other names of these two.

    Raises:
        UsageError: there is no key for the W&B server, or its URL is malformed.
        TypeError: an argument is unknown, or given under both of its names.
    """

    def __init__(
        self,
        mlflow_tracking_uri: str,
        mlflow_registry_uri: str | None = None,
        *,
        wandb_base_url: str | None = None,
        wandb_api_key: str | None = None,
        dst_base_url: str | None = None,
        dst_api_key: str | None = None,
    ) -> None:
        if (wandb_base_url and dst_base_url) or (wandb_api_key and dst_api_key):
            raise TypeError("dst_base_url and dst_api_key are other names of wandb_base_url and "
                            "wandb_api_key: pass one of each")  # fmt: skip
        self._uri = absolute_uri(mlflow_tracking_uri)
        self._registry_uri = mlflow_registry_uri
        base_url, key = wandb_base_url or dst_base_url, wandb_api_key or dst_api_key
        self._server = target_server(base_url or "", key or "")

    def __repr__(self) -> str:
        return f"<MlflowImporter src={without_credentials(self._uri)} dst={self._server.base_url}>"

    def collect_runs(self, limit: int | None = None) -> Iterator[MlflowRun]:
        """Yield the runs that are not deleted, by their start; MLflow is asked as they are taken.

        Args:
            limit: the greatest number of runs; None means all.

        Raises:
            MlflowWandbError: there is no store, or it cannot be read.
        """
        source = self._open(self._uri, artifacts=True)
        for run in itertools.islice(source.runs(Selection()), limit):
            yield MlflowRun(source.entity(run), source.mlflow)

    def import_runs(
        self,
        runs: Iterable[MlflowRun],
        *,
        artifacts: bool = True,
        namespace: Namespace | None = None,
        parallel: bool = True,
        max_workers: int | None = None,
    ) -> ImportResult:
        """Import runs; complete ones are skipped, partial ones filled. A run that fails is an
        outcome, and the others go on.

        Args:
            runs: those of `collect_runs`, or any that were made of what MLflow's client returned.
            artifacts: import their files, too.
            namespace: where they go; None means the project ``imported-from-mlflow`` of the
                key's default entity.
            parallel: carry several runs at the same time.
            max_workers: how many; None means 4.

        Raises:
            MlflowWandbError: nothing can be imported: a server does not answer or accept the key.
        """
        options = import_options(artifacts, True, parallel, max_workers)
        source = ChosenRuns(self._chosen(runs, artifacts))
        return ImportResult(tuple(carry(source, self._target(namespace), options)))

    def _target(self, namespace: Namespace | None) -> ProjectAddress:
        wanted = namespace or Namespace("", PROJECT)
        entity = wanted.entity or Access(server=self._server).entity()
        return replace(self._server, entity=entity, project=wanted.project or PROJECT)

    def _chosen(
        self, runs: Iterable[MlflowRun], artifacts: bool
    ) -> Iterator[tuple[Source, RunInfo]]:
        """Yield each run with the source of the store that its client is for."""
        sources: dict[str, MlflowSource] = {}
        for run in runs:
            if is_parent_of_replicas(run.run):
                log.info("%s is only the parent of runs that came from W&B", run.run_id())
                continue
            uri = absolute_uri(str(run.mlflow_client.tracking_uri))
            if uri not in sources:
                sources[uri] = self._open(uri, artifacts)
            yield sources[uri], sources[uri].info(run.run)

    def _open(self, uri: str, artifacts: bool) -> MlflowSource:
        return open_mlflow(uri, SourceOptions(artifacts), registry_uri=self._registry_uri)
