"""Keys are added to the config of a run that a W&B server has, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import SourceUnavailableError
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from mlflow_wandb_plugin.wandb_api.config_keys import add_config_keys
from tests.wandb_server import WandbServer

KEYS = {"mlflow_run_id": "m1", "mlflow_experiment_id": "7"}


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running


def client(wandb: WandbServer, project: str, entity: str = "") -> WandbClient:
    address = ProjectAddress(wandb.url, wandb.url, entity, project, "", wandb.api_key)
    return WandbClient(address, backoff=Backoff(0.0))


def test_keys_are_added_to_what_is_there(wandb: WandbServer) -> None:
    """The config keeps its values; without an entity the server takes the key's own."""
    run = wandb.add_run("marked", "r1", config={"lr": {"a": 0.1}}, display_name="name")
    assert add_config_keys(client(wandb, "marked"), "r1", KEYS)
    assert {key: item["value"] for key, item in run.config.items()} == {"lr": {"a": 0.1}, **KEYS}
    assert (run.display_name, run.state) == ("name", "finished")


def test_a_run_that_names_its_twin_or_runs_or_is_not_there_is_left_alone(
    wandb: WandbServer,
) -> None:
    """Nothing is written, and no run is created."""
    named = wandb.add_run("left", "named", config={"mlflow_run_id": "other"})
    running = wandb.add_run("left", "running", state="running")
    asked = len(wandb.requests)
    for run_id in ("named", "running", "absent"):
        assert not add_config_keys(client(wandb, "left"), run_id, KEYS)
    assert named.config == {"mlflow_run_id": {"value": "other"}}
    assert running.config == {}
    assert sorted(wandb.project("left").runs) == ["named", "running"]
    assert {request.operation for request in wandb.requests[asked:]} == {"ConfigOfRun"}


def test_a_server_that_does_not_answer_is_asked_once(wandb: WandbServer, tmp_path: Path) -> None:
    """There is no second try."""
    wandb.add_run("down", "r1")
    wandb.fail("ConfigOfRun", status=500)
    asked = len(wandb.requests)
    with pytest.raises(SourceUnavailableError):
        add_config_keys(client(wandb, "down"), "r1", KEYS)
    assert len(wandb.requests) == asked + 1
    wandb.heal()
