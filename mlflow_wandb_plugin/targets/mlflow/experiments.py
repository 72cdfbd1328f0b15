"""Finds and creates the experiments that runs are written into."""

from __future__ import annotations

import threading
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.errors import TargetError
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.run_client import has_tag


class Experiments:
    """Experiments by the name that this package gave them. Thread-safe.

    An experiment has that name in a tag, so that one which was renamed in MLflow is found; one
    that was not created here is found by its name, and gets the tag.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str | None] = {}
        self._tagged: set[str] = set()
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> str | None:
        """The id of the active experiment; None if there was none when it was first looked for."""
        with self._lock:
            if name not in self._known:
                found = self._with_tag(name) or self._named(name)
                active = found is not None and found.lifecycle_stage == "active"
                self._known[name] = str(found.experiment_id) if active else None
            return self._known[name]

    def name_of(self, experiment_id: str) -> str:
        """The name that the experiment had when it was first asked for."""
        with self._lock:
            if experiment_id not in self._names:
                get = self._client.mlflow.get_experiment
                self._names[experiment_id] = str(self._client.call(get, experiment_id).name)
            return self._names[experiment_id]

    def find_or_create(self, name: str, tags: dict[str, str]) -> str:
        """The id of the experiment, created if need be, which has at least the keys of ``tags``.

        Raises:
            TargetError: it was deleted, and MLflow keeps the name.
        """
        tags = tags | {identity.EXPERIMENT: name}
        with self._lock:
            known = self._known.get(name)
            if known is None or name not in self._tagged:
                known = self._known[name] = self._made(name, tags)
                self._tagged.add(name)
            return known

    def _made(self, name: str, tags: dict[str, str]) -> str:
        call, mlflow = self._client.call, self._client.mlflow
        experiment = self._with_tag(name) or self._named(name)
        if experiment is None:
            try:
                return call(mlflow.create_experiment, name, tags=tags)
            except RefusedError as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._named(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TargetError(
                f"the MLflow experiment {name!r} is deleted: restore it "
                "(mlflow experiments restore) or choose another with --experiment"
            )
        for key, value in tags.items():
            if key not in identity.present_tags(experiment.tags):
                call(mlflow.set_experiment_tag, experiment.experiment_id, key, value)
        return str(experiment.experiment_id)

    def _named(self, name: str) -> Any:
        return self._client.call(self._client.mlflow.get_experiment_by_name, name)

    def _with_tag(self, name: str) -> Any:
        """The active experiment with the name in its tag; of several, the first one."""
        search, order = self._client.mlflow.search_experiments, ["creation_time ASC"]
        for key in identity.all_names(identity.EXPERIMENT):
            condition = has_tag(key) if "'" in name else f"tags.`{key}` = '{name}'"
            found = self._client.call(search, filter_string=condition, order_by=order)
            for experiment in found:
                if experiment.tags.get(key) == name:
                    return experiment
        return None
