"""`verify` against W&B's server: a healthy replica is equal, each damage is found and repaired."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.verify import Verified, verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.backfill.corruptions import Damager
from tests.support.environment import isolated
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import pathlib
import numpy as np
import mlflow_wandb_plugin.wandb as wandb
config = {"lr": 0.5, "o": {"p": [1, 2]}, "opt(x)": 3, "lr@0": 1}
with wandb.init(project="verified", id="r1", name="a name", notes="n", tags=["x"], group="g",
                job_type="j", config=config,
                settings=wandb.Settings(x_stats_sampling_interval=0.2)) as run:
    run.define_metric("low", summary="min")
    for i in range(30):
        run.log({"m": i / 7, "odd": [float("nan"), float("inf"), 1.0][i % 3], "low": -i,
                 "a@b": i, "t": f"row {i}", "n": {"x": i, "y": [1, 2]}})
    run.log({"image": wandb.Image(np.zeros((4, 4, 3), dtype="uint8"), caption="c"),
             "hist": wandb.Histogram(np.arange(10)),
             "table": wandb.Table(columns=["x"], data=[[1]])})
    run.summary["extra"] = 3
    pathlib.Path("saved.txt").write_text("saved")
    run.save("saved.txt", policy="now")
    artifact = wandb.Artifact("w", "model", metadata={"a": 1})
    artifact.add_file("saved.txt")
    run.log_artifact(artifact)
    print("a line of output")
"""
RESUME = """
import mlflow_wandb_plugin.wandb as wandb
with wandb.init(project="verified", id="r1", resume="must") as run:
    for i in range(5):
        run.log({"m": 100 + i})
"""
RICH = """
import pathlib
import mlflow_wandb_plugin.wandb as wandb
def part(rows=(), summary=None, **kw):
    with wandb.init(project="rich", id="r1", **kw) as run:
        run.define_metric("low", summary="min,max")
        for row in rows:
            run.log(row)
        run.summary.update(summary or {})
        return run
pathlib.Path("a.txt").write_text("a")
with wandb.init(project="rich-data", id="maker") as run:
    artifact = wandb.Artifact("ds", "dataset")
    artifact.add_file("a.txt")
    run.log_artifact(artifact).wait()
with wandb.init(project="rich", id="r1", config={"lr": 1, "a.b": 1, "a": {"b": 2}}) as run:
    run.use_artifact("rich-data/ds:latest")
    run.summary["early"] = 1
    run.config.update({"lr": 2}, allow_val_change=True)
again = {"resume": "must"}
part([{"x@y": i, "x#y": -i, "low": 9 - i, "n": {"z": None}} for i in range(3)], **again)
part([{"t": "no number"}], {"best": 3, "x@y": 50}, **again)
part([], {"best": 4}, **again)
part([], {"best": 3.5}, **again)
part([{"low": 20}], **again)
"""
CORRUPTIONS = 30


@dataclass
class Homes:
    """A run in W&B, its dual-written replica and a backfilled one, which ``uri`` has."""

    server: WandbServer
    folder: Path

    def uri(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db"

    def verified(self, uri: str, repair: bool = False, project: str = "verified") -> Verified:
        target, source = MlflowTarget(uri), source_of(self.server, project)
        (result,) = verify(source, target, Selection(), repair=repair)
        return result


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Homes]:
    folder = tmp_path_factory.mktemp("homes")
    copy_store(empty_store, folder / "mlflow.db")
    with WandbServer(folder / "wandb") as server:
        online = {
            "WANDB_MODE": "online",
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": server.api_key,
        }
        env = isolated(folder, **online)
        run_script(SCRIPT, env, folder / "work")
        run_script(RESUME, env, folder / "work")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            uri = copy_store(empty_store, folder / "filled.db")
            options = BackfillOptions(dual_written="ignore")
            target, source = (
                MlflowTarget(
                    uri,
                ),
                source_of(server, "verified"),
            )
            (outcome,) = backfill(source, target, Selection(), options)
            assert outcome.action == "migrated"
        yield Homes(server, folder)


@pytest.mark.parametrize("store", ["mlflow", "filled"])
def test_a_healthy_replica_is_equal_to_the_server(homes: Homes, store: str) -> None:
    """Dual-written and resumed, or backfilled: no difference but those that are there by design."""
    result = homes.verified(homes.uri(store))
    assert (result.result, result.differences) == ("equal", ())
    assert result.checked["points"] > 4 * 30
    if store == "filled":
        assert result.by_design == ()


@pytest.mark.parametrize(("store", "part"), [("mlflow", 0), ("filled", 1)])
def test_each_corruption_is_found_and_repaired(homes: Homes, store: str, part: int) -> None:
    """One difference is told for one damage; afterwards the replica is equal, but for what MLflow
    cannot change, which is named."""
    database = homes.folder / f"{store}.db"
    uri = homes.uri(store)
    run_id = read_runs(uri)["r1"].run_id
    (artifacts,) = homes.folder.rglob(f"{run_id}/artifacts")
    kept = homes.folder / f"kept-{store}"
    shutil.copytree(artifacts, kept / "artifacts")
    shutil.copyfile(database, kept / "store.db")
    for seed in range(part, CORRUPTIONS, 2):
        corruption = Damager(database, artifacts, run_id, seed).damage(seed // 2)
        found = homes.verified(uri)
        assert (found.result, found.count) == ("different", 1), (seed, found.differences)
        assert corruption.word in found.differences[0], seed
        repaired = homes.verified(uri, repair=True)
        assert repaired.mlflow_run_id == run_id
        left = () if corruption.fixable else repaired.differences
        assert repaired.differences == left, seed
        if not corruption.fixable:
            assert len(left) == 1, (seed, left)
            assert left[0].endswith("(the target cannot change it)"), seed
        shutil.copyfile(kept / "store.db", database)
        shutil.rmtree(artifacts)
        shutil.copytree(kept / "artifacts", artifacts)


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        (
            "update metrics set is_nan = 0 where key = 'odd' and step = 0",
            "metric odd: step 0 has 0",
        ),
        ("delete from tags where key = 'wandb.url'", "tag wandb.url is absent"),
        ("delete from tags where key = 'wandb.project'", "tag wandb.project is absent"),
        ("update runs set end_time = end_time + 1000", "the run's end is"),
        ("update runs set start_time = start_time + 1000", "the run's start is"),
        (
            "update tags set value = value || 'x' where key = 'mlflow.loggedArtifacts'",
            "tag mlflow.loggedArtifacts is",
        ),
    ],
)
def test_a_replica_that_was_read_from_the_server_has_no_other_description(
    homes: Homes, sql: str, word: str
) -> None:
    """What two clocks or a local log would explain is a difference, and is repaired if MLflow can
    change it."""
    database, kept = homes.folder / "filled.db", homes.folder / "kept.db"
    shutil.copyfile(database, kept)
    with closing(sqlite3.connect(database)) as db:
        db.execute(sql)
        db.commit()
    found = homes.verified(homes.uri("filled"))
    assert any(word in line for line in found.differences), found.differences
    repaired = homes.verified(homes.uri("filled"), repair=True)
    left = repaired.differences
    assert all(line.endswith("(the target cannot change it)") for line in left), left
    assert (left == ()) == word.startswith(("tag", "the run's end"))
    shutil.copyfile(kept, database)


def test_a_summary_point_that_was_moved_is_written_again(homes: Homes) -> None:
    """MLflow's latest value is W&B's, and its point is not: it is repaired all the same."""
    database, kept = homes.folder / "filled.db", homes.folder / "kept.db"
    shutil.copyfile(database, kept)
    with closing(sqlite3.connect(database)) as db:
        db.execute("update metrics set step = step + 1000 where key = 'extra'")
        db.commit()
    (left,) = homes.verified(homes.uri("filled"), repair=True).differences
    assert left.startswith("metric extra: W&B has no point 3.0 at step 1")
    assert left.endswith("(the target cannot change it)")
    shutil.copyfile(kept, database)


def test_a_run_whose_start_was_moved_keeps_the_steps_of_its_system_metrics(homes: Homes) -> None:
    """They were counted from a start that W&B's server does not know to the millisecond: a repair
    adds no point of one second more or less."""
    database, kept = homes.folder / "mlflow.db", homes.folder / "kept.db"
    shutil.copyfile(database, kept)
    counted = (
        "update metrics set step = max(0, timestamp - (select start_time from runs)) / 1000 "
        "where key like 'system/%'"
    )
    latest = (
        "update latest_metrics set step = (select max(step) from metrics m where m.key = "
        "latest_metrics.key) where key like 'system/%'"
    )
    count = "select count(*) from metrics where key like 'system/%'"
    with closing(sqlite3.connect(database)) as db:
        # The training process looked at its clock 500 ms earlier than it did.
        for sql in ("update runs set start_time = start_time - 500", counted, latest):
            db.execute(sql)
        db.commit()
        assert homes.verified(homes.uri("mlflow")).differences == ()
        points = db.execute(count).fetchone()
        db.execute("update runs set start_time = start_time + 3600000")
        db.commit()
        (left,) = homes.verified(homes.uri("mlflow"), repair=True).differences
        assert left.startswith("the run's start is")
        assert left.endswith("(the target cannot change it)")
        assert db.execute(count).fetchone() == points
    shutil.copyfile(kept, database)


@pytest.fixture(scope="module")
def rich(homes: Homes, empty_store: Path) -> Homes:
    """Beside ``homes``: a run that was resumed five times and holds what its two homes tell
    differently, dual-written, and backfilled from its logs and from the server."""
    home = homes.folder / "rich-home"
    online = {"WANDB_MODE": "online", "WANDB_BASE_URL": homes.server.url}
    env = isolated(home, WANDB_API_KEY=homes.server.api_key, **online)
    env["MLFLOW_TRACKING_URI"] = copy_store(empty_store, homes.folder / "rich.db")
    run_script(RICH, env, home / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(homes.folder)
        for name, source in (
            ("rich-disk", WandbDir(home / "work" / "wandb")),
            ("rich-server", source_of(homes.server, "rich")),
        ):
            copy_store(empty_store, homes.folder / f"{name}.db")
            options = BackfillOptions(dual_written="ignore")
            list(backfill(source, MlflowTarget(homes.uri(name)), Selection(), options))
    return homes


@pytest.mark.parametrize("store", ["rich", "rich-server"])
def test_a_run_that_was_resumed_is_equal_to_the_server(rich: Homes, store: str) -> None:
    """Logs without rows, summaries that change, a config that changes, an artifact that was used,
    keys with one name in MLflow: no difference but those that are there by design."""
    result = rich.verified(rich.uri(store), project="rich")
    assert (result.result, result.differences) == ("equal", ())
    assert result.checked["inputs"] == 1


def test_a_resumed_run_has_the_points_of_its_logs(rich: Homes) -> None:
    """Live and from disk alike: the summary of a log without rows is at the last step and at the
    time of that log, so that the last one is MLflow's latest value."""
    live = read_runs(rich.uri("rich"))["r1"]
    disk = read_runs(rich.uri("rich-disk"))["r1"]
    assert {k: v for k, v in live.metrics.items() if not k.startswith("system/")} == {
        k: v for k, v in disk.metrics.items() if not k.startswith("system/")
    }
    assert live.points("best") == [(3, 3.0), (3, 4.0), (3, 3.5)]
    assert live.latest["best"] == 3.5
    assert live.points("x_y") == [(0, 0.0), (1, -1.0), (2, -2.0)]
    (other,) = [name for name in live.metrics if name.startswith("x_y-")]
    assert live.points(other) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 50.0)]
    assert (live.params["a.b"], live.params["lr"]) == ("1", "1")
