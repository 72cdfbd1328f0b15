"""Finds the MLflow run of a W&B run: by the run's config, or by tags."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.run_client import has_tag

if TYPE_CHECKING:
    from mlflow.entities import Run


class RunSearch:
    """Searches with few requests. Thread-safe.

    An experiment in which no run had a tag when it was first looked at is not searched for each
    run. If another process has created the run since, `concurrent_creation` finds that one.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._had_no_tag: dict[tuple[str, str], bool] = {}
        self._created: set[str] = set()
        self._lock = threading.Lock()

    def named_in_config(self, info: RunInfo) -> Run | None:
        """The active run whose id the W&B run's config has, unless it replicates another run."""
        run_id = info.config.get("mlflow_run_id")
        if not isinstance(run_id, str) or not run_id:
            return None
        try:
            run = self._client.call(self._client.mlflow.get_run, run_id)
        except RefusedError as error:
            if error.code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        tags = run.data.tags
        if run.info.lifecycle_stage != "active":
            return None
        return run if identity.RUN_ID not in tags or identity.same_run(info, tags) else None

    def with_tag(self, info: RunInfo, experiment_id: str, tag: str) -> list[Run]:
        """Active runs of an experiment whose ``tag`` has the W&B run's id."""
        if info.run_id not in self._created and self._has_no_tag(experiment_id, tag):
            return []
        runs = self._client.call(self._client.client.runs_with_tag, experiment_id, tag, info.run_id)
        if tag == identity.EWM_RUN_ID:
            return runs
        return [run for run in runs if identity.same_run(info, run.data.tags)]

    def prepare_creation(self, info: RunInfo, experiment_id: str) -> None:
        """Call this before the run is created: from then on it is searched for."""
        for tag in (identity.RUN_ID, identity.EWM_RUN_ID):
            self._has_no_tag(experiment_id, tag)
        with self._lock:
            self._created.add(info.run_id)

    def _has_no_tag(self, experiment_id: str, tag: str) -> bool:
        """Whether no run of the experiment had the tag at the first look."""
        key = (experiment_id, tag)
        with self._lock:
            if key not in self._had_no_tag:
                search = self._client.mlflow.search_runs
                found = self._client.call(search, [experiment_id], has_tag(tag), max_results=1)
                self._had_no_tag[key] = not found
            return self._had_no_tag[key]


def twin_of(run: Run, named: bool, given: bool = False) -> Twin:
    """Describe the MLflow run of a W&B run. Its config names the run if ``named``; the user gave
    it to us to write if ``given``."""
    tags = run.data.tags
    ours = identity.RUN_ID in tags
    return Twin(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        origin=tags.get(identity.ORIGIN, "dual" if named else ""),
        state=tags.get(identity.STATE, ""),
        position=identity.read_numbers(tags, identity.POSITION),
        rows=identity.read_numbers(tags, identity.ROWS),
        foreign=not ours and not named,
        adopted=named and not ours and not given,
        end_unknown=tags.get("wandb.state") == "killed" and "wandb.exit_code" not in tags,
    )
