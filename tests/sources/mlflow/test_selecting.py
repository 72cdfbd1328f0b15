"""Which runs of an MLflow store are listed, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.sources.mlflow import run_lister

T = 1_700_000_000_000


@pytest.fixture
def client(sqlite: str) -> Any:
    """MLflow's client of the store, with five runs in two experiments."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=sqlite)
    digits, words = client.create_experiment("digits"), client.create_experiment("words/v2")
    parent = _run(client, digits, "parent", 100, "FINISHED")
    _run(client, digits, "child", 200, "FAILED", parent)
    _run(client, words, "other", 300, "KILLED")
    _run(client, words, "now", 400, "")
    client.delete_run(_run(client, digits, "gone", 50, "FINISHED"))
    gone = client.create_experiment("gone")
    _run(client, gone, "of a deleted experiment", 60, "FINISHED")
    client.delete_experiment(gone)
    return client


def _run(client: Any, experiment: str, name: str, at: int, status: str, parent: str = "") -> str:
    tags = {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(experiment, start_time=T + at, tags=tags, run_name=name)
    client.log_param(run.info.run_id, "lr", str(at))
    if status:
        client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


@pytest.fixture
def listed(client: Any, sqlite: str, opened: Callable[..., Source]) -> Callable[..., list[str]]:
    """Names of the runs of a selection, in order."""
    return lambda **chosen: [run.name for run in opened(sqlite).runs(Selection(**chosen))]


def test_all_runs_that_are_not_deleted(listed: Callable[..., list[str]]) -> None:
    """Oldest first; neither a deleted run nor one of a deleted experiment."""
    assert listed() == ["parent", "child", "other", "now"]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"experiments": ("digits",)}, ["parent", "child"]),
        ({"experiments": ("words/.*",)}, ["other", "now"]),
        ({"experiments": ("1", "words/v2")}, ["parent", "child", "other", "now"]),
        ({"states": ("finished",)}, ["parent"]),
        ({"states": ("failed", "killed")}, ["child", "other"]),
        ({"states": ("running",)}, ["now"]),
        ({"since_ms": T + 200, "until_ms": T + 400}, ["child", "other"]),
        ({"filter": "params.lr = '300'"}, ["other"]),
        ({"filter": "params.lr = '300'", "since_ms": T + 301}, []),
        ({"runs": ("o.*",)}, ["other"]),
    ],
)
def test_selections(listed: Callable[..., list[str]], chosen: Any, names: list[str]) -> None:
    """By experiment, state, start, MLflow's filter and name."""
    assert listed(**chosen) == names


def test_children_come_with_their_parent(listed: Callable[..., list[str]]) -> None:
    """A run that is named brings its children, unless something else excludes them."""
    assert listed(runs=("parent",)) == ["parent", "child"]
    assert listed(runs=("parent",), states=("finished",)) == ["parent"]
    assert listed(runs=("child",)) == ["child"]


def test_parents_come_first(listed: Callable[..., list[str]]) -> None:
    """Also where the newest run is listed first."""
    assert listed(newest_first=True) == ["now", "other", "parent", "child"]
    assert listed(newest_first=True, runs=("parent",)) == ["parent", "child"]


def test_group_is_the_parent(
    client: Any, sqlite: str, opened: Callable[..., Source], listed: Callable[..., list[str]]
) -> None:
    """--group takes the id of the parent run."""
    [parent] = [run for run in opened(sqlite).runs(Selection()) if run.name == "parent"]
    assert listed(groups=(parent.run_id,)) == ["child"]


def test_pages_do_not_show(
    listed: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists come in pages, of runs and of experiments."""
    monkeypatch.setattr(run_lister, "PAGE", 1)
    assert listed() == ["parent", "child", "other", "now"]


def test_no_such_experiment(listed: Callable[..., list[str]]) -> None:
    """A name that is no experiment's is a mistake, and said so."""
    with pytest.raises(UsageError, match=r"no experiment of .* is called nothing"):
        listed(experiments=("nothing",))


def test_filter_that_mlflow_refuses(listed: Callable[..., list[str]]) -> None:
    """MLflow's own words are in the message."""
    with pytest.raises(UsageError, match="--filter 'nonsense' is refused: MLflow: Invalid"):
        listed(filter="nonsense")


def test_parents_of_replicas_are_left_out(sqlite: str, opened: Callable[..., Source]) -> None:
    """A run that is only the parent of a W&B sweep's runs is no run of W&B."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=sqlite)
    client.create_run("0", tags={"wandb.sweep": "s1"}, run_name="sweep s1")
    assert list(opened(sqlite).runs(Selection())) == []
