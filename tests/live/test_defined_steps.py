"""Steps in MLflow are the values of the step metrics that `define_metric` names, on every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.archive.source import ArchiveSource
from mlflow_wandb_plugin.archive.target import ArchiveTarget
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.verify import verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("patient")]

Points = dict[str, list[tuple[int, Any]]]

TORCHTUNE = """
# The calls of torchtune's WandBLogger, which is not changed.
import mlflow_wandb_plugin.wandb as wandb
wandb.init(project="steps", id="r")
if wandb.run:
    wandb.run._label(repo="torchtune")
wandb.define_metric("global_step")
wandb.define_metric("*", step_metric="global_step", step_sync=True)
for step, loss in ((10, 4.0), (20, 3.0), (30, 2.0)):
    wandb.log({"loss": loss, "lr": 0.1, "global_step": step})
wandb.log({"tokens": 7.0, "global_step": 40})
wandb.finish()
"""
OF_TORCHTUNE: Points = {
    "loss": [(10, 4.0), (20, 3.0), (30, 2.0)],
    "lr": [(10, 0.1), (20, 0.1), (30, 0.1)],
    "tokens": [(40, 7.0)],
    "global_step": [(0, 10.0), (1, 20.0), (2, 30.0), (3, 40.0)],
}
HUGGING_FACE = """
# The calls of transformers' WandbCallback.
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="steps", id="r")
wandb.run._label(code="transformers_trainer")
wandb.define_metric("train/global_step")
wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
wandb.log({"train/loss": 2.5, "train/epoch": 0.5, "train/global_step": 500})
wandb.log({"eval/loss": 2.0, "train/global_step": 500})
wandb.log({"train/loss": 1.5, "train/epoch": 1.0, "train/global_step": 1000})
run.summary["train_loss"] = 2.0
wandb.finish()
"""
OF_HUGGING_FACE: Points = {
    "train/loss": [(500, 2.5), (1000, 1.5)],
    "train/epoch": [(500, 0.5), (1000, 1.0)],
    "eval/loss": [(500, 2.0)],
    "train/global_step": [(0, 500.0), (1, 500.0), (2, 1000.0)],
    "train_loss": [(1000, 2.0)],
}
KINDS = """
import math
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="steps", id="r")
run.define_metric("train/*", step_metric="batch")
run.define_metric("train/slow", step_metric="epoch")
run.define_metric("n.deep", step_metric="at.step")
run.define_metric("apart", step_metric="batch", step_sync=False)
run.define_metric("synced", step_metric="epoch", step_sync=True)
run.define_metric("hidden", step_metric="batch", step_sync=False, hidden=True)
run.define_metric("epoch")
run.log({"train/a": 1, "train/slow": 1, "batch": 100, "epoch": 7, "other": 1})
run.log({"n": {"deep": 5}, "at": {"step": 70}})
run.log({"apart": 2, "hidden": 2})
run.log({"apart": 3, "hidden": 3, "batch": 101})
run.log({"synced": 4})
for odd in (0.5, math.nan, math.inf, 2.0**63, "text", None):
    run.log({"apart": 5, "batch": odd})
run.log({"apart": 6, "batch": -3})
run.log({"apart": 7, "batch": True})
run.finish()
"""
OF_KINDS: Points = {
    "train/a": [(100, 1.0)], "train/slow": [(7, 1.0)], "other": [(0, 1.0)], "n.deep": [(70, 5.0)],
    "at.step": [(1, 70.0)], "epoch": [(0, 7.0), (4, 7.0)], "synced": [(7, 4.0)],
    "apart": [(-3, 6.0), (1, 7.0), (2, 2.0), *((step, 5.0) for step in range(5, 11)), (101, 3.0)],
    "hidden": [(2, 2.0), (101, 3.0)],
}  # fmt: skip
QUICK = """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="steps", id="r")
run.define_metric("*", step_metric="epoch")
run.define_metric("epoch")
for batch in range(400):
    run.log({"lr": 0.5, "epoch": batch // 200})
run.finish()
"""


REDEFINED = """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="steps", id="r")
run.define_metric("a", step_metric="s", step_sync=False)
run.define_metric("g/*", step_metric="s", step_sync=False)
run.log({"a": 1, "g/x": 1, "late": 1, "s": 10, "t": 100})
run.define_metric("a", step_metric="t", step_sync=False)
run.define_metric("g/*", step_metric="t", step_sync=False)
run.define_metric("late", step_metric="s", step_sync=False)
run.log({"a": 2, "g/x": 2, "g/y": 2, "late": 2, "s": 11, "t": 101})
run.finish()
"""
RESUMED = """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="steps", id="r", resume="must")
run.log({"a": 3, "g/x": 3, "late": 3, "s": 12, "t": 102})
run.define_metric("late", step_metric="t", step_sync=False)
run.log({"a": 4, "late": 4, "s": 13, "t": 103})
run.finish()
"""
OF_BOTH: Points = {
    "a": [(10, 1.0), (101, 2.0), (102, 3.0), (103, 4.0)],
    "g/x": [(10, 1.0), (11, 2.0), (12, 3.0)],
    "g/y": [(101, 2.0)],
    "late": [(0, 1.0), (11, 2.0), (12, 3.0), (103, 4.0)],
    "s": [(0, 10.0), (1, 11.0), (2, 12.0), (3, 13.0)],
    "t": [(0, 100.0), (1, 101.0), (2, 102.0), (3, 103.0)],
}


class Ways:
    """One run, written to MLflow live, from its log, by way of an archive, and from a server."""

    def __init__(self, env: dict[str, str], empty_store: Path, folder: Path) -> None:
        self._env, self._empty, self._folder = env, empty_store, folder
        self.runs: dict[str, RunState] = {}
        self.uris = {"live": env["MLFLOW_TRACKING_URI"]}
        self.sources: dict[str, Source] = {}

    def take(self, server: WandbServer, *scripts: str) -> None:
        """Run scripts that log the run, then bring it to MLflow on each way."""
        online = {**self._env, **server.env(self._folder / "client"), "WANDB_MODE": "online"}
        online["WANDB_NAME"] = "named"
        for script in scripts:
            run_script(script, online, self._folder / "work")
        logs, archive = self._folder / "client" / "dir" / "wandb", self._folder / "archive"
        _carried(WandbDir(logs), ArchiveTarget(archive))
        self.sources = {
            "log": WandbDir(logs),
            "archive": ArchiveSource(archive, archive),
            "server": source_of(server, "steps"),
        }
        for name, source in self.sources.items():
            self.uris[name] = copy_store(self._empty, self._folder / f"{name}.db")
            _carried(source, MlflowTarget(self.uris[name]))
        for name, uri in self.uris.items():
            (self.runs[name],) = read_runs(uri).values()

    def check(self, wanted: Points, *but: str) -> None:
        """All ways have the same points, those wanted, and `verify` finds nothing."""
        for name, run in self.runs.items():
            assert name in but or points_of(run) == wanted, name
            for of, source in self.sources.items():
                (verified,) = verify(source, MlflowTarget(self.uris[name]), Selection())
                assert (verified.result, verified.differences) == ("equal", ()), (name, of)
        times = {name: times_of(run) for name, run in self.runs.items()}
        assert all(found == times["live"] for found in times.values())


def _carried(source: Source, target: Any) -> None:
    (outcome,) = backfill(source, target, Selection())
    assert outcome.action == "migrated", outcome.reason


def points_of(run: RunState) -> Points:
    """(step, value) of what the script logged."""
    users = [name for name in run.metrics if not name.startswith("system/")]
    return {
        name: run.points(name)
        for name in users
        if name != "batch"  # its values are no steps of its own
    }


def times_of(run: RunState) -> dict[str, list[int]]:
    users = [name for name in run.metrics if not name.startswith("system/")]
    return {name: sorted(at for _, at, _ in run.metrics[name]) for name in users}


@pytest.fixture
def ways(env: dict[str, str], empty_store: Path, tmp_path: Path) -> Ways:
    return Ways(env, empty_store, tmp_path)


@pytest.mark.parametrize(
    ("script", "wanted"),
    [(TORCHTUNE, OF_TORCHTUNE), (HUGGING_FACE, OF_HUGGING_FACE), (KINDS, OF_KINDS)],
    ids=["torchtune", "hugging face", "kinds"],
)
def test_every_way_writes_the_steps_that_were_logged(
    ways: Ways, tmp_path: Path, script: str, wanted: Points
) -> None:
    """Loggers that define a step metric need nothing of ours; a value that is no integer of 64
    bits leaves W&B's step, and so does a row without the metric, unless wandb-core adds it."""
    with WandbServer(tmp_path / "server") as server:
        ways.take(server, script)
        ways.check(wanted)


def test_rows_of_one_millisecond_are_no_repeats(ways: Ways, tmp_path: Path) -> None:
    """Each row has its point, though step, time and value of many are the same."""
    with WandbServer(tmp_path / "server") as server:
        ways.take(server, QUICK)
        for name, run in ways.runs.items():
            assert len(run.metrics["lr"]) == 400, name
            assert {0, 1} <= {step for _, _, step in run.metrics["lr"]}, name
            for source in ways.sources.values():
                (verified,) = verify(source, MlflowTarget(ways.uris[name]), Selection())
                assert (verified.result, verified.differences) == ("equal", ()), name


def test_later_definitions_count_from_their_row_on(ways: Ways, tmp_path: Path) -> None:
    """A key that a glob has defined keeps that; a resumed run goes on with what was defined. W&B's
    server knows the last definitions only, and `verify` with it moves no point."""
    with WandbServer(tmp_path / "server") as server:
        ways.take(server, REDEFINED, RESUMED)
        ways.check(OF_BOTH, "server")
        assert ways.runs["server"].points("late") == [
            (100, 1.0),
            (101, 2.0),
            (102, 3.0),
            (103, 4.0),
        ]
