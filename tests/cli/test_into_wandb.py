"""`mlflow-wandb backfill` into a W&B server: where projects go, and what is written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

import mlflow_wandb_plugin
from tests.support.commands import main_in_process
from tests.support.mirrored import JournalledRun, forward
from tests.support.wandb_state import project_of
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import environment

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServer]:
    with WandbServer(tmp_path / "wandb") as running:
        yield running


@pytest.fixture
def command(
    server: WandbServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """The command in this process, with a key for the server: exit code, stdout, stderr."""
    monkeypatch.setenv("WANDB_API_KEY", server.api_key)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main_in_process(capsys, monkeypatch, *arguments)


@pytest.mark.slow
def test_each_project_goes_where_the_map_says_and_others_where_the_target_says(
    server: WandbServer, command: Command
) -> None:
    """`--map` may be repeated; a project without one keeps its name."""
    for project in ("one", "two", "three"):
        server.add_run(project, f"run-{project}", rows=[{"_step": 0, "loss": 1.0}])
    maps = ("--map", "tester/one=alice/first", "--map", "tester/two=carol/second")
    code, _, err = command("backfill", "wandb://tester", "--to", "wandb://bob", *maps)
    assert code == 0, err
    assert list(project_of(server, "alice", "first").runs) == ["run-one"]
    assert list(project_of(server, "carol", "second").runs) == ["run-two"]
    assert list(project_of(server, "bob", "three").runs) == ["run-three"]
    assert {name for entity, name in server.store.projects if entity == "bob"} == {"three"}
    code, out, err = command("verify", "wandb://tester", "--to", "wandb://bob", *maps, "--json")
    assert (code, [run["result"] for run in json.loads(out)]) == (0, ["equal"] * 3), err
    again = mlflow_wandb_plugin.backfill(
        "wandb://tester",
        "wandb://bob",
        projects={"tester/one": "alice/first", "tester/two": "carol/second"},
    )
    assert [outcome.action for outcome in again] == ["skipped"] * 3


@pytest.mark.slow
def test_a_complete_run_is_written_again_only_if_that_is_asked_for(
    server: WandbServer, command: Command
) -> None:
    """`--incremental` skips what was carried, as no option does; `--no-incremental` writes it.
    The report is a line per run."""
    server.add_run("mine", "r1", rows=[{"_step": 0, "loss": 1.0}])
    ends = ("backfill", "wandb://tester/mine", "--to", "wandb://bob/copy")
    actions = []
    for option in ([], ["--incremental"], ["--no-incremental"]):
        code, _, err = command(*ends, *option, "--report", "report.jsonl")
        assert code == 0, err
        (line,) = Path("report.jsonl").read_text().splitlines()
        run = json.loads(line)
        assert (run["run_id"], run["path"]) == ("r1", "tester/mine/r1")
        actions.append(run["action"])
    assert actions == ["migrated", "skipped", "repaired"]
    assert command(*ends, "--plan", "--report", "plan.jsonl")[0] == 0
    (planned,) = map(json.loads, Path("plan.jsonl").read_text().splitlines())
    assert (planned["run_id"], planned["action"]) == ("r1", "skip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "a/p=b/q"], "--map is for runs that go into W&B"),
        (["--no-incremental"], "--incremental is for runs that go into W&B"),
        (["--incremental", "--to", "archive:out"], "--incremental is for runs that go into W&B"),
        (["--map", "a/p=b/q", "--to", "offline:out"], "--map is for runs that go into W&B"),
        (["--to", "wandb://bob", "--map", "a/p"], "write ENTITY/PROJECT=ENTITY/PROJECT"),
        (["--to", "wandb://bob", "--map", "a/p=q"], "write ENTITY/PROJECT=ENTITY/PROJECT"),
        (["--to", "wandb://bob", "--map", "=b/q"], "write ENTITY/PROJECT=ENTITY/PROJECT"),
        (["--to", "wandb://bob", "--map", "a/p=b/q", "--map", "a/p=c/d"], "names a/p twice"),
        (
            ["--to", "wandb://bob", "--incremental", "--existing", "fail"],
            "either --incremental, --no-incremental or --existing",
        ),
    ],
)
def test_mistakes_are_one_line(command: Command, arguments: list[str], message: str) -> None:
    """Exit code 2, before anything is asked or written."""
    code, _, err = command("backfill", "wandb://tester/mine", *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_verify_refuses_a_map_for_other_targets(command: Command) -> None:
    """As `backfill` does."""
    code, _, err = command("verify", "wandb://tester/mine", "--map", "a/p=b/q")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "--map is for runs that go into W&B" in err


@pytest.mark.slow
def test_other_processes_know_the_map(server: WandbServer, command: Command) -> None:
    """The job that they get has it."""
    server.add_run("one", "r1", rows=[{"_step": 0, "loss": 1.0}])
    assert command("backfill", "wandb://tester/one", "--to", "archive:kept")[0] == 0
    ends = ("backfill", "archive:kept", "--to", "wandb://bob", "--map", "tester/one=alice/first")
    code, out, err = command(*ends, "--engine", "processes", "--workers", "1")
    assert code == 0, out + err
    assert sorted(server.store.projects) == [("alice", "first"), ("tester", "one")]


@pytest.mark.slow
def test_a_mirrored_run_with_holes_is_not_taken_for_complete(
    server: WandbServer, command: Command, fresh_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points are counted also where the user's own store is a mirrored one: a run that the mirror
    did not bring over whole is completed."""
    client = MlflowClient(fresh_store)
    run = client.create_run("0")
    for step in range(3):
        client.log_metric(run.info.run_id, "loss", step, step=step)
    client.set_terminated(run.info.run_id)
    journal = JournalledRun(Path("outbox"), run.info.run_id, project="Default")
    journal.create()
    journal.points(2)
    journal.end()
    forward(Path("outbox"), environment(server, "private", {"WANDB_MODE": "online"}), Path())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"wandb+{fresh_store}")
    code, out, err = command("backfill", fresh_store, "--to", "wandb://tester", "--json")
    assert code == 0, err
    assert "repaired" in json.dumps(json.loads(out))
    mended = project_of(server, "tester", "Default").runs[run.info.run_id]
    logged = [(line.row["mlflow_step"], line.row["loss"]) for line in mended.history.live[2:]]
    assert logged == [(0, 0), (1, 1), (2, 2)]
    code, out, err = command("backfill", fresh_store, "--to", "wandb://tester/whole", "--json")
    assert code == 0, err
    written = project_of(server, "tester", "whole").runs[run.info.run_id]
    assert [line.row["loss"] for line in written.history.live] == [0, 1, 2]
