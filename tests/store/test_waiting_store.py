"""Which store answers while MLflow does not."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow.entities import Metric

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


def test_a_run_of_mlflow_is_taken_over_and_given_back() -> None:
    """It is answered under the id that MLflow has given, with a folder for its files; afterwards
    MLflow is asked again."""
    run_id = "0123456789abcdef" * 2
    store = waiting_store.RoutedStore(away, lambda native: native)
    waiting_store.take_over(run_id)
    store.log_metric(run_id, Metric("m", 1.0, 5, 7))
    found = store.get_run(run_id)
    assert (found.info.run_id, found.info.status, found.data.metrics) == (
        run_id, "RUNNING", {"m": 1.0},
    )  # fmt: skip
    assert waiting_store.repository(run_id).list_artifacts() == []
    waiting_store.give_back(run_id)
    with pytest.raises(Away):
        store.get_run(run_id)
