"""Secrets of a run's config and command line are in W&B's log alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import backfill, verify
from tests.support.commands import wandb_folder
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script

pytestmark = pytest.mark.usefixtures("patient")

TOKEN = "hf_" + "aB3" * 11
SCRIPT = f"""
import sys
import mlflow_wandb_plugin.wandb as wandb
sys.argv += ["--api-key", "open-sesame-1", "--db_password=open-sesame-2", "--max_tokens", "512"]
run = wandb.init(project="secrets", id="r", tags=["{TOKEN}", "good"], notes="use {TOKEN}", config={{
    "api_key": "open-sesame-3", "max_tokens": 512, "pad_token": "<pad>",
    "store": {{"url": "postgresql://me:open-sesame-4@host/db", "password": 12345678}},
    "hub": "{TOKEN}",
}})
run.config.update({{"late": {{"secret_key": "open-sesame-5"}}}})
run.log({{"m": 1}})
run.finish()
"""
PARAMS = {
    "api_key": "***", "max_tokens": "512", "pad_token": "<pad>", "store.url": "postgresql://host/db",
    "store.password": "***", "hub": "***", "late.secret_key": "***",
}  # fmt: skip


def seen(run: RunState, folder: Path) -> dict[str, Any]:
    """Everything of the replica that a user of MLflow sees, but W&B's own files."""
    below = folder / run.run_id / "wandb"
    texts = [path.read_text() for path in below.iterdir() if path.is_file()]
    return {"params": run.params, "tags": run.tags, "documents": texts, "name": run.name}


def test_live_and_backfilled_runs_hide_the_same_secrets(
    env: dict[str, str], tmp_path: Path, fresh_store: str
) -> None:
    """Both replicas are equal, verify finds them equal, and ordinary values are as they were."""
    run_script(SCRIPT, env, tmp_path / "work")
    folder = wandb_folder(env)
    (outcome,) = backfill(str(folder), fresh_store)
    assert outcome.action == "migrated"
    for uri, place in ((env["MLFLOW_TRACKING_URI"], "dual"), (fresh_store, "filled")):
        (run,) = read_runs(uri, tmp_path / place).values()
        assert run.params == PARAMS
        config = json.loads((tmp_path / place / run.run_id / "wandb/config.json").read_text())
        assert config["store"] == {"url": "postgresql://host/db", "password": "***"}
        assert config["late"] == {"secret_key": "***"}
        assert json.loads(run.tags["wandb.args"])[-5:] == [
            "--api-key", "***", "--db_password=***", "--max_tokens", "512",
        ]  # fmt: skip
        assert run.tags["mlflow.note.content"] == "use ***"
        assert json.loads(run.tags["wandb.tags"]) == ["***", "good"]
        assert json.loads(run.tags["mlflow.wandb.rewrites"])["secret_hidden"] == 5
        whole = json.dumps(seen(run, tmp_path / place))
        assert "open-sesame" not in whole
        assert TOKEN not in whole
        (verified,) = verify(str(folder), uri)
        assert (verified.result, verified.differences) == ("equal", ())


def test_the_setting_reaches_the_replicator_and_what_sync_delivers(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Given as an argument, it is in the run's journal."""
    script = """
import mlflow_wandb_plugin
mlflow_wandb_plugin.autolog(secret_names="my_pin")
import wandb
run = wandb.init(project="secrets", id="r", config={"my_pin": "12ab", "password": "34cd"})
run.finish()
"""
    dead = {**env, "MLFLOW_WANDB_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_WANDB_LINGER": "0"}
    dead |= {"MLFLOW_WANDB_FINISH_TIMEOUT": "0.5", "MLFLOW_WANDB_INIT_TIMEOUT": "0.5"}
    run_script(script, dead, tmp_path / "work")
    sync = [sys.executable, "-m", "mlflow_wandb_plugin.cli", "sync", "--to"]
    subprocess.run([*sync, env["MLFLOW_TRACKING_URI"]], env=env, check=True, timeout=120)
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert run.params == {"my_pin": "***", "password": "***"}
