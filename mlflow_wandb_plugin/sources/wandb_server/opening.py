"""Open a W&B server as a source: a run, a project, or all projects of an entity."""

from __future__ import annotations

import importlib.util

from mlflow_wandb_plugin.core.limiter import Limiter
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.sources.wandb_server.entity import WandbEntitySource
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress, project_address
from mlflow_wandb_plugin.wandb_api.client import WandbClient


def open_wandb_server(uri: str, options: SourceOptions | None = None) -> Source:
    """Open the source that ``uri`` names, without sending requests or asking the user: a run, a
    project, or all projects of an entity.

    Raises:
        UsageError: the URI is malformed, there is no API key, or pyarrow is missing.
    """
    return open_address(project_address(uri), options)


def open_address(
    address: ProjectAddress, options: SourceOptions | None = None
) -> WandbServerSource | WandbEntitySource:
    """Open the source at an address whose key is known: a run, a project, or all projects of an
    entity.

    Raises:
        UsageError: pyarrow is missing.
    """
    _require_pyarrow()
    options = options or SourceOptions()
    artifacts = options.artifacts
    gate = options.request_gate or Limiter()
    client = WandbClient(address, gate)
    if options.request_gate is not None:
        # The process that has the gate has asked the server before.
        client.expect_answers()
    if address.project:
        return WandbServerSource(client, artifacts)

    def open_one(project: ProjectAddress) -> WandbServerSource:
        # The server limits the requests for all projects together.
        return WandbServerSource(client.for_project(project), artifacts)

    return WandbEntitySource(client, open_one)


def open_project(address: ProjectAddress) -> WandbServerSource:
    """Open a project whose address and key are known.

    Raises:
        UsageError: pyarrow is missing.
    """
    _require_pyarrow()
    return WandbServerSource(WandbClient(address))


def _require_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            "reading from a W&B server needs pyarrow: pip install 'mlflow-wandb-plugin[server]'"
        )
