"""Whether an MLflow store exists: MLflow itself creates what it opens."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.tracking_uri import absolute_uri
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mlflow_access.address import default_uri
from mlflow_wandb_plugin.sqlite_schema import all_tables, database_file, has_tables, is_older

DATABASES = ("postgresql", "mysql", "mssql")


def store_exists(uri: str) -> bool:
    """Return whether opening ``uri`` would create no database, no tables and no folder. A server
    always exists; whether it answers is not asked here.

    Raises:
        UsageError: opening it would migrate its tables.
    """
    uri = uri or default_uri()
    file = database_file(uri)
    if file is not None:
        if is_older(file):
            raise UsageError(
                f"{file} has tables of an older MLflow: run `mlflow db upgrade sqlite:///{file}`"
            )
        return file.exists() and has_tables(file)
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        return Path(absolute_uri(uri).removeprefix("file://").removeprefix("file:")).is_dir()
    return scheme.partition("+")[0] not in DATABASES or _has_all_tables(uri)


def _has_all_tables(uri: str) -> bool:
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        tables = set(inspect(create_engine(uri, poolclass=NullPool)).get_table_names())
    except (SQLAlchemyError, ImportError):
        # MLflow will say what is wrong.
        return True
    if "experiments" in tables and not all_tables() <= tables:
        raise UsageError(
            f"{without_credentials(uri)} has tables of an older MLflow: run `mlflow db upgrade`"
        )
    return "experiments" in tables
