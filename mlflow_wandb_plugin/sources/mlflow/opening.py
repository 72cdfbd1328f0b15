"""Open an MLflow store as a source, without creating or migrating anything."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from mlflow_wandb_plugin.core.protocols import SourceOptions
from mlflow_wandb_plugin.core.redaction import first_line, without_credentials
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import SourceUnavailableError, UsageError
from mlflow_wandb_plugin.mlflow_access.address import connect, resolved
from mlflow_wandb_plugin.mlflow_access.existing_store import store_exists
from mlflow_wandb_plugin.sources.mlflow.source import MlflowSource
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient

TRASH = ".trash"
"""The folder of deleted experiments, which MLflow creates when it opens a file store."""


def open_mlflow(
    uri: str,
    options: SourceOptions | None = None,
    backoff: Backoff | None = None,
    registry_uri: str | None = None,
) -> MlflowSource:
    """Open the MLflow store that ``uri`` names; see `resolved`.

    Args:
        registry_uri: of the store's registered models; None means MLflow's own setting.

    Raises:
        UsageError: there is no store, MLflow cannot open it, or it is one of an older MLflow.
        SourceUnavailableError: the server does not answer.
    """
    uri = resolved(uri)
    shown = without_credentials(uri)
    try:
        connect(uri)
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"the certificate of MLflow at {shown} is not trusted ({error.verify_message}): set "
            "MLFLOW_TRACKING_SERVER_CERT_PATH to a file with the authority's certificate"
        ) from error
    except OSError as error:
        raise SourceUnavailableError(f"MLflow at {shown} cannot be reached: {error}") from error
    if not store_exists(uri):
        raise UsageError(f"there is no MLflow store at {shown}")
    # MLflow's own retries take minutes, and its bars are one for each file.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return MlflowSource(_opened(uri, backoff, registry_uri), options or SourceOptions())


def _opened(uri: str, backoff: Backoff | None, registry_uri: str | None) -> StoreClient:
    from alembic.util import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    folder = _folder(uri)
    trash = None if folder is None else folder / TRASH
    created = trash is not None and not trash.exists()
    if folder is not None:
        # Newer versions open folders, which are what is to be left behind, only if told to.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        client = StoreClient(MlflowClient(uri, registry_uri), uri, backoff)
    except CommandError as error:
        # Newer versions of MLflow say so themselves.
        reason = f"its schema is that of another MLflow ({first_line(error)})"
        raise UsageError(f"MLflow cannot open {without_credentials(uri)}: {reason}") from error
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        shown = without_credentials(uri)
        raise UsageError(f"MLflow cannot open {shown}: {first_line(error)}") from error
    finally:
        if trash is not None and created and trash.is_dir():
            trash.rmdir()
    return client


def _folder(uri: str) -> Path | None:
    """The folder of a file store; None for another store."""
    if "://" in uri.removeprefix("file://") or uri.startswith("databricks"):
        return None
    return Path(uri.removeprefix("file://").removeprefix("file:"))
