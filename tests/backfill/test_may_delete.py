"""``mlflow-wandb verify --can-delete``: what only the source has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.commands import main_in_process
from tests.wandb_server import WandbServer

PROJECT = "may-delete"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer(tmp_path / "wandb") as running:
        monkeypatch.setenv("WANDB_API_KEY", running.api_key)
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        for number in range(2):
            rows = [{"_step": i, "_timestamp": 1.7e9 + i, "x": i / 3} for i in range(5)]
            running.add_run(PROJECT, f"r{number}", rows=rows, files={"a.bin": b"content"})
        yield running


class Asked:
    """The command, with the project of a server and a store."""

    def __init__(self, store: str, *fixtures: Any) -> None:
        self.store = store
        self._fixtures = fixtures

    def __call__(self, *arguments: str) -> tuple[int, str]:
        named = (f"wandb://tester/{PROJECT}", "--to", self.store)
        code, out, _ = main_in_process(*self._fixtures, arguments[0], *named, *arguments[1:])
        return code, out


@pytest.fixture
def ask(
    server: WandbServer,
    fresh_store: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Asked:
    asked = Asked(fresh_store, capsys, monkeypatch)
    assert asked("backfill", "--json")[0] == 0
    return asked


def test_a_project_that_is_all_in_mlflow_may_go(ask: Asked) -> None:
    """Also where MLflow has more than W&B."""
    client = MlflowClient(ask.store)
    (run, _) = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    client.log_metric(run.info.run_id, "x", 17.0, step=99)
    assert ask("verify", "--json")[0] == 1
    code, out = ask("verify", "--can-delete")
    assert (code, out) == (0, "the target has all of 2 runs: the source may be deleted\n")


def test_what_only_wandb_has_is_named(ask: Asked, server: WandbServer) -> None:
    """A point that was logged since, a run that was not carried, and a report."""
    server.grow(server.run(f"{PROJECT}/r1"), [{"_step": 9, "_timestamp": 1.7e9 + 9, "x": 5.0}])
    server.add_run(PROJECT, "r2", rows=[{"_step": 0, "_timestamp": 1.7e9, "x": 1.0}])
    server.project(PROJECT).reports.append("Results of May")
    code, out = ask("verify", "--can-delete", "--json")
    answer = json.loads(out)
    assert (code, answer["can_delete"]) == (1, False)
    assert set(answer["runs"]) == {f"tester/{PROJECT}/r1", f"tester/{PROJECT}/r2"}
    (absent,) = answer["runs"][f"tester/{PROJECT}/r2"]
    assert absent == "no run in the target replicates it"
    assert any("no point 5.0 at step 9" in line for line in answer["runs"][f"tester/{PROJECT}/r1"])
    _, again = ask("backfill", "--json", "--plan")
    assert "not_carried" not in json.loads(again)
    _, carried = ask("backfill", "--run", "r0", "--json")
    assert json.loads(carried)["not_carried"] == answer["beside_runs"]
    *_, named, _, counted = ask("backfill", "--run", "r0")[1].splitlines()
    assert named == f"not carried: tester/{PROJECT}: report Results of May"
    assert counted.startswith("0 migrated, 1 skipped as existing, 0 lost. Check: ")
    assert answer["beside_runs"] == [f"tester/{PROJECT}: report Results of May"]
    code, out = ask("verify", "--can-delete")
    assert code == 1
    assert out.endswith("keep it: 2 of 3 runs are not all in the target\n")
