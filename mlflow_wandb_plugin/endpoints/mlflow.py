"""MLflow as a target: any tracking URI."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin import identity, mapping
from mlflow_wandb_plugin.endpoints.mlflow_client import Client, RefusedError
from mlflow_wandb_plugin.endpoints.mlflow_writer import MlflowRunWriter
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.identity import Origin, Twin
from mlflow_wandb_plugin.model import RunInfo
from mlflow_wandb_plugin.retry import Backoff

if TYPE_CHECKING:
    from mlflow.entities import Run


class MlflowTarget:
    """Replicates W&B runs into MLflow.

    Args:
        uri: an MLflow tracking URI; None means MLflow's own default.
        experiment: the experiment's name; ``{entity}`` and ``{project}`` are filled in.
    """

    def __init__(
        self, uri: str | None = None, experiment: str = "{project}", backoff: Backoff | None = None
    ) -> None:
        self._client = Client(uri, backoff)
        self._experiment = experiment
        self._experiment_ids: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return str(self._client.uri)

    def experiment_id(self, info: RunInfo) -> str:
        """The experiment that ``info`` belongs to, created if need be."""
        name = mapping.experiment_name(self._experiment, info.entity, info.project)
        if self.uri.startswith("databricks") and not name.startswith("/"):
            raise UsageError(
                f"Databricks wants an absolute experiment path, not {name!r}: "
                "pass --experiment '/Users/you@example.com/{project}'"
            )
        with self._lock:
            if name not in self._experiment_ids:
                tags = mapping.experiment_tags(info.entity, info.project)
                self._experiment_ids[name] = self._client.experiment_id(name, tags)
            return self._experiment_ids[name]

    def find(self, info: RunInfo) -> Twin | None:
        """The live run that the W&B config names, or that carries the identity tags."""
        run = self._named_in_config(info) or self._tagged(info)
        return None if run is None else _twin(run)

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> MlflowRunWriter:
        tags = identity.identity_tags(info, origin)
        if twin is None:
            run = self._client.call(
                self._client.client.create_run,
                self.experiment_id(info),
                start_time=info.started_ms,
                tags=tags,
                run_name=mapping.run_name(info),
            )
        else:
            run = self._client.call(self._client.client.get_run, twin.run_id)
        return MlflowRunWriter(self._client, run, info, None if twin is None else tags)

    def _named_in_config(self, info: RunInfo) -> Run | None:
        run_id = info.config.get("mlflow_run_id")
        if not isinstance(run_id, str) or not run_id:
            return None
        try:
            run = self._client.call(self._client.client.get_run, run_id)
        except RefusedError:
            return None
        tags = run.data.tags
        if run.info.lifecycle_stage != "active":
            return None
        return run if identity.RUN_ID not in tags or identity.same_run(info, tags) else None

    def _tagged(self, info: RunInfo) -> Run | None:
        experiment = self.experiment_id(info)
        for tag in (identity.RUN_ID, identity.EWM_RUN_ID):
            runs: Any = self._client.call(
                self._client.client.search_runs,
                [experiment],
                filter_string=f"tags.`{tag}` = '{_quoted(info.run_id)}'",
                max_results=100,
            )
            for run in runs:
                if tag == identity.EWM_RUN_ID or identity.same_run(info, run.data.tags):
                    found: Run = run
                    return found
        return None


def _twin(run: Run) -> Twin:
    tags = run.data.tags
    return Twin(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        origin=tags.get(identity.ORIGIN, ""),
        state=tags.get(identity.STATE, ""),
        position=identity.read_numbers(tags, identity.POSITION),
        rows=identity.read_numbers(tags, identity.ROWS),
        foreign=identity.RUN_ID not in tags,
    )


def _quoted(text: str) -> str:
    return text.replace("'", "")
