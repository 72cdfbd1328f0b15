"""Which store answers while MLflow does not."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_wandb_plugin.store import waiting_store


class Away(Exception):
    """MLflow does not answer."""


def away() -> Any:
    raise Away


def test_calls_about_its_runs_are_answered_and_others_reach_mlflow() -> None:
    """By the ids among the arguments, of runs and of their logged models."""
    run = waiting_store.create_run("stands")
    store = waiting_store.RoutedStore(away, lambda native: native)
    assert waiting_store.has(run.info.run_id)
    assert store.get_run(run.info.run_id).info.run_name == "stands"
    model = store.create_logged_model("0", name="m", source_run_id=run.info.run_id)
    assert store.get_logged_model(model_id=model.model_id).name == "m"
    with pytest.raises(Away):
        store.get_run("another")
    with pytest.raises(Away):
        store.search_runs(["0"])
