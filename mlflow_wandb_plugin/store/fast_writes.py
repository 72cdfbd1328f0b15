"""MLflow's database stores with `log_batch` and its like in SQL, without MLflow's ORM.

Rows, errors and validation are MLflow's: what is not plain and valid is left to MLflow's own
method, which does it or raises its own error.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils import validation

from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG
from mlflow_wandb_plugin.core.model import INT64
from mlflow_wandb_plugin.mlflow_access.own_stores import add_equal
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, Row, metrics_of, stored
from mlflow_wandb_plugin.mlflow_access.spark_session import ask_spark_only_where_it_is
from mlflow_wandb_plugin.mlflow_access.sql.batches import Batch
from mlflow_wandb_plugin.mlflow_access.sql.dialects import DIALECTS
from mlflow_wandb_plugin.mlflow_access.table_shapes import METRIC_TABLES, RUN_TABLES, unknown_shape
from mlflow_wandb_plugin.store.fast_reads import FastReads
from mlflow_wandb_plugin.store.group_commit import GroupCommit

if TYPE_CHECKING:
    from sqlalchemy import Engine

TABLES = {**METRIC_TABLES, "tags": RUN_TABLES["tags"], "params": RUN_TABLES["params"]}
PARTS = ("_get_run", "_log_metrics", "_log_params", "_set_tags")
"""What MLflow's methods are made of: where something else was put in its place, that is used."""
DRIVERS = {"postgresql": ("psycopg2", "psycopg")}
"""Drivers of databases that are not written with every driver."""
NAMES_REMEMBERED = 10_000
WHOLE = 2**53
"""Integers below are floats as they are."""

_validation: Any = validation


class FastWrites(SqlAlchemyStore):
    """The methods of MLflow's store that log; calls of several threads share transactions."""

    def log_batch(self, run_id: Any, metrics: Any, params: Any, tags: Any) -> None:
        batch = _whole_batch(run_id, metrics, params, tags)
        if batch is None or not _written(self, batch):
            super().log_batch(run_id, metrics, params, tags)  # type: ignore[no-untyped-call]

    def log_points(self, run_id: str, blocks: Sequence[Points]) -> None:
        """Log points of a run, each metric of which is there once: all of them in one transaction,
        but those that MLflow has to write.

        Raises:
            MlflowException: as `log_batch` for the same points. Nothing was written if they are at
                fault.
        """
        _validation._validate_run_id(run_id)
        index = 0
        for block in blocks:
            if not (_is_metric_name(block.name) and block.storable()):
                _refuse(block, index)
            index += len(block.values)
        if not _written(self, Batch(run_id, blocks=blocks)):
            metrics, size = list(metrics_of(blocks)), _validation.MAX_METRICS_PER_BATCH
            for start in range(0, len(metrics) or 1, size):
                some = metrics[start : start + size]
                super().log_batch(run_id, some, [], [])  # type: ignore[no-untyped-call]

    def log_metric(self, run_id: Any, metric: Any) -> None:
        points = _points(run_id, (metric,))
        if points is None or not _written(self, Batch(run_id, points)):
            super().log_metric(run_id, metric)  # type: ignore[no-untyped-call]

    def log_param(self, run_id: Any, param: Any) -> None:
        params = _valid_params((param,))
        if params is None or not _written(self, Batch(run_id, params=params)):
            super().log_param(run_id, param)  # type: ignore[no-untyped-call]

    def set_tag(self, run_id: Any, tag: Any) -> None:
        tags = _valid_tags((tag,))
        if tags is None or not _written(self, Batch(run_id, tags=tags)):
            super().set_tag(run_id, tag)  # type: ignore[no-untyped-call]

    def _workspace_of_runs(self) -> str | None:
        """The workspace in which a run has to be; None if it may be in any."""
        return None


class FastWritesInWorkspace(FastWrites):
    """Those of MLflow's store whose calls are bound to a workspace."""

    def _workspace_of_runs(self) -> str | None:
        return str(self._get_active_workspace())


def write_fast(store: Any) -> Any:
    """``store`` with its class replaced by one that writes fast, if there is one for it."""
    kind: Any = type(store)
    if kind.__name__ not in STORES or not kind.__module__.startswith(MODULES):
        return store
    obstacle = _obstacle(store.engine)
    if obstacle:
        log_once(f"{obstacle}: MLflow's own methods write to this store")
    else:
        store.__class__ = _fast_class(kind)
        ask_spark_only_where_it_is()
    return store


@functools.cache
def _fast_class(kind: Any) -> Any:
    """A subclass of MLflow's class, of the same name, that writes and reads fast."""
    body = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    fast = type(kind)(kind.__name__, (STORES[kind.__name__], FastReads, kind), body)
    if kind is SqlAlchemyStore:
        add_equal(fast)
    return fast


MODULES = "mlflow.store.tracking."
STORES = {"SqlAlchemyStore": FastWrites, "WorkspaceAwareSqlAlchemyStore": FastWritesInWorkspace}
"""Classes of MLflow that are replaced, by name; a subclass of theirs may do something else."""


def _obstacle(engine: Engine) -> str:
    """Say why a database cannot be written fast; empty if it can."""
    name, driver = engine.dialect.name, engine.dialect.driver
    if name not in DIALECTS:
        return f"there are no fast writes into {name}"
    if driver not in DRIVERS.get(name, (driver,)):
        return f"there are no fast writes with the driver {driver}"
    return unknown_shape(engine, TABLES)


def _written(store: FastWrites, batch: Batch) -> bool:
    """Whether a batch is committed; False if MLflow has to write it."""
    from sqlalchemy.exc import OperationalError

    if any(getattr(SqlAlchemyStore, name) is not part for name, part in _PARTS.items()):
        return False
    try:
        workspace = store._workspace_of_runs()
    except MlflowException:
        return False
    try:
        return _group(store.engine).write(batch._replace(workspace=workspace))
    except OperationalError as error:
        # As MLflow's sessions do it.
        raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error


_PARTS = {name: getattr(SqlAlchemyStore, name) for name in PARTS}
_groups: weakref.WeakKeyDictionary[Engine, GroupCommit] = weakref.WeakKeyDictionary()
_creating = threading.Lock()


def _group(engine: Engine) -> GroupCommit:
    """The group of all stores that use an engine: MLflow has one for each URI."""
    group = _groups.get(engine)
    if group is None:
        with _creating:
            group = _groups.setdefault(engine, GroupCommit(engine))
    return group


_of_parents: list[GroupCommit] = []
"""The groups of the processes from which this one was forked."""


def _after_fork() -> None:
    """Forget the threads of the parent; its connections, which SQLite must not close in a child,
    are neither used nor closed here."""
    global _groups, _creating
    _of_parents.extend(_groups.values())
    _groups, _creating = weakref.WeakKeyDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


# -- what is valid, by MLflow's own functions; None is what is left to MLflow's method ----------


def _whole_batch(run_id: Any, metrics: Any, params: Any, tags: Any) -> Batch | None:
    if not (type(metrics) in _LISTS and type(params) in _LISTS and type(tags) in _LISTS):
        return None
    try:
        _validation._validate_run_id(run_id)
        _validation._validate_batch_log_limits(metrics, params, tags)
        _validation._validate_param_keys_unique(params)
    except (MlflowException, TypeError, AttributeError):
        return None
    points, named, tagged = _points(run_id, metrics), _valid_params(params), _valid_tags(tags)
    if points is None or named is None or tagged is None:
        return None
    return Batch(run_id, points, named, tagged)


_LISTS = (list, tuple)


def _points(run_id: Any, metrics: Sequence[Any]) -> list[Row] | None:
    if type(run_id) is not str:
        return None
    rows: list[Row] = []
    for metric in metrics:
        if type(metric) is not Metric or metric.model_id is not None:
            return None
        key, value, at, step = metric.key, metric.value, metric.timestamp, metric.step
        if type(value) is int and -WHOLE <= value <= WHOLE:
            value = float(value)
        if not (
            type(key) is str
            and type(value) is float
            and type(at) is int
            and type(step) is int
            and 0 <= at < INT64
            and -INT64 <= step < INT64
            and _is_metric_name(key)
        ):
            return None
        rows.append((key, stored(value), at, step, value != value, run_id))
    return rows


@functools.lru_cache(maxsize=NAMES_REMEMBERED)
def _is_metric_name(name: str) -> bool:
    try:
        _validation._validate_metric(name, 0.0, 0, 0)
    except MlflowException:
        return False
    return True


def _refuse(block: Points, index: int) -> None:
    """Raise MLflow's own error for points of a metric that are at fault, the first of which is at
    ``index`` of the batch."""
    for at, metric in enumerate(metrics_of([block]), start=index):
        fields = metric.key, metric.value, metric.timestamp, metric.step
        _validation._validate_metric(*fields, path=f"metrics[{at}]")


def _valid_params(params: Sequence[Any]) -> Mapping[str, str] | None:
    return _pairs(params, Param, _validation._validate_param)


def _valid_tags(tags: Sequence[Any]) -> Mapping[str, str] | None:
    """Not the run's name, which is an attribute of the run as well."""
    pairs = _pairs(tags, RunTag, _validation._validate_tag)
    return None if pairs is None or NAME_TAG in pairs else pairs


def _pairs(given: Sequence[Any], kind: type[Any], validate: Any) -> Mapping[str, str] | None:
    pairs: dict[str, str] = {}
    for each in given:
        if type(each) is not kind or type(each.key) is not str or type(each.value) is not str:
            return None
        try:
            valid = validate(each.key, each.value)
        except MlflowException:
            return None
        pairs[valid.key] = valid.value
    return pairs
