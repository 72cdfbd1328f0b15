"""Add keys to the config of a run that a W&B server has."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress, default_server, find_api_key
from mlflow_wandb_plugin.wandb_api.client import WandbClient

READ = """
query ConfigOfRun($entity: String, $project: String!, $run: String!) {
  project(name: $project, entityName: $entity) { run(name: $run) { id state config } }
}
"""
WRITE = """
mutation AddToConfig($id: String!, $config: JSONString!) {
  upsertBucket(input: {id: $id, config: $config}) { bucket { id } }
}
"""
PATIENCE_S = 3.0


def add_config_keys(client: WandbClient, run_id: str, keys: Mapping[str, str]) -> bool:
    """Add ``keys`` to the config of a run of the client's project; return whether that was done.

    A run that has one of the keys is left as it is, and so is one that runs: wandb-core sends its
    config as a whole.

    Raises:
        SourceError, SourceUnavailableError, UsageError: as `WandbClient.query`.
    """
    # Without an entity, the server takes the key's own.
    entity = client.address.entity or None
    found = (client.query(READ, run=run_id, entity=entity).get("project") or {}).get("run")
    if not isinstance(found, dict) or found.get("state") == "running":
        return False
    config = json.loads(found.get("config") or "{}")
    if config.keys() & keys.keys():
        return False
    config |= {key: {"value": value, "desc": None} for key, value in keys.items()}
    client.query(WRITE, id=found["id"], config=json.dumps(config))
    return True


def set_config_keys(client: WandbClient, run_id: str, keys: Mapping[str, Any]) -> None:
    """Set keys of the config of a run that this package writes; the other keys stay.

    Raises:
        SourceError, SourceUnavailableError, UsageError: as `WandbClient.query`.
    """
    found = client.run(READ, run_id)
    config = json.loads(found.get("config") or "{}")
    config |= {key: {"value": value, "desc": None} for key, value in keys.items()}
    client.query(WRITE, id=found["id"], config=json.dumps(config))


def try_to_add_config_keys(entity: str, project: str, run_id: str, keys: Mapping[str, str]) -> None:
    """Add ``keys`` to the config of a run of the server that the environment names.

    Never raises, and waits for `PATIENCE_S` at most: a run without the keys is found by the tags of
    its replica.
    """

    def add() -> None:
        with contextlib.suppress(MlflowWandbError, OSError, ValueError):
            server = default_server()
            address = ProjectAddress(server, server, entity, project, "", find_api_key(server))
            client = WandbClient(address, backoff=Backoff(0.0))
            add_config_keys(client, run_id, keys)

    thread = threading.Thread(target=add, name="mlflow-wandb-config", daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
