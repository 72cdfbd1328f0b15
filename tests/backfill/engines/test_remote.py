"""A backfill's job in another process than the one that listed its runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.engines.remote import carry_one, resolve_job_uris, target_uri
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from tests.backfill.written import make_folder, points_at


def test_runs_that_another_process_listed_arrive_whole(tmp_path: Path, fresh_store: str) -> None:
    """Source and target are opened here, from nothing but the job."""
    wanted = make_folder(tmp_path / "wandb", "listed")
    job = resolve_job_uris(Job(str(tmp_path / "wandb"), fresh_store))
    runs = list(plugins.open_source(job.source).runs(Selection()))
    outcomes = [carry_one(job, run)[0] for run in runs]
    assert [outcome.points for outcome in outcomes] == [len(points) for points in wanted.values()]
    assert points_at(fresh_store, "listed") == wanted


def test_what_is_missing_here_is_said_with_the_name_of_the_machine(tmp_path: Path) -> None:
    """One run fails, in words: no traceback of another process."""
    run = RunInfo("r", project="p")
    outcome, _ = carry_one(Job(str(tmp_path / "gone"), "sqlite:///x.db"), run)
    assert outcome.action == "failed"
    assert outcome.reason.startswith(f"on {socket.gethostname()}: {tmp_path}/gone is not a source")


def test_a_job_means_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    """A folder is absolute, and a target that was not named is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    job = resolve_job_uris(Job("wandb"))
    assert (job.source, job.to) == (str(tmp_path / "wandb"), "http://127.0.0.1:5000")
    assert resolve_job_uris(Job("wandb://me/p", "archive:kept")).to == "archive:kept"
    assert target_uri("sqlite:///a.db") == "sqlite:///a.db"
