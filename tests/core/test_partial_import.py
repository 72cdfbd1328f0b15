"""Parts of MLflow and wandb can be imported alone, and the rest comes when it is asked for."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import run_script

PARTS = """
import sys
from mlflow_wandb_plugin.core.partial_import import allow_partial_import, is_partial

allow_partial_import()
import mlflow.store.tracking.rest_store
import mlflow.tracking._tracking_service.client
import wandb.proto.wandb_internal_pb2
assert is_partial("mlflow") and is_partial("mlflow.tracking") and is_partial("wandb")
assert mlflow.__version__ and wandb.__version__
for heavy in ("pandas", "sqlalchemy", "fastapi", "wandb.sdk.wandb_run", "mlflow.tracking.fluent"):
    assert heavy not in sys.modules, heavy
"""
THE_REST = """
import threading

from mlflow.entities import Metric

found = []

def ask():
    found.append((mlflow.MlflowClient, mlflow.tracking.MlflowClient))

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == 8 * [(mlflow.MlflowClient, mlflow.MlflowClient)]
assert not is_partial("mlflow") and not is_partial("mlflow.tracking")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
assert isinstance(history[0], Metric) and history[0].value == 0.5
with wandb.init(mode="offline") as run:
    run.log({"loss": 0.5})
assert not hasattr(mlflow, "no_such_name") and not hasattr(wandb, "no_such_name")
"""


def test_the_parts_of_a_tracking_servers_client_come_alone(
    env: dict[str, str], tmp_path: Path
) -> None:
    """A new version of MLflow or wandb that needs more for them fails here, by a module's name."""
    run_script(PARTS, env, tmp_path)


def test_the_rest_is_imported_when_it_is_needed(env: dict[str, str], tmp_path: Path) -> None:
    """Threads that ask at the same time get the same; then all of MLflow and wandb works."""
    run_script(PARTS + THE_REST, env, tmp_path, timeout=240)


def test_what_was_imported_before_stays(env: dict[str, str], tmp_path: Path) -> None:
    """Nothing changes in a process that has imported the packages."""
    code = "import mlflow, wandb\nbefore = mlflow, wandb\n"
    code += "from mlflow_wandb_plugin.core.partial_import import allow_partial_import, is_partial\n"
    code += "allow_partial_import()\nimport mlflow, wandb\n"
    code += "assert before == (mlflow, wandb) and not is_partial('mlflow')\n"
    run_script(code, env, tmp_path, timeout=240)
