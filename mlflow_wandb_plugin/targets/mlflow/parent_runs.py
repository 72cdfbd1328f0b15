"""The MLflow runs below which a sweep's or a group's runs are nested."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.mapping.documents import SWEEP_CONFIG_FILE
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.concurrent_creation import create_once, find_settled
from mlflow_wandb_plugin.targets.mlflow.run_client import NewRun

if TYPE_CHECKING:
    from mlflow.entities import Run

Step: TypeAlias = Callable[[], object]


class ParentRuns:
    """Finds parent runs, and creates each with the first of its runs; each begins with the first
    and ends with the last of its runs. Thread-safe."""

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
        group = _group(info)
        return None if group is None else self._find_or_create(info, experiment_id, *group)

    def is_parent_of(self, info: RunInfo, parent_id: str | None) -> bool:
        """Whether a run is what `parent_of` finds; True also where it finds none, or where the
        user has created the replica and nested it as they like."""
        if info.config.get(identity.GIVEN_RUN_CONFIG_KEY) is True:
            return True
        named = info.config.get(identity.PARENT_RUN_KEY)
        if isinstance(named, str) and named:
            return parent_id == named
        group = _group(info)
        return group is None or (parent_id is not None and self._is_parent(parent_id, *group))

    def widening(self, info: RunInfo, start_ms: int, parent_id: str | None) -> Step | None:
        """A step that lets the parent of a run that has ended begin and end with its runs; None
        if the parent is not one that `parent_of` creates."""
        group = _group(info)
        if parent_id is None or group is None or not self._is_parent(parent_id, *group):
            return None
        end_ms = to_mlflow.run_time(info.ended_ms)
        widen = self._client.client.widen_run
        return partial(self._client.call, widen, parent_id, start_ms or None, end_ms)

    def _is_parent(self, run_id: str, tag: str, value: str) -> bool:
        """Whether a run was created for the sweep or the group: only that may be changed."""
        with self._lock:
            if any(key[1:] == (tag, value) and at == run_id for key, at in self._known.items()):
                return True
        try:
            run = self._client.call(self._client.client.get_run_data, run_id)
        except RefusedError:
            return False
        found = identity.present_tags(run.data.tags).get(tag)
        return found == value and run.info.lifecycle_stage == "active"

    def _find_or_create(self, info: RunInfo, experiment_id: str, tag: str, value: str) -> str:
        """The run whose ``tag`` has this ``value``; ``info`` is one of its runs."""
        key = (experiment_id, tag, value)
        start_ms = to_mlflow.run_time(info.started_ms)
        widen = self._client.client.widen_run
        search = partial(self._with_tag, experiment_id, tag, value)
        with self._lock:
            if key not in self._known:
                parent = find_settled(self._client, search)
                self._known[key] = parent.info.run_id if parent else self._create(key, info, search)
            self._client.call(widen, self._known[key], start_ms, None)
            return self._known[key]

    def _with_tag(self, experiment_id: str, tag: str, value: str) -> list[Run]:
        find, names = self._client.client.runs_with_tag, identity.all_names(tag)
        return [
            run for name in names for run in self._client.call(find, name, value, experiment_id)
        ]

    def _create(
        self, key: tuple[str, str, str], info: RunInfo, search: Callable[[], list[Run]]
    ) -> str:
        experiment_id, tag, value = key
        start_ms = to_mlflow.run_time(info.started_ms)
        tags = {tag: value, identity.PROJECT: info.project}
        is_sweep = tag == identity.SWEEP
        name = f"sweep {info.facts.get('sweep_name') or value}" if is_sweep else value
        parent, created = create_once(
            self._client, NewRun(experiment_id, name, start_ms, tags), search
        )
        run_id = str(parent.info.run_id)
        if created:
            config = info.facts.get("sweep_config") if is_sweep else None
            if config:
                self._log_config(run_id, config)
            end_ms = to_mlflow.run_time(info.ended_ms) or start_ms
            self._client.call(self._client.client.set_terminated, run_id, "FINISHED", end_ms)
        return run_id

    def _log_config(self, run_id: str, config: Any) -> None:
        try:
            self._client.call(self._client.mlflow.log_dict, run_id, config, SWEEP_CONFIG_FILE)
        except RefusedError as error:
            log_once(f"the config of a sweep cannot be written into MLflow: {error}")


def _group(info: RunInfo) -> tuple[str, str] | None:
    """Tag and value of the parent run that is created for the run's sweep or group."""
    if info.config.get(identity.PARENT_RUN_KEY):
        return None
    group = info.config.get(identity.PARENT_GROUP_KEY)
    if info.sweep_id:
        return identity.SWEEP, info.sweep_id
    return (identity.PARENT_GROUP, group) if isinstance(group, str) and group else None
