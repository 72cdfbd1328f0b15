"""`verify` against W&B's server: a healthy replica is equal, each damage is found and repaired."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.verify import Verified, verify
from mlflow_wandb_plugin.core.model import Selection
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
CORRUPTIONS = 30


@dataclass
class Homes:
    """A run in W&B, its dual-written replica and a backfilled one, which ``uri`` has."""

    server: WandbServer
    folder: Path

    def uri(self, name: str) -> str:
        return f"sqlite:///{self.folder / name}.db"

    def verified(self, uri: str, repair: bool = False) -> Verified:
        target, source = MlflowTarget(uri), source_of(self.server, "verified")
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
            assert left[0].endswith("(MLflow cannot change it)"), seed
        shutil.copyfile(kept / "store.db", database)
        shutil.rmtree(artifacts)
        shutil.copytree(kept / "artifacts", artifacts)
