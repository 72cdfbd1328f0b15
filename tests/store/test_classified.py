"""Each method of the installed MLflow is mirrored, or somebody has said why it is not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
from mlflow.store.artifact import artifact_repo
from mlflow.store.model_registry.rest_store import RestStore as RegistryOverHttp
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as SqlRegistry
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.rest_store import RestStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_wandb_plugin.store import (
    artifact_operations,
    classified,
    run_operations,
    version_operations,
)

REPOSITORIES = [
    value
    for _, value in inspect.getmembers(artifact_repo, inspect.isclass)
    if value.__module__ == artifact_repo.__name__
]


@pytest.mark.parametrize("part", classified.parts(), ids=lambda part: part.name)
def test_every_method_is_classified(part: classified.Part) -> None:
    """A method that is not classified fails: decide whether it writes to a run."""
    assert sorted(part.offered - set(part.mirrored) - set(part.left_alone)) == []
    assert not set(part.mirrored) & set(part.left_alone)
    assert sorted(set(part.mirrored) - part.offered - set(classified.VERSIONS)) == []


def test_a_method_of_a_newer_mlflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the part of MLflow that has it."""
    assert classified.unclassified() == []
    monkeypatch.setattr(AbstractStore, "log_smell", lambda self: None, raising=False)
    assert classified.unclassified() == ["tracking: log_smell"]


@pytest.mark.parametrize(
    ("kind", "operations"),
    [
        (SqlAlchemyStore, run_operations.OPERATIONS),
        (RestStore, run_operations.OPERATIONS),
        (SqlRegistry, version_operations.OPERATIONS),
        (RegistryOverHttp, version_operations.OPERATIONS),
        *((kind, artifact_operations.OPERATIONS) for kind in REPOSITORIES),
    ],
)
def test_operations_take_mlflows_arguments(kind: type, operations: Mapping[str, object]) -> None:
    """An operation accepts every call that MLflow's method accepts."""
    for name, operation in operations.items():
        if not hasattr(kind, name):
            continue
        theirs = inspect.signature(getattr(kind, name)).parameters.values()
        given = [p for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
        ours = inspect.signature(operation)  # type: ignore[arg-type]
        ours.bind(*(None for _ in given))
        ours.bind(None, **{parameter.name: None for parameter in given[1:]})
