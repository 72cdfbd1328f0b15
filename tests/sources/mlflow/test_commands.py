"""`mlflow-wandb backfill`, `export` and `verify` with MLflow as the source."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill.engines.remote import resolve_job_uris
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.plugins import open_source
from tests.sources.mlflow.conftest import Collected
from tests.support.commands import main_in_process

T = 1_700_000_000_000
Run = Callable[[list[str]], tuple[int, str, str]]


@pytest.fixture
def uri(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of a store with three runs in two experiments."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=sqlite)
    for experiment, names in (("digits", "ab"), ("words", "c")):
        there = client.create_experiment(experiment)
        for name in names:
            run = client.create_run(there, start_time=T, run_name=name).info.run_id
            client.log_param(run, "lr", "0.5" if name == "a" else "1e-3")
            client.log_metric(run, "loss", 0.25, T + 1, 3)
            client.log_text(run, name, "n.txt")
            client.set_terminated(run, end_time=T + 5)
    return sqlite


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with arguments: exit code, stdout, stderr."""
    return lambda arguments: main_in_process(capsys, monkeypatch, *arguments)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_runs_go_into_an_archive_and_are_complete(uri: str, tmp_path: Path, run: Run) -> None:
    """What the archive yields is what MLflow yields; a second backfill skips it."""
    command = ["backfill", uri, "--to", "archive:out", "--experiment", "digits", "--json"]
    assert run(command)[0] == 0
    code, out, _ = run(command)
    assert code == 0
    assert out.count('"skipped"') >= 2
    archived = {run.name: run for run in open_source("archive:out").runs(Selection())}
    assert sorted(archived) == ["a", "b"]
    for name, one in archived.items():
        source = open_source(uri)
        [live] = source.runs(Selection(runs=(name,)))
        ours = Collected(open_source("archive:out").read(one, {}))
        theirs = Collected(source.read(live, {}))
        assert ours.rows == theirs.rows == {0: {"loss": 0.25, "mlflow_step": 3.0}}
        assert ours.files == theirs.files == {"artifacts/n.txt": name.encode()}
        assert dict(ours.info.config) == dict(theirs.info.config)
        assert one.config["lr"] == (0.5 if name == "a" else "1e-3")


@pytest.mark.parametrize("source", ["mlflow:", "wandb+sqlite:///mlflow.db", "sqlite:///mlflow.db"])
def test_other_processes_get_the_absolute_uri(
    uri: str, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """They may have another working directory, and another MLflow of their own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert resolve_job_uris(Job(source, "archive:out")).source == uri


def test_tables_of_runs_and_rows(uri: str, tmp_path: Path, run: Run) -> None:
    """A row per run, and a row per step, as CSV; the same selections as for a backfill."""
    assert run(["export", uri, "--to", "x.csv", "--order", "created"])[0] == 0
    found = {row["name"]: row for row in rows_of(tmp_path / "x.csv")}
    assert sorted(found) == ["a", "b", "c"]
    assert (found["c"]["project"], found["c"]["state"]) == ("words", "finished")
    assert (found["a"]["config.lr"], found["a"]["summary.loss"]) == ("0.5", "0.25")
    chosen = ["--filter", "params.lr = '1e-3'", "--experiment", "wor.*", "--experiment", "digits"]
    command = ["export", uri, "--to", "y.csv", "--history", "--columns", "loss,mlflow_step,_step"]
    assert run([*command, *chosen])[0] == 0
    assert rows_of(tmp_path / "y.csv") == [{"loss": "0.25", "mlflow_step": "3.0", "_step": "0"}] * 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["backfill", "{uri}"], "from MLflow to MLflow, use MLflow's own export tools"),
        (["backfill", "{uri}", "--to", "{uri}"], "from MLflow to MLflow"),
        (["verify", "{uri}", "--to", "{uri}"], "from MLflow to MLflow"),
        (["export", "{uri}", "--to", "x.csv", "--filter", "no"], "--filter 'no' is refused"),
        (["export", "{uri}", "--to", "x.csv", "--experiment", "["], "is not a regular expression"),
        (["export", ".", "--to", "x.csv", "--experiment", "a"], "selects runs in MLflow"),
        (["backfill", ".", "--experiment", "a", "--experiment", "b"], "may be repeated for runs"),
        (["export", "sqlite:///none.db", "--to", "x.csv"], "there is no MLflow store at"),
    ],
)
def test_mistakes_are_one_line(uri: str, run: Run, command: list[str], message: str) -> None:
    """Exit code 2, and nothing is written."""
    code, _, err = run([part.format(uri=uri) for part in command])
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("none.db").exists()
