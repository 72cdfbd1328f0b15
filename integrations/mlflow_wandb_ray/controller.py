"""Log Ray Train runs without code changes.

Set ``RAY_TRAIN_CALLBACKS=mlflow_wandb_ray.DualTrainCallback``. The callback runs in the controller
process, which outlives the workers: when a worker dies or restarts, the run continues. Ray's
interface for these callbacks is internal, so other versions of Ray may lack it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray.arguments import check_init_arguments
from mlflow_wandb_ray.run_thread import RunThread, not_logged
from mlflow_wandb_ray.runs import Destination, begin, group_of, run_id, storage_path

try:
    from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback
except ImportError as error:
    import ray

    raise UsageError(
        f"mlflow_wandb_ray does not know the controller of Ray {ray.__version__}: use Ray 2.60, "
        "or call mlflow_wandb_ray.setup_dual in the training function"
    ) from error

FAILED, ABORTED = 1, 255
_PASSED_VARIABLES = (
    "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_PROJECT_NAME",
    "WANDB_GROUP_NAME", "WANDB_API_KEY_FILE",
    "MLFLOW_TRACKING_URI", "DATABRICKS_CONFIG_FILE",
)  # fmt: skip
_PASSED_PREFIX = "MLFLOW_WANDB_"


class DualTrainCallback(ControllerCallback, ReportCallback):
    """Logs what the workers report with ``ray.train.report`` to one run in W&B and one in MLflow.

    Name it in ``RAY_TRAIN_CALLBACKS``, or pass one in ``RunConfig(callbacks=[…])``. The metrics of
    a report are those of rank zero. The run's id follows from the storage path and the experiment's
    name: restarting the experiment resumes the run. The controller waits only for the end of the
    run, after the training.

    Args:
        tracking_uri, experiment: of MLflow; None means the settings of this package.
        api_key_file, databricks_config_file: as `mlflow_wandb_ray.setup_dual` takes them.
        init: arguments of ``wandb.init``, such as ``project``.

    Raises:
        UsageError: this version of Ray has another interface, or an argument is unknown.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        api_key_file: str | None = None,
        databricks_config_file: str | None = None,
        **init: Any,
    ) -> None:
        check_init_arguments(type(self).__name__, init)
        self._destination = Destination(
            init,
            {"tracking_uri": tracking_uri, "experiment": experiment},
            api_key_file=api_key_file,
            databricks_config_file=databricks_config_file,
        )
        # The callback is created in the user's script; the controller may have another environment.
        self._environment = _settings_of(os.environ)
        self._run_thread: RunThread | None = None

    # -- Ray's interface ------------------------------------------------------------------

    def after_controller_start(self, train_run_context: Any) -> None:
        os.environ.update(self._environment)
        run_config = train_run_context.run_config
        storage = run_config.storage_context
        arguments = {"id": run_id(storage_path(storage)), "name": run_config.name}
        if group := group_of(self._destination.init):
            arguments["group"] = group
        config = train_run_context.train_loop_config or {}

        def start(offline: bool) -> Any:
            destination = self._destination.offline() if offline else self._destination
            # Several trainers may share a process, as Tune's trials do.
            return begin(destination, arguments, config, storage, several=True)

        self._run_thread = RunThread(start)

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        if self._run_thread is not None and metrics:
            self._run_thread.log(metrics[0])

    async def before_controller_shutdown(self) -> None:
        """Fail the training if nothing of it could be logged.

        Raises:
            NotLoggedError: the run could not start.
        """
        if self._run_thread is not None:
            self._run_thread.wait()
            if self._run_thread.error is not None:
                raise not_logged(self._run_thread.error)

    def after_controller_finish(self, result: Any) -> None:
        self._end(0 if result.error is None else FAILED)

    def before_controller_abort(self) -> None:
        self._end(ABORTED)

    def _end(self, exit_code: int) -> None:
        if self._run_thread is not None:
            self._run_thread.end(exit_code)
            self._run_thread.wait()


def _settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that configure where runs go; no keys, no URIs with passwords."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _PASSED_VARIABLES or name.startswith(_PASSED_PREFIX))
        and without_credentials(value) == value
    }
