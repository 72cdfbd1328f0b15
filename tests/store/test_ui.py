"""MLflow's own UI on a mirrored store, in a real browser: ``make test-browser``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.browser import browser, rendered
from tests.support.outboxes import no_replicator
from tests.support.processes import mlflow_server
from tests.support.stores import copy_store

pytestmark = pytest.mark.browser


def test_experiment_page_shows_its_runs(empty_store: Path, tmp_path: Path) -> None:
    """The experiment's page, on a server with a wandb+ store, names the experiment and its run."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    folder = tmp_path / "server"
    outbox = folder / "env" / "work" / "wandb" / "mlflow"
    program = browser()
    with no_replicator(outbox), mlflow_server(folder, uri=f"wandb+{uri}") as url:
        client = MlflowClient(url)
        experiment = client.create_experiment("seen in a browser")
        run = client.create_run(experiment, run_name="the-run-to-find")
        client.log_metric(run.info.run_id, "loss", 0.5)
        client.set_terminated(run.info.run_id)
        # A browser's socket has no room for pytest's long paths.
        with tempfile.TemporaryDirectory(prefix="ui-") as profile:
            page = rendered(program, f"{url}/#/experiments/{experiment}/runs", Path(profile))
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert "seen in a browser" in text
    assert "the-run-to-find" in text
    assert [path.stem for path in outbox.glob("*.journal")] == [run.info.run_id]
