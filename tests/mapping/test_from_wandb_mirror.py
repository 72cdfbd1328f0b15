"""Rules for runs that were created in MLflow and come back from W&B."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import from_wandb_mirror as back
from mlflow_wandb_plugin.mapping import to_mlflow, to_wandb

ID = "0" * 32


def mirrored(section: dict[str, Any], run_id: str = ID, **more: Any) -> RunInfo:
    config = {"mlflow_run_id": run_id, "mlflow": section, **more}
    return RunInfo(ID, "project", state="failed", started_ms=5, ended_ms=6, config=config)


def test_params_have_the_texts_that_they_had() -> None:
    """W&B writes 1.0 as 1; names that it needs itself are undone."""
    texts = {"a": "1.0", "b": "1", "c": "True", "mlflow": "x", "mlflow_run_id": "y", "d": "1e-05"}
    config = to_wandb.run_config({"mlflow_run_id": ID}, texts, {}, Secrets(""))
    assert config["mlflow"] == {"float_params": ["a"]}
    config["a"] = 1
    info = back.restored(RunInfo(ID, "project", config=config))
    assert to_mlflow.params(info) == {(key,): text for key, text in texts.items()}


def test_a_run_has_the_status_and_times_that_it_had() -> None:
    """W&B knows failed alone, and the time at which it was told."""
    info = back.restored(mirrored({"status": "KILLED", "start_time": 1, "end_time": 2}))
    assert (info.state, info.started_ms, info.ended_ms) == ("killed", 1, 2)


def test_a_run_that_was_never_ended_is_killed() -> None:
    """The script died and left it running."""
    assert back.restored(mirrored({"status": "RUNNING"})).state == "killed"


@pytest.mark.parametrize(
    "tag", ["wandb.run_id", "mlflow.wandb.origin", "wandb.sync.owner", "mlflow.parentRunId"]
)
def test_a_config_cannot_give_a_run_another_identity(tag: str) -> None:
    """Tags that say which run it is, or below which one it is, are not taken from a config."""
    info = back.restored(mirrored({"tags": {tag: "f" * 32, "own": ""}}))
    assert to_mlflow.run_tags(info) == {"own": ""}


def test_a_config_that_names_another_run_is_no_mirror() -> None:
    """A mirrored run has its id of MLflow in W&B, too."""
    info = mirrored({"status": "FINISHED"}, run_id="1" * 32)
    assert back.restored(info) is info


@pytest.mark.parametrize(
    "section", [{"tags": [1], "datasets": {}, "name": 3, "start_time": "x", "float_params": 4}]
)
def test_a_damaged_section_is_read_as_far_as_it_goes(section: dict[str, Any]) -> None:
    """What has another type than this package writes counts as absent."""
    info = back.restored(mirrored(section))
    assert info.mlflow is not None
    assert (info.mlflow.tags, info.mlflow.datasets, info.started_ms) == ({}, (), 5)


def test_files_and_metrics_have_their_names_back() -> None:
    """W&B's own files are none of MLflow's."""
    assert back.file_path("artifacts/a/b.txt") == "a/b.txt"
    assert back.file_path("media/images/a.png") is None
    assert to_wandb.metric_of_key(to_wandb.metric_key("_step")) == "_step"
    assert to_wandb.metric_of_key("loss") == "loss"
