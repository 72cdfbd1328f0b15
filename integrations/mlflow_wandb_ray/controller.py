"""Ray Train without a change of code: ``RAY_TRAIN_CALLBACKS=mlflow_wandb_ray.DualTrainCallback``.

The controller is the process that outlives the workers, so a worker's death, rank zero's too, and
a restart change nothing about the run. Ray's interface for it is a developer's: it is guarded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray.lane import Lane
from mlflow_wandb_ray.runs import Homes, begin, place_of, run_id

try:
    from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback
except ImportError as error:
    import ray

    raise UsageError(
        f"mlflow_wandb_ray does not know the controller of Ray {ray.__version__}: use Ray 2.60, "
        "or call mlflow_wandb_ray.setup_dual in the training function"
    ) from error

FAILED, ABORTED = 1, 255
_TAKEN_ALONG = (
    "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY_FILE",
    "MLFLOW_TRACKING_URI", "DATABRICKS_CONFIG_FILE",
)  # fmt: skip
_TAKEN_PREFIX = "MLFLOW_WANDB_"


class DualTrainCallback(ControllerCallback, ReportCallback):
    """What the workers report with ``ray.train.report`` as one run in W&B and one in MLflow.

    Name it in ``RAY_TRAIN_CALLBACKS``, or pass one in ``RunConfig(callbacks=[…])``. A report's
    metrics are those of rank zero. The run's id follows from the storage path and the experiment's
    name: the same experiment begun again goes on in it. The controller waits for nothing but, when
    the training is over, for the end of the run.

    Args:
        tracking_uri, experiment: of MLflow; None means as everywhere in this package.
        api_key_file, databricks_config_file: as `mlflow_wandb_ray.setup_dual` takes them.
        init: arguments of ``wandb.init``, such as ``project``.

    Raises:
        UsageError: this version of Ray has another interface.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        api_key_file: str | None = None,
        databricks_config_file: str | None = None,
        **init: Any,
    ) -> None:
        self._homes = Homes(init, tracking_uri, experiment, api_key_file, databricks_config_file)
        # Made where the user's script runs; the controller may have another environment.
        self._environment = _settings_of(os.environ)
        self._lane: Lane | None = None

    # -- Ray's interface ------------------------------------------------------------------

    def after_controller_start(self, train_run_context: Any) -> None:
        os.environ.update(self._environment)
        run_config = train_run_context.run_config
        storage = run_config.storage_context
        arguments = {"id": run_id(place_of(storage)), "name": run_config.name}
        config = train_run_context.train_loop_config or {}

        def start(offline: bool) -> Any:
            homes = self._homes.offline() if offline else self._homes
            # Several trainers may share a process, as Tune's trials do.
            return begin(homes, {**arguments, "reinit": "create_new"}, config, storage)

        self._lane = Lane(start)

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        if self._lane is not None and metrics:
            self._lane.log(metrics[0])

    def after_controller_finish(self, result: Any) -> None:
        self._end(0 if result.error is None else FAILED)

    def before_controller_abort(self) -> None:
        self._end(ABORTED)

    def _end(self, exit_code: int) -> None:
        if self._lane is not None:
            self._lane.end(exit_code)
            self._lane.wait()


def _settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the driver's environment says where runs go; no key, and no password in a URI."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _TAKEN_ALONG or name.startswith(_TAKEN_PREFIX))
        and without_credentials(value) == value
    }
