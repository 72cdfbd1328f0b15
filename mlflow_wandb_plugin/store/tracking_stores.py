"""The mirrored tracking stores of this process, and the names of their experiments."""

from __future__ import annotations

import weakref
from typing import Any

from mlflow_wandb_plugin.store import uris


class TrackingStores:
    """Remembers stores as long as MLflow has them."""

    def __init__(self) -> None:
        self._uris: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._experiments: weakref.WeakKeyDictionary[Any, dict[str, str]] = (
            weakref.WeakKeyDictionary()
        )

    def add(self, store: Any, uri: str) -> None:
        """Remember a mirrored store and its tracking URI, which has no credentials."""
        self._uris[store] = uri

    def uri(self, store: Any) -> str:
        return self._uris.get(store, "")

    def latest(self) -> Any:
        """The store that was added last, else the one that MLflow uses.

        Operations on artifacts and on model versions have a run's id, and no store to read it from.
        """
        for store in reversed(list(self._uris)):
            return store
        if uris.is_server():
            from mlflow.server import handlers

            return handlers._get_tracking_store()
        from mlflow.tracking._tracking_service import utils

        untyped: Any = utils
        return untyped._get_store()

    def experiment_name(self, store: Any, experiment_id: str) -> str:
        names = self._experiments.setdefault(store, {})
        if experiment_id not in names:
            names[experiment_id] = store.get_experiment(experiment_id).name
        return names[experiment_id]

    def forget_experiment(self, store: Any, experiment_id: str) -> None:
        """Read the experiment's name again: it was renamed."""
        self._experiments.setdefault(store, {}).pop(experiment_id, None)
