"""Empty keys and nulls: live replica, backfills of log and server, and verify agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.verify import verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.usefixtures("patient")

SCRIPT = """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="edges", id="r", config={"": 1, "n": {"": 2}, "ok": None})
run.log({"a": 1, "": 5, "n": {"": 3, "x": 4}})
run.log({"a": 2, "none": None, "v": None})
run.summary["none"] = None
run.summary["nested"] = {"k": None, "j": 1}
run.summary["v"] = 7
run.summary["v"] = None
run.summary["a"] = None
run.summary[""] = 9
run.log({"t": "text"})
run.finish()
"""


def document(place: Path, run: RunState, name: str) -> Any:
    return json.loads((place / run.run_id / "wandb" / name).read_text())


def users_points(run: RunState) -> dict[str, list[tuple[int, Any]]]:
    return {name: run.points(name) for name in run.metrics if not name.startswith("system/")}


def test_empty_keys_and_nulls_are_the_same_on_every_way(
    env: dict[str, str], empty_store: Path, tmp_path: Path
) -> None:
    """A row has no empty key, as wandb-core leaves it out; a null in the summary is no value."""
    with WandbServer(tmp_path / "server") as server:
        online = {**env, **server.env(tmp_path / "client"), "WANDB_MODE": "online"}
        run_script(SCRIPT, online, tmp_path / "work")
        (folder,) = (tmp_path / "client" / "dir" / "wandb").glob("run-*-r")
        uris = {"live": env["MLFLOW_TRACKING_URI"]}
        sources = {"log": WandbDir(folder), "server": source_of(server, "edges")}
        for name, source in sources.items():
            uris[name] = copy_store(empty_store, tmp_path / f"{name}.db")
            (outcome,) = backfill(source, MlflowTarget(uris[name]), Selection())
            assert outcome.action == "migrated", outcome.reason
        for name, uri in uris.items():
            (run,) = read_runs(uri, tmp_path / name).values()
            assert users_points(run) == {
                "a": [(0, 1.0), (1, 2.0)], "n.": [(0, 3.0)], "n.x": [(0, 4.0)],
                "_": [(2, 9.0)], "nested.j": [(2, 1.0)],
            }, name  # fmt: skip
            assert {key: run.params[key] for key in ("_", "n.", "ok")} == {
                "_": "1", "n.": "2", "ok": "None",
            }, name  # fmt: skip
            assert document(tmp_path / name, run, "summary.json") == {
                "": 9, "n": {"": 3, "x": 4}, "nested": {"k": None, "j": 1}, "t": "text",
            }, name  # fmt: skip
            source = sources["server" if name == "server" else "log"]
            (verified,) = verify(source, MlflowTarget(uri), Selection())
            assert (verified.result, verified.differences) == ("equal", ()), name


FIRST = """
import math
import mlflow_wandb_plugin.wandb as wandb
config = {"huge": 2**70, "odd": 2**53 + 1, "empty": {}, "n": {"e": {}, "x": 1}, "nan": math.nan}
run = wandb.init(project="resumed", id="r", name="named", config=config)
run.log({"a": 1, "b": math.nan})
run.summary["nan"] = math.nan
run.summary["empty"] = {}
run.summary["nested"] = {"e": {}, "n": math.nan, "big": 2**60 + 1}
run.finish()
"""
NEXT = """
import math
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="resumed", id="r", resume="must", config={"odd": 2**53 + 1})
run.log({"a": %d})
run.summary["nan"] = math.nan
run.finish()
"""


def test_what_wandbs_server_keeps_otherwise_is_the_same_on_every_way(
    env: dict[str, str], empty_store: Path, tmp_path: Path
) -> None:
    """W&B's server drops empty objects and NaN, makes floats of large integers, and hands that to
    a resumed run. The live replica has what was logged, as the logs have it; `verify` with either
    source finds no difference in either replica but by design."""
    with WandbServer(tmp_path / "server") as server:
        online = {**env, **server.env(tmp_path / "client"), "WANDB_MODE": "online"}
        for script in (FIRST, NEXT % 2, NEXT % 3):
            run_script(script, online, tmp_path / "work")
        uris = {"live": env["MLFLOW_TRACKING_URI"]}
        logs = tmp_path / "client" / "dir" / "wandb"
        sources = {"log": WandbDir(logs), "server": source_of(server, "resumed")}
        for name, source in sources.items():
            uris[name] = copy_store(empty_store, tmp_path / f"{name}.db")
            list(backfill(source, MlflowTarget(uris[name]), Selection()))
        for name in ("live", "log"):
            (run,) = read_runs(uris[name], tmp_path / name).values()
            assert {key: run.params[key] for key in ("huge", "odd", "empty", "n.e", "n.x")} == {
                "huge": "1180591620717411303424", "odd": "9007199254740993", "empty": "{}",
                "n.e": "{}", "n.x": "1",
            }, name  # fmt: skip
            config = document(tmp_path / name, run, "config.json")
            assert {key: config[key] for key in ("huge", "odd", "empty", "n", "nan")} == {
                "huge": 2**70, "odd": 2**53 + 1, "empty": {}, "n": {"e": {}, "x": 1}, "nan": None,
            }, name  # fmt: skip
            summary = document(tmp_path / name, run, "summary.json")
            assert math.isnan(summary.pop("b")), name
            assert summary == {
                "a": 3, "empty": {}, "nested": {"big": 2**60 + 1, "e": {}, "n": None},
            }, name  # fmt: skip
            assert users_points(run) == {
                "a": [(0, 1.0), (1, 2.0), (2, 3.0)], "b": [(0, "nan")],
                "nested.big": [(0, float(2**60))],
            }, name  # fmt: skip
            assert "mlflow.wandb.config_changed" not in run.tags, name
        for name, uri in uris.items():
            for of, source in sources.items():
                (verified,) = verify(source, MlflowTarget(uri), Selection())
                assert (verified.result, verified.differences) == ("equal", ()), (name, of)
                # One description of the two: nothing needs a reason.
                assert (name == "server") != (of == "server") or verified.by_design == ()


@pytest.mark.parametrize("content", [b"", b":W&B\xe1\xbe\x00", b":W&"])
def test_an_empty_log_is_skipped_and_does_not_differ(
    fresh_store: str, tmp_path: Path, content: bytes
) -> None:
    """A run whose process was killed before wandb-core wrote anything."""
    folder = tmp_path / "wandb" / "offline-run-20260101_000000-zero"
    folder.mkdir(parents=True)
    (folder / "run-zero.wandb").write_bytes(content)
    source, target = WandbDir(tmp_path), MlflowTarget(fresh_store)
    (outcome,) = backfill(source, target, Selection())
    assert (outcome.run.run_id, outcome.action) == ("zero", "skipped")
    assert "nothing was logged" in outcome.reason
    assert list(verify(source, target, Selection())) == []
    assert read_runs(fresh_store) == {}
