"""Which store classes are MLflow's own, or write the same rows in another way."""

from __future__ import annotations

from typing import Any

_equal: set[type[Any]] = set()


def add_equal(kind: type[Any]) -> None:
    """Remember a subclass of MLflow's ``SqlAlchemyStore`` that writes the same rows."""
    _equal.add(kind)


def is_own(kind: type[Any]) -> bool:
    """Whether a class is MLflow's ``SqlAlchemyStore`` or one of those that are equal to it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return kind is SqlAlchemyStore or kind in _equal
