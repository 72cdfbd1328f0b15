"""A store for active runs about which MLflow does not answer.

It is MLflow's own, in a temporary folder of this process. `active_calls` sends what is about a run
of it, or about a logged model of such a run, there. MLflow gets all of it from the W&B run, when it
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
_taken: set[str] = set()
"""Ids of those runs that MLflow has."""


def create_run(name: str) -> Any:
    """Create a run that is called ``name``; returns MLflow's entity."""
    now_ms = time.time_ns() // 1_000_000
    run = store().create_run("0", "", now_ms, [], name)
    _ids.add(run.info.run_id)
    return run


def take_over(run_id: str) -> None:
    """Answer for a run that MLflow has, until `give_back`. The store has nothing of it yet."""
    from mlflow.store.tracking.dbmodels.models import SqlRun
    from mlflow.tracking._tracking_service import utils
    from sqlalchemy.orm import Session

    folder = f"{store().artifact_root_uri}/0/{run_id}/artifacts"
    run = SqlRun(
        run_uuid=run_id,
        name=run_id,
        experiment_id=0,
        user_id="",
        status="RUNNING",
        start_time=time.time_ns() // 1_000_000,
        artifact_uri=folder,
    )
    with Session(store().engine) as session:
        session.merge(run)
        session.commit()
    # MLflow keeps the repository of a run's artifacts.
    utils._artifact_repos_cache.pop(run_id, None)
    _taken.add(run_id)
    _ids.add(run_id)


def give_back(run_id: str) -> None:
    """Let MLflow answer for a run again that was taken over; does nothing about any other run."""
    if run_id in _taken:
        from mlflow.tracking._tracking_service import utils

        utils._artifact_repos_cache.pop(run_id, None)
        _taken.discard(run_id)
        _ids.discard(run_id)


def has_runs() -> bool:
    return bool(_ids)


def has(run_id: str) -> bool:
    """Whether a run is one of the store's."""
    return run_id in _ids


def repository(run_id: str) -> Any:
    """Return the repository of the artifacts of one of the store's runs."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(store().get_run(run_id).info.artifact_uri)


@functools.cache
def store() -> Any:
    """Return MLflow's store of these runs."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    native: Any = SqlAlchemyStore

    class WaitingStore(native):  # type: ignore[misc]
        """MLflow's store, which notes the logged models that it has."""

        def create_logged_model(self, *args: Any, **kwargs: Any) -> Any:
            model = super().create_logged_model(*args, **kwargs)
            _ids.add(model.model_id)
            return model

    folder = Path(tempfile.mkdtemp(prefix="mlflow-wandb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    ensure_tables(uri)
    return WaitingStore(uri, str(folder / "artifacts"))


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
            is_ours = any(isinstance(one, str) and one in _ids for one in given)
            asked = self._wrapped(store()) if is_ours else self._open_store()
            return getattr(asked, name)(*args, **kwargs)

        return call
