"""Fixtures of the tests that mirror in the test's own process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core import messages
from mlflow_wandb_plugin.store import mirrored_runs, uris
from tests.support.outboxes import JournalContent, no_replicator, read_journal, read_outbox
from tests.support.stores import copy_store

Sent = Callable[[], dict[str, JournalContent]]


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """As if MLflow had just been imported; yields the outbox, from which nobody delivers."""
    import mlflow
    from mlflow.tracking import fluent
    from mlflow.tracking._model_registry import utils as models
    from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
    from mlflow.tracking._tracking_service import utils
    from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry

    outbox = tmp_path / "outbox"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_WANDB_JOURNAL_DIR", str(outbox))
    # So that monkeypatch takes away what a test leaves in these.
    for variable in (
        uris.MIRROR,
        uris.FAST,
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_RUN_ID",
        *uris.URI_VARIABLES,
    ):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(utils, "_tracking_uri", None)
    monkeypatch.setattr(models, "_registry_uri", None)
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    monkeypatch.setattr(messages, "_shown", set())
    monkeypatch.setattr(uris, "_built", {})
    utils._artifact_repos_cache.clear()
    for kind in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        kind._get_store_with_resolved_uri.cache_clear()
    with no_replicator(outbox):
        yield outbox
        while mlflow.active_run() is not None:
            mlflow.end_run()
        if mirrored_runs._mirror is not None:
            mirrored_runs._mirror.journals.close_idle(-1)
        mirrored_runs._mirror = None
    for kind in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        kind._get_store_with_resolved_uri.cache_clear()


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Also what the package logs after MLflow 3.1 has opened a database, which replaces the
    handlers of the root logger."""
    logger = logging.getLogger("mlflow_wandb_plugin")
    logger.addHandler(caplog.handler)
    logger.propagate = False
    yield caplog
    logger.propagate = True
    logger.removeHandler(caplog.handler)


@pytest.fixture
def sqlite_uri(fresh_process: Path, empty_store: Path, tmp_path: Path) -> str:
    """The native URI of an empty store."""
    return copy_store(empty_store, tmp_path / "mlflow.db")


@pytest.fixture
def mirrored(sqlite_uri: str) -> str:
    """The native URI of an empty store that MLflow uses, and that is mirrored."""
    import mlflow

    mlflow.set_tracking_uri(f"wandb+{sqlite_uri}")
    return sqlite_uri


@pytest.fixture
def sent(fresh_process: Path) -> Sent:
    """What is in the outbox, run by run."""
    return lambda: read_outbox(fresh_process)


@pytest.fixture
def sent_of(fresh_process: Path) -> Callable[[str], JournalContent]:
    """What is in the outbox of one run."""
    return lambda run_id: read_journal(fresh_process / f"{run_id}.journal")
