"""`verify` finds what differs, and nothing in what was carried faithfully."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin import backfill, verify
from mlflow_wandb_plugin.backfill.verify import Verified
from mlflow_wandb_plugin.cli import main
from mlflow_wandb_plugin.core.identity import Twin
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.targets.mlflow.rest import request_client
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import SqlClient
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.backfill.test_decisions import local_run
from tests.support.environment import isolated
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store

SCRIPT = """
import pathlib
import numpy as np
import {wandb} as wandb
with wandb.init(project="verified", id="r1", name="a name", notes="n", tags=["x"],
                config={{"lr": 0.5, "o": {{"p": [1, 2]}}}},
                settings=wandb.Settings(x_stats_sampling_interval=0.2)) as run:
    run.define_metric("low", summary="min")
    for i in range(30):
        run.log({{"m": i / 7, "odd": [float("nan"), float("inf"), 1.0][i % 3], "low": -i,
                 "a@b": i, "t": f"row {{i}}"}})
    run.log({{"image": wandb.Image(np.zeros((4, 4, 3), dtype="uint8")),
             "table": wandb.Table(columns=["x"], data=[[1]])}})
    run.summary["extra"] = 3
    pathlib.Path("saved.txt").write_text("saved")
    run.save("saved.txt", policy="now")
    artifact = wandb.Artifact("w", "model")
    artifact.add_file("saved.txt")
    run.log_artifact(artifact)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder with a run that was dual-written, and a store that it was backfilled into, too."""
    folder = tmp_path_factory.mktemp("verified")
    copy_store(empty_store, folder / "mlflow.db")
    script = SCRIPT.format(wandb="mlflow_wandb_plugin.wandb")
    run_script(script, isolated(folder), folder / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        uri = copy_store(empty_store, folder / "filled.db")
        (outcome,) = backfill(str(folder / "work" / "wandb"), uri, dual_written="ignore")
        assert outcome.action == "migrated"
    return folder


@pytest.fixture
def filled(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the backfilled store to break; its artifacts are the original's."""
    monkeypatch.chdir(tmp_path)
    return copy_store(recorded / "filled.db", tmp_path / "copy.db")


def check(recorded: Path, uri: str, **options: object) -> Verified:
    (result,) = verify(str(recorded / "work" / "wandb"), uri, **options)  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize("store", ["mlflow.db", "filled.db"])
def test_what_was_carried_is_equal(recorded: Path, store: str) -> None:
    """Dual-written or backfilled: points, params, tags, status, files, documents, media."""
    before = read_runs(f"sqlite:///{recorded / store}")
    result = check(recorded, f"sqlite:///{recorded / store}")
    assert (result.result, result.differences) == ("equal", ())
    assert result.checked["points"] > 4 * 30
    assert result.checked["params"] == 2 or result.checked["params"] == 3
    assert result.checked["files"] > 6
    assert result.checked["status"] == 1
    assert read_runs(f"sqlite:///{recorded / store}") == before


def _sql(statement: str) -> Callable[[str], None]:
    def damage(uri: str) -> None:
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
            assert db.execute(statement).rowcount == 1
            db.commit()

    return damage


def _added_tag(key: str, value: str) -> Callable[[str], None]:
    def damage(uri: str) -> None:
        MlflowClient(uri).set_tag(read_runs(uri)["r1"].run_id, key, value)

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_sql("delete from metrics where key = 'm' and step = 7"), "metric m: no point 1.0"),
        (
            _sql("update metrics set value = 9 where key = 'm' and step = 3"),
            "metric m: step 3 has 9.0 at",
        ),
        (_sql("update metrics set timestamp = 9 where key = 'm' and step = 3"), "at time 9 ms, no"),
        (_sql("update metrics set is_nan = 0 where key = 'odd' and step = 0"), ", not nan at time"),
        (_sql("update runs set start_time = start_time + 1"), "the run's start is"),
        (_sql("update params set value = '1' where key = 'lr'"), "param lr is '1', not '0.5'"),
        (_sql("delete from params where key = 'lr'"), "param lr is absent"),
        (_sql("delete from tags where key = 'wandb.tags'"), "tag wandb.tags is absent"),
        (_sql("update runs set status = 'FAILED'"), "status is FAILED, not FINISHED"),
        (_sql("update runs set end_time = 1"), "the run's end is 1 ms"),
        (_sql("update runs set name = 'b'"), "the run's name is 'b', not 'a name'"),
        (_sql("update runs set start_time = null"), "the run's start is None ms, not"),
        (
            _sql("update latest_metrics set value = 9 where key = 'low'"),
            "metric low: its latest value is 9.0, not -29.0",
        ),
        (
            _sql("delete from latest_metrics where key = 'm'"),
            f"metric m: its latest value is absent, not {29 / 7}",
        ),
        (
            _sql("update latest_metrics set is_nan = 1, value = 0 where key = 'a_b'"),
            "metric a_b: its latest value is nan, not 29.0",
        ),
        (_added_tag("wandb.sweep_id", "s1"), "tag wandb.sweep_id is 's1', not absent"),
        (_added_tag("run_group", "g"), "tag run_group is 'g', not absent"),
        (_added_tag("wandb.tags", '["y"]'), """tag wandb.tags is '["y"]', not '["x"]'"""),
        (_added_tag("wandb.docker", "image"), "tag wandb.docker is 'image', not absent"),
        (_added_tag("wandb.sweep", "s1"), "tag wandb.sweep is 's1', not absent"),
    ],
)
def test_each_difference_is_told(
    recorded: Path, filled: str, damage: Callable[[str], None], words: str
) -> None:
    """One line that names it."""
    damage(filled)
    result = check(recorded, filled)
    assert result.result == "different"
    assert (result.count, len(result.differences)) == (1, 1)
    assert words in result.differences[0]


def test_files_are_compared_by_content(recorded: Path, filled: str, tmp_path: Path) -> None:
    """One that is gone and one that was changed."""
    client = MlflowClient(filled)
    state = read_runs(filled)["r1"]
    kept = client.download_artifacts(state.run_id, "", str(tmp_path))
    original = recorded / "mlruns"
    moved = tmp_path / "moved"
    moved.mkdir()
    (found,) = original.rglob(state.run_id)
    held = (found / "artifacts" / "wandb" / "files" / "saved.txt").read_bytes()
    try:
        (found / "artifacts" / "wandb" / "files" / "saved.txt").write_text("other")
        (found / "artifacts" / "wandb" / "config.json").rename(moved / "config.json")
        result = check(recorded, filled)
    finally:
        (found / "artifacts" / "wandb" / "files" / "saved.txt").write_bytes(held)
        (moved / "config.json").rename(found / "artifacts" / "wandb" / "config.json")
    assert Path(kept).is_dir()
    assert sorted(result.differences) == [
        "file wandb/files/saved.txt has another content", "no file wandb/config.json"
    ]  # fmt: skip


def test_what_mlflow_has_beside_it_is_counted(recorded: Path, filled: str) -> None:
    """A metric that the user logged to MLflow alone is no difference, a further point of a key of
    W&B's is one."""
    client = MlflowClient(filled)
    run_id = read_runs(filled)["r1"].run_id
    client.log_metric(run_id, "only in mlflow", 1.0, timestamp=1, step=1000)
    result = check(recorded, filled)
    assert result.result == "equal"
    assert result.checked["metrics of MLflow alone"] == 1
    client.log_metric(run_id, "m", 1.0, timestamp=1, step=1000)
    result = check(recorded, filled)
    assert result.differences == ("metric m: W&B has no point 1.0 at step 1000, time 1 ms",)


def test_a_run_that_was_renamed_in_mlflow_keeps_its_name(recorded: Path, filled: str) -> None:
    """It is told as a difference by design."""
    client = MlflowClient(filled)
    client.update_run(read_runs(filled)["r1"].run_id, name="mine")
    result = check(recorded, filled, repair=True)
    assert result.result == "equal"
    assert result.by_design == (
        "the run's name is 'mine', not 'a name': the run was renamed in MLflow",
    )
    assert MlflowClient(filled).get_run(result.mlflow_run_id).info.run_name == "mine"


def test_a_run_that_is_not_there_is_absent(
    recorded: Path, fresh_store: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By function and by command, whose exit code is 1."""
    assert check(recorded, fresh_store).result == "absent"
    arguments = ["verify", str(recorded / "work" / "wandb"), "--to", fresh_store]
    monkeypatch.setattr(sys, "argv", ["mlflow-wandb", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    (document,) = json.loads(capsys.readouterr().out)
    assert (ended.value.code, document["result"], document["run_id"]) == (1, "absent", "r1")
    uri = f"sqlite:///{recorded / 'filled.db'}"
    monkeypatch.setattr(sys, "argv", ["mlflow-wandb", *arguments[:-1], uri])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "verified/r1: equal" in capsys.readouterr().out


def test_an_archive_cannot_be_compared_with(recorded: Path, tmp_path: Path) -> None:
    """It has no values of MLflow's."""
    with pytest.raises(UsageError, match="MLflow tracking URI"):
        check(recorded, f"archive:{tmp_path / 'a'}")


@pytest.fixture
def dual(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the store with the dual-written run; its artifacts are the original's."""
    monkeypatch.chdir(tmp_path)
    return copy_store(recorded / "mlflow.db", tmp_path / "copy.db")


def test_a_hole_in_a_dual_written_run_is_found_by_counting(recorded: Path, dual: str) -> None:
    """The tags say complete; MLflow lacks points of one key. They are filled in the same run."""
    before = read_runs(dual)
    with closing(sqlite3.connect(dual.removeprefix("sqlite:///"))) as db:
        db.execute("delete from metrics where key = 'm' and step between 5 and 9")
        db.commit()
    (outcome,) = backfill(str(recorded / "work" / "wandb"), dual)
    assert (outcome.verdict, outcome.action) == ("partial", "repaired")
    assert outcome.reason == "MLflow has 25 of 30 points of m"
    after = read_runs(dual)
    assert after.keys() == before.keys()
    assert after["r1"].run_id == before["r1"].run_id
    assert after["r1"].metrics == before["r1"].metrics
    (outcome,) = backfill(str(recorded / "work" / "wandb"), dual)
    assert (outcome.verdict, outcome.action) == ("dual-written", "skipped")


def test_values_of_a_dual_written_run_are_written_again(recorded: Path, dual: str) -> None:
    """`--existing update` repairs what no count shows, in the same run."""
    before = read_runs(dual)
    for statement in (
        "delete from metrics where key = 'low.min'",
        "delete from params where key = 'lr'",
        "delete from tags where key = 'wandb.tags'",
    ):
        _sql(statement)(dual)
    (outcome,) = backfill(str(recorded / "work" / "wandb"), dual, existing="update")
    assert (outcome.verdict, outcome.action) == ("dual-written", "repaired")
    assert read_runs(dual).keys() == before.keys()
    assert check(recorded, dual).result == "equal"


def test_a_killed_repair_is_done_again(
    recorded: Path, dual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position of the run is reset before anything is written again."""
    _sql("delete from metrics where key = 'm' and step = 7")(dual)
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise MlflowWandbError("killed")

        patch.setattr(MlflowRunWriter, "checkpoint", killed)
        patch.setattr(MlflowRunWriter, "finish", killed)
        (outcome,) = backfill(str(recorded / "work" / "wandb"), dual)
        assert outcome.action == "failed"
    assert check(recorded, dual).result == "different"
    (outcome,) = backfill(str(recorded / "work" / "wandb"), dual)
    assert (outcome.verdict, outcome.action) == ("partial", "repaired")
    assert check(recorded, dual).result == "equal"


def test_the_command_repairs(
    recorded: Path, filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--repair` says how many values it has repaired, and names what MLflow cannot change."""
    _sql("delete from params where key = 'lr'")(filled)
    _sql("update metrics set value = 9 where key = 'm' and step = 3")(filled)
    arguments = ["verify", str(recorded / "work" / "wandb"), "--to", filled, "--repair"]
    monkeypatch.setattr(sys, "argv", ["mlflow-wandb", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().out
    assert ended.value.code == 1
    assert "verified/r1: different" in shown
    assert "; 1 repaired)" in shown
    assert "metric m: W&B has no point 9.0 at step 3" in shown
    assert "(the target cannot change it)" in shown


def test_a_tracking_server_is_compared_with(
    recorded: Path, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Points come page by page, files are downloaded once; a hole is found by counting."""
    monkeypatch.setattr(request_client, "PAGE_POINTS", 7)
    monkeypatch.chdir(tmp_path)
    options = {"dual_written": "ignore", "experiment": "verified over http"}
    (outcome,) = backfill(str(recorded / "work" / "wandb"), server, **options)  # type: ignore[arg-type]
    assert outcome.action == "migrated"
    result = check(recorded, server, **options)
    assert (result.result, result.differences) == ("equal", ())
    # MLflow 3.1 sends files to the process's own server, whatever the client's is.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(server)
    changed = tmp_path / "saved.txt"
    changed.write_text("other")
    client.log_artifact(outcome.mlflow_run_id, str(changed), "wandb/files")
    client.log_metric(outcome.mlflow_run_id, "m", 1.0, timestamp=1, step=1000)
    assert check(recorded, server, **options).differences == (
        "metric m: W&B has no point 1.0 at step 1000, time 1 ms",
        "file wandb/files/saved.txt has another content",
    )
    counts = MlflowTarget(server).lacking(
        outcome.run,
        Twin(outcome.mlflow_run_id, "", "dual", "complete", {}, {}),
        {("m",): 32, ("low",): 30},
    )
    assert counts == "MLflow has 31 of 32 points of m"


@pytest.mark.parametrize(
    "damage",
    [
        _added_tag("wandb.sweep_id", "s1"),
        _added_tag("wandb.docker", "image"),
        _sql("delete from latest_metrics where key = 'm'"),
    ],
)
@pytest.mark.parametrize("store", ["filled.db", "mlflow.db"])
def test_what_does_not_belong_there_is_repaired(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str,
    damage: Callable[[str], None],
) -> None:  # fmt: skip
    """A tag of another run, and a latest value that is gone; tags of the user's stay."""
    monkeypatch.chdir(tmp_path)
    uri = copy_store(recorded / store, tmp_path / "copy.db")
    before = read_runs(uri)["r1"]
    damage(uri)
    MlflowClient(uri).set_tag(before.run_id, "wandb.of_the_users_own", "kept")
    result = check(recorded, uri, repair=True)
    assert (result.result, result.differences, result.repaired) == ("equal", (), 1)
    after = read_runs(uri)["r1"]
    assert after.tags.pop("wandb.of_the_users_own") == "kept"
    assert after.comparable() == before.comparable()


@pytest.mark.parametrize("named", ["sweep", "group", "config"])
@pytest.mark.parametrize("found", [None, "0" * 32])
def test_a_run_that_is_not_nested_where_it_belongs_is_told_and_repaired(
    tmp_path: Path, fresh_store: str, named: str, found: str | None
) -> None:
    """Below the run of its sweep or group, or the one that its config names."""
    client = MlflowClient(fresh_store)
    own = client.create_run("0").info.run_id
    config = {"group": {"mlflow_parent_group": "g"}, "config": {"mlflow_parent_run_id": own}}
    fields = {"sweep_id": "s1"} if named == "sweep" else {"config": config[named]}
    local_run(tmp_path / "wandb", **fields)
    list(backfill(str(tmp_path / "wandb"), fresh_store))
    run = read_runs(fresh_store)["r1"]
    parent = run.tags["mlflow.parentRunId"]
    assert (parent == own) == (named == "config")
    if found is None:
        client.delete_tag(run.run_id, "mlflow.parentRunId")
    else:
        client.set_tag(run.run_id, "mlflow.parentRunId", found)
    (result,) = verify(str(tmp_path / "wandb"), fresh_store)
    wanted = {"sweep": "the run of sweep s1", "group": "the run of its group", "config": repr(own)}
    there = "absent" if found is None else repr(found)
    assert result.differences == (f"tag mlflow.parentRunId is {there}, not {wanted[named]}",)
    (result,) = verify(str(tmp_path / "wandb"), fresh_store, repair=True)
    assert (result.result, result.repaired) == ("equal", 1)
    assert read_runs(fresh_store)["r1"].tags["mlflow.parentRunId"] == parent


def test_a_run_that_a_user_has_nested_is_no_difference(tmp_path: Path, fresh_store: str) -> None:
    """W&B has no parent for it."""
    local_run(tmp_path / "wandb")
    list(backfill(str(tmp_path / "wandb"), fresh_store))
    client = MlflowClient(fresh_store)
    own = client.create_run("0").info.run_id
    client.set_tag(read_runs(fresh_store)["r1"].run_id, "mlflow.parentRunId", own)
    (result,) = verify(str(tmp_path / "wandb"), fresh_store)
    assert (result.result, result.differences) == ("equal", ())


def test_a_run_without_a_start_that_mlflow_refuses_to_read_has_failed(
    recorded: Path, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own classes raise where a database's row has no start; that is one line."""
    monkeypatch.setattr(SqlClient, "get_run_data", lambda self, run: self._client.get_run(run))
    _sql("update runs set start_time = null")(filled)
    result = check(recorded, filled)
    assert (result.result, result.reason) == ("failed", "MLflow: start_time cannot be None")
