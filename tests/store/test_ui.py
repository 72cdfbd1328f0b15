"""MLflow's own UI on a mirrored store, in a real browser: ``make test-browser``."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.environment import isolated
from tests.support.outboxes import no_replicator
from tests.support.processes import mlflow_server, run_command
from tests.support.stores import copy_store

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000

pytestmark = pytest.mark.browser


@pytest.fixture
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed here: none of {', '.join(BROWSERS)}")
    return found


def rendered(browser: str, url: str, folder: Path) -> str:
    """The page's document once its scripts have run. The browser reaches loopback only."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1200",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--virtual-time-budget={PATIENCE_MS}", "--dump-dom", url,
    ]  # fmt: skip
    return run_command(command, isolated(folder), folder, timeout=180).stdout


def test_experiment_page_shows_its_runs(browser: str, empty_store: Path, tmp_path: Path) -> None:
    """The experiment's page, on a server with a wandb+ store, names the experiment and its run."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    folder = tmp_path / "server"
    outbox = folder / "env" / "work" / "wandb" / "mlflow"
    with no_replicator(outbox), mlflow_server(folder, uri=f"wandb+{uri}") as url:
        client = MlflowClient(url)
        experiment = client.create_experiment("seen in a browser")
        run = client.create_run(experiment, run_name="the-run-to-find")
        client.log_metric(run.info.run_id, "loss", 0.5)
        client.set_terminated(run.info.run_id)
        # A browser's socket has no room for pytest's long paths.
        with tempfile.TemporaryDirectory(prefix="ui-") as profile:
            page = rendered(browser, f"{url}/#/experiments/{experiment}/runs", Path(profile))
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert "seen in a browser" in text
    assert "the-run-to-find" in text
    assert [path.stem for path in outbox.glob("*.journal")] == [run.info.run_id]
