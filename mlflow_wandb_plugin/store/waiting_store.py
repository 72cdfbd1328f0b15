"""A store for active runs that MLflow cannot have yet, because it does not answer.

It is MLflow's own, in a temporary folder of this process. `active_run` sends what is about a run of
it, or about a logged model of such a run, there. MLflow gets all of it from the W&B run, when it
answers: the store only has answers for MLflow's calls until then.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.sqlite_schema import ensure_tables

_ids: set[str] = set()
"""Ids of the runs and logged models of the store."""


def create_run(name: str) -> Any:
    """Create a run that is called ``name``; returns MLflow's entity."""
    now_ms = time.time_ns() // 1_000_000
    run = _store().create_run("0", "", now_ms, [], name)
    _ids.add(run.info.run_id)
    return run


def has_runs() -> bool:
    return bool(_ids)


def has(run_id: str) -> bool:
    """Whether a run is one of the store's."""
    return run_id in _ids


@functools.cache
def _store() -> Any:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = Path(tempfile.mkdtemp(prefix="mlflow-wandb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    ensure_tables(uri)
    store: Any = SqlAlchemyStore
    return store(uri, str(folder / "artifacts"))


class RoutedStore:
    """The store of a client of MLflow: the store of this module for what is about its runs.

    Args:
        open_store: returns the client's own store, for everything else; it may wait for MLflow.
        wrapped: wraps the methods of the store of this module.
    """

    def __init__(self, open_store: Callable[[], Any], wrapped: Callable[[Any], Any]) -> None:
        self._open_store = open_store
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = (*args, *kwargs.values())
            if not any(isinstance(one, str) and one in _ids for one in given):
                return getattr(self._open_store(), name)(*args, **kwargs)
            result = getattr(self._wrapped(_store()), name)(*args, **kwargs)
            if name == "create_logged_model":
                _ids.add(result.model_id)
            return result

        return call
