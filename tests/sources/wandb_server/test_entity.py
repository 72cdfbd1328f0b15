"""All projects of a W&B entity as one source."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.cli import main
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.sources.wandb_server.opening import open_wandb_server
from tests.support.mlflow_state import read_runs
from tests.wandb_server import WandbServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """Three projects of one entity and one of another; two runs have the same id."""
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        for project in ("vision", "speech", "vision-old"):
            for number in range(2):
                rows = [{"_step": 0, "_timestamp": 1.7e9, "m": len(project) + number}]
                running.add_run(project, f"r{number}", rows=rows, config={"p": project})
        running.add_run("others", "r0", entity="someone")
        yield running
        assert not running.executor.unknown


@pytest.fixture
def source(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("WANDB_API_KEY", server.api_key)
    return open_wandb_server(f"wandb+{server.url}/tester")


def paths(source: Source, *projects: str) -> list[str]:
    return [run.path for run in source.runs(Selection(projects=projects))]


def test_all_projects_are_listed_by_name(source: Source) -> None:
    """Those of the entity alone; `count` counts them without listing."""
    everything = [f"tester/{p}/r{n}" for p in ("speech", "vision", "vision-old") for n in (0, 1)]
    assert paths(source) == everything
    assert source.count(Selection()) == 6


def test_projects_are_selected_by_pattern(source: Source) -> None:
    """A regular expression has to match the whole name."""
    assert paths(source, "vision") == ["tester/vision/r0", "tester/vision/r1"]
    assert len(paths(source, "vision.*")) == 4
    assert paths(source, "nothing") == []


def test_an_entity_without_projects_is_told(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be misspelt."""
    monkeypatch.setenv("WANDB_API_KEY", server.api_key)
    with pytest.raises(SourceError, match="no W&B projects of nobody"):
        paths(open_wandb_server(f"wandb+{server.url}/nobody"))


def test_an_entity_is_backfilled(
    server: WandbServer, fresh_store: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    """Each project becomes an experiment; runs of one id in two projects stay two runs."""
    monkeypatch.setenv("WANDB_API_KEY", server.api_key)
    uri = f"wandb+{server.url}/tester"
    line = ["backfill", uri, "--to", fresh_store, "--project", "vision.*", "--json"]
    monkeypatch.setattr(sys, "argv", ["mlflow-wandb", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert sorted((run["experiment"], run["run_id"], run["action"]) for run in runs) == [
        (project, f"r{n}", "migrated") for project in ("vision", "vision-old") for n in (0, 1)
    ]
    from mlflow import MlflowClient

    for name in ("vision", "vision-old"):
        experiment = MlflowClient(fresh_store).get_experiment_by_name(name)
        states = read_runs(fresh_store, experiments=[experiment.experiment_id])
        for number in range(2):
            assert states[f"r{number}"].points("m") == [(0, len(name) + number)]
