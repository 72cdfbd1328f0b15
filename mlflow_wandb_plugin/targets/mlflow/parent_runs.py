"""The MLflow runs below which a sweep's or a group's runs are nested."""

from __future__ import annotations

import threading
from functools import partial

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.mapping.documents import SWEEP_CONFIG_FILE
from mlflow_wandb_plugin.targets.mlflow.client import Client
from mlflow_wandb_plugin.targets.mlflow.concurrent_creation import create_once, find_settled
from mlflow_wandb_plugin.targets.mlflow.run_client import NewRun


class ParentRuns:
    """Finds parent runs, and creates each with the first of its runs. Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str, str], str] = {}
        self._lock = threading.Lock()

    def parent_of(self, info: RunInfo, experiment_id: str) -> str | None:
        """The id of the run that the run's config names as its parent, or of the run of its sweep
        or group; None for a run that has no parent."""
        named = info.config.get(identity.PARENT_RUN_KEY)
        if isinstance(named, str) and named:
            return named
        group = info.config.get(identity.PARENT_GROUP_KEY)
        if info.sweep_id:
            name = f"sweep {info.facts.get('sweep_name') or info.sweep_id}"
            return self._find_or_create(info, experiment_id, identity.SWEEP, info.sweep_id, name)
        if isinstance(group, str) and group:
            return self._find_or_create(info, experiment_id, identity.PARENT_GROUP, group, group)
        return None

    def _find_or_create(
        self, info: RunInfo, experiment_id: str, tag: str, value: str, name: str
    ) -> str:
        """The run whose ``tag`` has this ``value``; ``info`` is one of its runs."""
        key = (experiment_id, tag, value)
        find = self._client.client.runs_with_tag
        search = partial(self._client.call, find, tag, value, experiment_id)
        with self._lock:
            if key in self._known:
                return self._known[key]
            parent, created = find_settled(self._client, search), False
            if parent is None:
                tags = {tag: value, identity.PROJECT: info.project}
                new = NewRun(experiment_id, name, to_mlflow.run_time(info.started_ms), tags)
                parent, created = create_once(self._client, new, search)
            run_id = str(parent.info.run_id)
            if created:
                config = info.facts.get("sweep_config") if tag == identity.SWEEP else None
                if config:
                    log_dict = self._client.mlflow.log_dict
                    self._client.call(log_dict, run_id, config, SWEEP_CONFIG_FILE)
                self._client.call(self._client.client.set_terminated, run_id, "FINISHED", None)
            self._known[key] = run_id
            return run_id
