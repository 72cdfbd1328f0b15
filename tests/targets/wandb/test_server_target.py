"""A W&B server as a target: which runs are written, with which key, and what is refused."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.errors import TargetError, TargetUnusableError, UsageError
from mlflow_wandb_plugin.plugins import open_target
from mlflow_wandb_plugin.sources.wandb_server.opening import open_project
from mlflow_wandb_plugin.targets.wandb.server_target import WandbTarget
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress, target_address
from tests.support.wandb_source import source_of
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import run_python

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServer]:
    with WandbServer(tmp_path / "wandb") as running:
        yield running


def target_of(server: WandbServer, path: str, **options: Any) -> WandbTarget:
    entity, _, project = path.partition("/")
    address = ProjectAddress(server.url, server.url, entity, project, "", server.api_key)
    return WandbTarget(address, TargetOptions(**options), open_project)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"_step": i, "_timestamp": 1.7e9 + i, "loss": i / 7} for i in range(count)]


def test_a_run_that_others_wrote_is_not_touched(server: WandbServer) -> None:
    """The same id does not make it a replica."""
    server.add_run("mine", "r1", rows=rows(5))
    server.add_run("theirs", "r1", rows=rows(3), display_name="precious")
    before = project_state(project_of(server, "tester", "theirs"))
    options = BackfillOptions(existing="update")
    target = target_of(server, "tester/theirs")
    (outcome,) = backfill(source_of(server, "mine"), target, Selection(), options)
    assert outcome.action == "failed"
    assert "this package did not write it" in outcome.reason
    assert differing(project_state(project_of(server, "tester", "theirs")), before) == []


def test_a_run_that_has_grown_gets_its_new_rows(server: WandbServer) -> None:
    """The rows that the target has are not sent again."""
    run = server.add_run("mine", "r1", rows=rows(5), state="running")
    target = target_of(server, "tester/copy")
    list(backfill(source_of(server, "mine"), target, Selection()))
    assert project_of(server, "tester", "copy").runs["r1"].state == "running"
    server.grow(run, rows(9)[5:])
    run.state, run.exit_code = "finished", 0
    (outcome,) = backfill(source_of(server, "mine"), target, Selection())
    assert outcome.action == "repaired"
    states = [project_state(project_of(server, "tester", name)) for name in ("copy", "mine")]
    assert differing(*states) == []


def test_other_metrics_do_not_come_into_rows_that_are_there(server: WandbServer) -> None:
    """W&B cannot add a value to a row: the run is never called complete. Artifacts may follow."""
    both = [{"_step": i, "_timestamp": 1.7e9 + i, "loss": i / 7, "acc": i / 9} for i in range(4)]
    server.add_run("mine", "r1", rows=both)

    def copy(**options: Any) -> Outcome:
        chosen = BackfillOptions(**options)
        target = target_of(server, "tester/copy", selection=chosen.selection)
        (outcome,) = backfill(source_of(server, "mine"), target, Selection(), chosen)
        return outcome

    assert copy(include_metrics=("loss",), artifacts=False).action == "migrated"
    assert copy(include_metrics=("loss",)).action == "repaired"
    wider = copy()
    assert (wider.action, "was written with other metrics" in wider.reason) == ("failed", True)


@pytest.mark.parametrize("run_id", ["a/../b", "..", "a?b", "", "x\ny"])
def test_an_id_that_leads_to_another_address_is_refused(server: WandbServer, run_id: str) -> None:
    """It may come from somebody else's archive."""
    info = RunInfo(run_id, "p", entity="tester")
    with pytest.raises(TargetError, match="takes no run with the id"):
        target_of(server, "tester/copy").open(info, "backfill")
    assert server.requests == []


def test_many_runs_are_looked_for_in_one_list(server: WandbServer) -> None:
    """A plan of many runs costs a few requests to the target, whatever they are."""
    for number in range(40):
        server.add_run("mine", f"r{number}", rows=rows(1))
        server.add_run("copy", f"other{number}", rows=rows(1))
    source, target = source_of(server, "mine"), target_of(server, "tester/copy")
    before = len(server.requests)
    found = [target.find(info) for info in source.runs(Selection())]
    assert found == [None] * 40
    # One for the listing of the source, five for single runs, one for the list of the target.
    assert len(server.requests) - before == 7


def test_projects_keep_their_names_or_get_those_of_the_map(server: WandbServer) -> None:
    """Without a project in the target's URI, and with `TargetOptions.projects`."""
    for project in ("one", "two"):
        server.add_run(project, f"run-of-{project}", rows=rows(2))
        target = target_of(server, "bob", projects={"tester/two": "alice/second"})
        list(backfill(source_of(server, project), target, Selection()))
    assert list(project_of(server, "bob", "one").runs) == ["run-of-one"]
    assert list(project_of(server, "alice", "second").runs) == ["run-of-two"]


def test_the_key_of_wandbs_own_server_is_not_sent_to_another(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target on another host needs a key of its own."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("MLFLOW_WANDB_TARGET_API_KEY", raising=False)
    with pytest.raises(UsageError, match="MLFLOW_WANDB_TARGET_API_KEY"):
        target_address(f"wandb+{server.url}/bob/copy")
    assert target_address("wandb://bob/copy").api_key == "a" * 40
    monkeypatch.setenv("MLFLOW_WANDB_TARGET_API_KEY", "b" * 40)
    assert target_address(f"wandb+{server.url}/bob/copy").api_key == "b" * 40


def test_a_key_that_is_not_accepted_is_told_before_the_first_run(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run would fail."""
    monkeypatch.setenv("MLFLOW_WANDB_TARGET_API_KEY", "c" * 40)
    target = open_target(f"wandb+{server.url}/bob/copy")
    with pytest.raises(TargetUnusableError):
        target.check()


def test_versions_of_one_run_keep_their_order(server: WandbServer, tmp_path: Path) -> None:
    """Three versions of an artifact in one run, and the runs that used them."""
    program = """
        import wandb
        for number in range(2):
            with wandb.init(project="arts", id=f"r{number}") as run:
                if number:
                    run.use_artifact("weights:v1")
                for version in range(3):
                    made = wandb.Artifact("weights", "model", metadata={"n": 3 * number + version})
                    with made.new_file("w.bin", mode="wb") as file:
                        file.write(bytes([number, version]) * 500)
                    made.add_reference(f"https://example.com/{version}", name="r", checksum=False)
                    run.log_artifact(made, aliases=[f"n{number}{version}"]).wait()
        """
    run_python(server, tmp_path / "client", textwrap.dedent(program))
    options = BackfillOptions(workers=4)
    target = target_of(server, "tester/copy")
    outcomes = list(backfill(source_of(server, "arts"), target, Selection(), options))
    assert [outcome.losses for outcome in outcomes] == [{}, {}]
    collection = project_of(server, "tester", "copy").collections["weights"]
    assert [json.loads(version.metadata or "{}")["n"] for version in collection.versions] == [
        *range(6)
    ]
    states = [project_state(project_of(server, "tester", name)) for name in ("copy", "arts")]
    assert differing(*states) == []
