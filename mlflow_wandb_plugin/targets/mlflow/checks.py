"""Asks whether MLflow as a whole can be used, before the first run is written."""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import TargetError, TargetUnusableError, UnavailableError
from mlflow_wandb_plugin.targets.mlflow.client import (
    Client,
    RefusedError,
    import_client,
    translated,
)
from mlflow_wandb_plugin.targets.mlflow.rest import arrow_offer

PATIENCE_S = 4.0
"""Seconds for a question; one that is not answered is left to the first run."""
REFUSED_CREDENTIALS = (401, 403)
NO_RUN = "0" * 32
"""An id that no run has."""


def check_credentials(client: Client) -> None:
    """Ask a tracking server for something small, to know that it accepts the credentials.

    Raises:
        TargetUnusableError: it does not, or its certificate is not trusted.
    """
    _in_time(lambda: _check_credentials(client))


def import_store(uri: str) -> None:
    """Import MLflow's client and its store for ``uri`` before they are asked: it takes seconds."""
    import_client(uri)
    is_server = uri.startswith(("http://", "https://"))
    importlib.import_module(
        f"mlflow.store.tracking.{'rest_store' if is_server else 'sqlalchemy_store'}"
    )


class ServerAnswer(NamedTuple):
    """What a tracking server says of itself.

    Attributes:
        version: of MLflow; empty where the server does not tell it.
        account: whose credentials are sent, without them.
        arrow: whether it takes points as Arrow.
    """

    version: str
    account: str
    arrow: bool


def ask_server(client: Client, timeout_s: float) -> ServerAnswer:
    """Ask a tracking server for something small, and for what it is.

    Raises:
        TargetUnusableError: it does not accept the credentials, or its certificate is not trusted.
        TargetError, TargetUnavailableError: it refused, or did not answer.
    """
    from mlflow.utils.rest_utils import http_request

    _check_credentials(client, timeout_s)
    translated(client.mlflow.search_experiments, max_results=1)
    store: Any = client.mlflow._tracking_client.store
    credentials = store.get_host_creds()
    response = translated(
        http_request, credentials, "/version", "GET", max_retries=0, timeout=timeout_s,
        raise_on_status=False,
    )  # fmt: skip
    told = response.text.strip() if response.status_code == 200 else ""
    version = told if re.fullmatch(r"[\w.+-]{1,40}", told) else ""
    arrow = arrow_offer.ArrowOffer().holds(credentials, NO_RUN)
    return ServerAnswer(version, _account(credentials), arrow)


def _account(credentials: Any) -> str:
    if credentials.username:
        return str(credentials.username)
    return "the owner of a token" if credentials.token else "none: no credentials are set"


def check_place(client: Client, experiment_id: str) -> None:
    """Check that the place where an experiment keeps its artifacts can be used from here.

    Raises:
        TargetUnusableError: a library is missing, or it can be neither read nor created.
    """
    _in_time(lambda: _check_place(client, experiment_id))


def _in_time(check: Callable[[], None]) -> None:
    """Call ``check``, and raise its `TargetUnusableError`; for `PATIENCE_S` at most."""
    found: list[TargetUnusableError] = []

    def run() -> None:
        try:
            check()
        except TargetUnusableError as error:
            found.append(error)
        except (TargetError, UnavailableError):
            # Whatever it is, it may not concern every run.
            pass

    thread = threading.Thread(target=run, name="mlflow-wandb-check", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if found:
        raise found[0]


def _check_credentials(client: Client, timeout_s: float = PATIENCE_S) -> None:
    from mlflow.store.tracking.rest_store import RestStore

    store: Any = client.mlflow._tracking_client.store
    if not isinstance(store, RestStore):
        return
    credentials = store.get_host_creds()
    if credentials.use_databricks_sdk:
        return

    def ask() -> int:
        from mlflow.utils.rest_utils import http_request

        response = http_request(  # type: ignore[no-untyped-call]
            credentials, "/api/2.0/mlflow/experiments/search", "POST", max_retries=0,
            timeout=timeout_s, raise_on_status=False, json={"max_results": 1},
        )  # fmt: skip
        return int(response.status_code)

    status = translated(ask)
    if status in REFUSED_CREDENTIALS:
        raise TargetUnusableError(
            f"MLflow at {without_credentials(client.uri)} does not accept the credentials "
            f"({status}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )


def _check_place(client: Client, experiment_id: str) -> None:
    experiment = translated(client.mlflow.get_experiment, experiment_id)
    uri = str(experiment.artifact_location or "")
    if urlsplit(uri).scheme in ("", "file"):
        _check_folder(Path(unquote(urlsplit(uri).path)))
        return
    try:
        translated(_look_into, uri, client.uri)
    except RefusedError as error:
        shown = without_credentials(uri)
        raise TargetUnusableError(
            f"MLflow keeps artifacts at {shown}, which cannot be used from here: {error}"
        ) from error


def _look_into(uri: str, tracking_uri: str) -> None:
    from mlflow_wandb_plugin.mlflow_access.repositories import open_repository

    open_repository(uri, tracking_uri).list_artifacts("mlflow-wandb-check")


def _check_folder(folder: Path) -> None:
    """Check the folder, or the nearest one above it that exists: it would be created there."""
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "may not be written" if there.is_dir() else "is no folder"
        raise TargetUnusableError(
            f"MLflow keeps artifacts in {folder}, but {there} {what}: change its rights, or run "
            "this where the folder can be written"
        )
