"""Invalid names and files in live replication: the run is complete, nothing is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mlflow_wandb_plugin import backfill
from tests.support.commands import journals, wandb_folder
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script

pytestmark = pytest.mark.usefixtures("patient")

LONG = "k" * 300
KEYS = [
    "recall@5", "recall#5", "a//b", "/lead", "trail/", "../up", "🎉", "loss 🎉", "ünï", "x.y",
    LONG + "1", LONG + "2", "tab\there", "eq=1,2", "ok/name.with-all_ 1:2",
]  # fmt: skip


@pytest.mark.slow
def test_names_and_values_that_mlflow_refuses(
    env: dict[str, str], tmp_path: Path, fresh_store: str
) -> None:
    """They are rewritten without collisions and counted; documents have the originals."""
    run_script(
        f"""
import mlflow_wandb_plugin.wandb as wandb
KEYS = {KEYS!r}
config = {{f"key {{i}}": i for i in range(10_000)}}
config.update({{"long": "v" * 20_000, "at@1": 1, "at#1": 2, "e🎉": 3, "half": "a\\ud800b",
                "lines": "one\\u2028two\\x85three"}})
run = wandb.init(project="bad", id="bad", config=config, notes="n" * 9000,
                 tags=["a@b", "a#b", "🎉"])
for step in range(3):
    run.log({{key: step * 100 + i for i, key in enumerate(KEYS)}} | {{"x": {{"y": -step}}}})
run.log({{"half": "a\\ud800b", "lines": "one\\u2028two\\x85three", "huge": 10**400,
         "tiny": 1e-320}})
run.summary["s@1"] = 1
run.finish()
""",
        env,
        tmp_path / "work",
    )
    assert not journals(env)
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"], tmp_path / "dual").values()
    folder = tmp_path / "dual" / run.run_id / "wandb"
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    assert run.tags["mlflow.wandb.losses"] == "{}"

    renamed = json.loads((folder / "renamed.json").read_text())
    names = {tuple(key): name for name, key in renamed["metrics"].items()}
    for number, key in enumerate(KEYS):
        name = names.get((key,), key)
        assert run.points(name) == [(step, step * 100.0 + number) for step in range(3)], key
    nested = names.get(("x", "y"), "x.y")
    assert run.points(nested) == [(0, 0.0), (1, -1.0), (2, -2.0)]
    untouched = {"ünï", "ok/name.with-all_ 1:2", "recall_5", "x.y"}
    assert untouched <= set(run.metrics)
    assert ("ünï",) not in names

    assert len(run.params) == 10_000 + 6
    assert all(run.params[f"key {i}"] == str(i) for i in range(10_000))
    assert run.params["long"] == "v" * 6000
    params = {tuple(key): name for name, key in renamed["params"].items()}
    assert {run.params[params["at@1",]], run.params[params["at#1",]]} == {"1", "2"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["long"], config["at@1"], config["e🎉"]) == ("v" * 20_000, 1, 3)
    assert config["lines"] == "one\u2028two\x85three"

    assert json.loads(run.tags["wandb.tags"]) == ["a@b", "a#b", "🎉"]
    long_tags = json.loads((folder / "long_tags.json").read_text())
    assert long_tags == {"mlflow.note.content": "n" * 9000}
    rewrites = json.loads(run.tags["mlflow.wandb.rewrites"])
    assert (rewrites["param_cut"], rewrites["tag_cut"]) == (1, 1)
    dotted = sum(1 for key, name in names.items() if ".".join(key) != name)
    assert rewrites["name"] == dotted + 3
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().split("\n") if line]
    assert [row["lines"] for row in rows] == ["one\u2028two\x85three"]

    (outcome,) = backfill(str(wandb_folder(env)), fresh_store)
    assert outcome.action == "migrated", outcome.reason
    (filled,) = read_runs(fresh_store, tmp_path / "filled").values()
    left, right = run.comparable(), filled.comparable()
    for part in left:
        assert left[part] == right[part], part


def test_files_that_come_go_and_are_refused(env: dict[str, str], tmp_path: Path) -> None:
    """Odd names, overwritten, deleted and nested files arrive or are counted."""
    run_script(
        """
import os, pathlib
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="files", id="files")
pathlib.Path("deep/er").mkdir(parents=True)
pathlib.Path("deep/er/in.txt").write_text("deep")
run.save("deep/er/in.txt", base_path=".", policy="now")
pathlib.Path("odd # 100% name.txt").write_text("odd")
run.save("odd # 100% name.txt", policy="now")
pathlib.Path("twice.txt").write_text("first")
run.save("twice.txt", policy="live")
pathlib.Path("twice.txt").write_text("second")
pathlib.Path("gone.txt").write_text("gone")
artifact = wandb.Artifact("odd", "data set")
artifact.add_file("gone.txt", policy="immutable")
run.log_artifact(artifact)
os.unlink("gone.txt")
run.log({"m": 1})
run.finish()
""",
        env,
        tmp_path / "work",
    )
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"], tmp_path / "dual").values()
    folder = tmp_path / "dual" / run.run_id / "wandb"
    assert (folder / "files/deep/er/in.txt").read_text() == "deep"
    assert (folder / "files/twice.txt").read_text() == "second"
    odd = [path for path in (folder / "files").iterdir() if path.name.startswith("odd")]
    assert [path.read_text() for path in odd] == ["odd"]
    missing = json.loads(run.tags["mlflow.wandb.losses"])
    assert missing == {"artifact_file_missing": 1}
    lost = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert ["gone.txt" in entry["key"] for entry in lost] == [True]
    assert (run.status, run.points("m")) == ("FINISHED", [(0, 1.0)])
    assert math.isfinite(run.latest["m"])


def test_artifacts_and_saved_files_from_anywhere_are_carried(
    env: dict[str, str], tmp_path: Path, fresh_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied by wandb or not, linked or with a relative path; a reference stays a reference."""
    data = tmp_path / "elsewhere"
    data.mkdir()
    for name in ("copied", "kept", "relative", "saved", "referenced"):
        (data / name).write_text(f"content of {name}")
    run_script(
        f"""
import os
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="files", id="files")
run.save({str(data / "saved")!r}, base_path={str(data)!r})
artifact = wandb.Artifact("set", "dataset")
artifact.add_file({str(data / "copied")!r})
artifact.add_file({str(data / "kept")!r}, policy="immutable")
artifact.add_file(os.path.relpath({str(data / "relative")!r}), policy="immutable")
artifact.add_reference({(data / "referenced").as_uri()!r})
run.log_artifact(artifact)
run.finish()
""",
        env,
        tmp_path / "work",
    )
    monkeypatch.chdir(tmp_path / "work")  # A relative path is relative to the script's folder.
    backfill(str(wandb_folder(env)), fresh_store)
    for uri, place in ((env["MLFLOW_TRACKING_URI"], "dual"), (fresh_store, "filled")):
        (run,) = read_runs(uri, tmp_path / place).values()
        assert json.loads(run.tags["mlflow.wandb.losses"]) == {}
        folder = tmp_path / place / run.run_id / "wandb"
        assert (folder / "files/saved").read_text() == "content of saved"
        (version,) = (
            path for path in (folder / "artifacts/dataset/set").iterdir() if path.is_dir()
        )
        found = {path.name: path.read_text() for path in version.iterdir()}
        assert found == {name: f"content of {name}" for name in ("copied", "kept", "relative")}


def test_a_journal_that_cannot_be_written(env: dict[str, str], tmp_path: Path) -> None:
    """There is one warning, W&B has everything, and a backfill brings it to MLflow."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    done = run_script(
        """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="p", id="unwritable")
for i in range(100):
    run.log({"m": i})
run.finish()
""",
        {**env, "MLFLOW_WANDB_JOURNAL_DIR": str(blocked / "journals")},
        tmp_path / "work",
    )
    warnings = [line for line in done.stderr.splitlines() if "mlflow-wandb" in line]
    assert any("cannot write the journal" in line for line in warnings), done.stderr
    assert any(f"mlflow-wandb backfill {wandb_folder(env)}" in line for line in warnings)
    assert "Traceback" not in done.stderr
    assert read_runs(env["MLFLOW_TRACKING_URI"]) == {}
    (outcome,) = backfill(str(wandb_folder(env)), env["MLFLOW_TRACKING_URI"])
    assert (outcome.action, outcome.points) == ("migrated", outcome.points)
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert run.points("m") == [(i, float(i)) for i in range(100)]
