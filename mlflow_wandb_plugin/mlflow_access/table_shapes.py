"""The tables of MLflow that are written in SQL: their columns, types and keys.

The tables of later and earlier versions of MLflow may be written as long as they have this shape,
whatever else was changed in the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sqlalchemy import Engine

TEXT, FLOAT, INT, INT64, FLAG = "text", "float", "integer", "integer of 64 bits", "flag"


class Shape(NamedTuple):
    """Kinds of all columns of a table, and the columns of its primary key."""

    columns: Mapping[str, str]
    key: frozenset[str]


_POINT = {
    "key": TEXT, "value": FLOAT, "timestamp": INT64, "step": INT64, "is_nan": FLAG,
    "run_uuid": TEXT,
}  # fmt: skip
_RUN = {
    "run_uuid": TEXT, "name": TEXT, "source_type": TEXT, "source_name": TEXT,
    "entry_point_name": TEXT, "user_id": TEXT, "status": TEXT, "start_time": INT64,
    "end_time": INT64, "source_version": TEXT, "lifecycle_stage": TEXT, "artifact_uri": TEXT,
    "experiment_id": INT, "deleted_time": INT64,
}  # fmt: skip
_PAIR = Shape({"key": TEXT, "value": TEXT, "run_uuid": TEXT}, frozenset({"key", "run_uuid"}))
METRIC_TABLES = {
    "metrics": Shape(_POINT, frozenset(_POINT)),
    "latest_metrics": Shape(_POINT, frozenset({"key", "run_uuid"})),
}
RUN_TABLES = {"runs": Shape(_RUN, frozenset({"run_uuid"})), "tags": _PAIR, "params": _PAIR}
RUN_COLUMNS = tuple(_RUN)


def unknown_shape(engine: Engine, tables: Mapping[str, Shape]) -> str:
    """Say what in the database differs from ``tables``; empty if nothing does."""
    from sqlalchemy import inspect
    from sqlalchemy.exc import SQLAlchemyError

    inspector = inspect(engine)
    for name, shape in tables.items():
        try:
            columns = {column["name"]: column["type"] for column in inspector.get_columns(name)}
            key = set(inspector.get_pk_constraint(name)["constrained_columns"])
        except SQLAlchemyError as error:
            return f"the database's table {name} cannot be inspected ({type(error).__name__})"
        if other := set(columns) ^ set(shape.columns):
            return f"the columns of the database's table {name} differ: {_listed(other)}"
        wrong = {column for column, kind in shape.columns.items() if not _is(columns[column], kind)}
        if wrong:
            return f"columns of the database's table {name} have other types: {_listed(wrong)}"
        if key != shape.key:
            return f"the key of the database's table {name} is {_listed(key)}"
    return ""


def _is(found: Any, kind: str) -> bool:
    """Whether a column's type is of this kind."""
    from sqlalchemy import types

    kinds: Mapping[str, tuple[type[Any], ...]] = {
        TEXT: (types.String,),
        FLOAT: (types.Float,),
        INT: (types.Integer,),
        INT64: (types.BigInteger,),
        # MySQL has no truth values.
        FLAG: (types.Boolean, types.Integer),
    }
    return isinstance(found, kinds[kind])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
