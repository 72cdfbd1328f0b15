"""Each method of the installed MLflow is mirrored, or somebody has said why it is not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
from mlflow.store.artifact import artifact_repo
from mlflow.store.model_registry import abstract_store as abstract_registry
from mlflow.store.model_registry.rest_store import RestStore as RegistryOverHttp
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as SqlRegistry
from mlflow.store.tracking import abstract_store as abstract_tracking
from mlflow.store.tracking.rest_store import RestStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from mlflow_wandb_plugin.store import artifact_operations, run_operations, version_operations
from tests.store import classified

REPOSITORIES = [
    value
    for _, value in inspect.getmembers(artifact_repo, inspect.isclass)
    if value.__module__ == artifact_repo.__name__
]


def methods(kind: type, private: bool) -> set[str]:
    """Methods that a class offers; private ones of abstract classes, which others implement."""
    return {
        name
        for name in dir(kind)
        if callable(getattr(kind, name))
        and not inspect.isclass(getattr(kind, name))
        and not name.startswith("__")
        and (private or not name.startswith("_"))
    }


@pytest.mark.parametrize(
    ("kinds", "concrete", "mirrored", "left_alone"),
    [
        ([abstract_tracking.AbstractStore], [SqlAlchemyStore, RestStore],
         run_operations.OPERATIONS, classified.TRACKING),
        ([abstract_registry.AbstractStore], [SqlRegistry, RegistryOverHttp],
         version_operations.OPERATIONS, classified.MODEL_REGISTRY),
        (REPOSITORIES, [], artifact_operations.OPERATIONS, classified.ARTIFACTS),
    ],
    ids=["tracking", "registry", "artifacts"],
)  # fmt: skip
def test_every_method_is_classified(
    kinds: list[type],
    concrete: list[type],
    mirrored: Mapping[str, object],
    left_alone: Mapping[str, str],
) -> None:
    """A method that is not classified fails: decide whether it writes to a run."""
    offered = {name for kind in kinds for name in methods(kind, private=True)}
    offered |= {name for kind in concrete for name in methods(kind, private=False)}
    assert sorted(offered - set(mirrored) - set(left_alone)) == []
    assert not set(mirrored) & set(left_alone)
    assert sorted(set(mirrored) - offered - set(classified.VERSIONS)) == []


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
