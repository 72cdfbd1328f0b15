"""The tracking stores that this process mirrors, found by the URI that MLflow names."""

from __future__ import annotations

import weakref
from typing import Any

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.tracking_uri import absolute_uri
from mlflow_wandb_plugin.store import uris


class TrackingStores:
    """The mirrored tracking stores, as long as MLflow has them, and their experiments' names."""

    def __init__(self) -> None:
        self._uris: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._by_uri: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._named: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()
        self._experiments: weakref.WeakKeyDictionary[Any, dict[str, str]]
        self._experiments = weakref.WeakKeyDictionary()

    def add(self, store: Any, uri: str) -> None:
        """Remember a mirrored store and its native tracking URI."""
        self._uris[store] = without_credentials(absolute_uri(uri))
        self._by_uri[uri] = store

    def uri(self, store: Any) -> str:
        """The store's tracking URI, without credentials."""
        return self._uris.get(store, "")

    def bind(self, part: Any, uri: str | None) -> None:
        """Remember which tracking store an artifact repository or a model registry belongs to.

        Args:
            uri: its native URI, as MLflow passes it; None where MLflow names none.
        """
        self._named[part] = uri

    def named(self, part: Any) -> tuple[str, str | None]:
        """What `name` needs to know of a store, repository or registry in another process."""
        for uri, store in list(self._by_uri.items()):
            if store is part:
                return "store", uri
        return "part", self._named.get(part)

    def name(self, part: Any, named: tuple[str, str | None]) -> None:
        """`add` or `bind` a copy of what `named` described."""
        kind, uri = named
        if kind == "part":
            self.bind(part, uri)
        elif uri is not None:
            self._uris[part] = without_credentials(absolute_uri(uri))

    def store_of(self, part: Any) -> Any | None:
        """The mirrored store that a repository or registry belongs to; None if it is not mirrored.

        Operations on artifacts and on model versions have a run's id, and no store to read it from.
        """
        return self.at(self._named.get(part))

    def at(self, uri: str | None) -> Any | None:
        """The mirrored store at a tracking URI; None if that store is not mirrored.

        Args:
            uri: None is the store of this server process, or the one that MLflow uses now.
        """
        if uri is None and uris.is_server():
            from mlflow.server import handlers

            store: Any = handlers._get_tracking_store()
        else:
            from mlflow.tracking._tracking_service import utils

            untyped: Any = utils
            named = uri or untyped.get_tracking_uri()
            if not (uris.is_prefixed(named) or uris.is_mirrored(named)):
                return None
            store = self._by_uri.get(named)
            store = untyped._get_store(named) if store is None else store
        return store if store in self._uris else None

    def experiment_name(self, store: Any, experiment_id: str) -> str:
        names = self._experiments.setdefault(store, {})
        if experiment_id not in names:
            names[experiment_id] = store.get_experiment(experiment_id).name
        return names[experiment_id]

    def forget_experiment(self, store: Any, experiment_id: str) -> None:
        """Read the experiment's name again: it was renamed."""
        self._experiments.setdefault(store, {}).pop(experiment_id, None)
