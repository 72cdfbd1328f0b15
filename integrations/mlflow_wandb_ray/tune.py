"""Log each Ray Tune trial as a run in W&B and in MLflow, grouped by experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from ray.tune.logger import LoggerCallback

from mlflow_wandb_plugin.core.identity import PARENT_GROUP_KEY
from mlflow_wandb_plugin.core.model import flatten
from mlflow_wandb_ray import credentials
from mlflow_wandb_ray.arguments import check_init_arguments
from mlflow_wandb_ray.run_thread import RunThread
from mlflow_wandb_ray.runs import Destination, begin, run_id, shown, storage_path

STEP_KEY = "training_iteration"
FAILED, INTERRUPTED = 1, 255
TUNE_KEYS = frozenset((
    "checkpoint_dir_name", "config", "date", "done", "episodes_total", "experiment_id",
    "experiment_tag", "hostname", "iterations_since_restore", "node_ip", "pid", "should_checkpoint",
    "time_since_restore", "timestamp", "timesteps_since_restore", "timesteps_total", "trial_id",
    "trial_name", "trial_log_path",
))  # fmt: skip
"""Keys that Tune adds to each result about its processes and clocks."""


class DualLoggerCallback(LoggerCallback):
    """Logs trials as runs of one W&B group, and of one parent run in MLflow.

    ``Tuner.restore`` resumes the same runs. MLflow's steps are Tune's training iterations. A
    param that changes while a trial runs, as with population based training, is its first value
    among MLflow's params and its last one in W&B's config and MLflow's ``wandb/config.json``.

    Args:
        project, entity: of W&B; None means wandb's setting.
        group: of W&B, and the name of the parent run; None means the experiment's name.
        tracking_uri, experiment: of MLflow; None means the settings of this package.
        log_checkpoints: log each checkpoint that Tune keeps of a trial as an artifact of type
            ``model``, on any file system.
        excludes: further keys of results and of the config to leave out, with all below them;
            ``/`` joins nested keys.
        api_key_file, databricks_config_file: as `mlflow_wandb_ray.setup_dual` takes them.
        upload_checkpoints, save_checkpoints, log_config: as Ray's own callback for W&B takes them:
            the first two are other names of ``log_checkpoints``; a config that changes is always
            logged.
        init: further arguments of ``wandb.init``.

    Raises:
        UsageError: an argument is unknown.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        log_checkpoints: bool = False,
        excludes: Sequence[str] = (),
        api_key_file: str | None = None,
        databricks_config_file: str | None = None,
        upload_checkpoints: bool = False,
        save_checkpoints: bool = False,
        log_config: bool = True,
        **init: Any,
    ) -> None:
        check_init_arguments(type(self).__name__, init)
        named = {"project": project, "entity": entity}
        given = {key: value for key, value in named.items() if value} | init
        of_nodes = (api_key_file, databricks_config_file)
        self._destination = Destination(given, tracking_uri, experiment, *of_nodes)
        self._group = group
        self._log_checkpoints = log_checkpoints or upload_checkpoints or save_checkpoints
        self._excluded = frozenset(excludes)
        self._ids: dict[str, str] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._threads: dict[str, RunThread] = {}
        self._saved: dict[str, Any] = {}

    # -- Tune's interface -----------------------------------------------------------------

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Called on the driver before the first trial.

        Raises:
            UsageError: there is no W&B key.
        """
        credentials.provide_wandb_key(self._destination.init, self._destination.api_key_file)

    def log_trial_start(self, trial: Any) -> None:
        """Also called when a trial is restarted, perhaps with another config."""
        config = _without(shown(trial.config or {}), self._excluded)
        thread = self._threads.get(trial.trial_id)
        if thread is None:
            self._threads[trial.trial_id] = self._begin(trial, config)
        elif config != self._configs[trial.trial_id]:
            thread.call(lambda run: run.config.update(config, allow_val_change=True))
        self._configs[trial.trial_id] = config

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self.log_trial_start(trial)
        row = {
            "/".join(path): value
            for path, value in flatten(_without(result, TUNE_KEYS | self._excluded)).items()
        }
        self._threads[trial.trial_id].log(row)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        """Remember a trial's new checkpoint; `log_trial_save` knows its result."""
        self._saved[trial.trial_id] = checkpoint

    def log_trial_save(self, trial: Any) -> None:
        """Also called when nothing was saved: the trial's latest checkpoint may be an old one, or
        that of another trial from which this one continues."""
        thread = self._threads.get(trial.trial_id)
        checkpoint = self._saved.pop(trial.trial_id, None)
        if not self._log_checkpoints or thread is None or checkpoint is None:
            return
        # The trial's last result may be a later one.
        latest = trial.latest_checkpoint_result
        at = (latest.metrics or {}).get(STEP_KEY) if latest else None
        thread.call(lambda run: log_checkpoint(run, checkpoint, at))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        thread = self._threads.get(trial.trial_id)
        if thread is not None:
            thread.end(FAILED if failed else 0)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Wait for the runs; those of interrupted trials get an exit code of their own."""
        for thread in self._threads.values():
            thread.end(INTERRUPTED)
        for thread in self._threads.values():
            thread.wait()

    def get_state(self) -> dict[str, Any]:
        """Return what `Tuner.restore` needs to resume the same runs."""
        return {"ids": dict(self._ids)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._ids = dict(state["ids"])

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks with the experiment; threads cannot be pickled."""
        return {**self.__dict__, "_threads": {}}

    def _begin(self, trial: Any, config: Mapping[str, Any]) -> RunThread:
        storage = trial.storage
        # Trial ids begin with five digits a session: they are unique within an experiment only.
        own = self._ids.setdefault(trial.trial_id, run_id(storage_path(storage), trial.trial_id))
        group = self._group or trial.experiment_dir_name
        arguments = {"id": own, "name": str(trial), "group": group, "reinit": "create_new"}
        arguments["config"] = {PARENT_GROUP_KEY: group}

        def start(offline: bool) -> Any:
            destination = self._destination.offline() if offline else self._destination
            run = begin(destination, arguments, config, storage)
            run.define_metric(STEP_KEY)
            run.define_metric("*", step_metric=STEP_KEY, step_sync=True)
            return run

        return RunThread(start)


def _without(tree: Mapping[str, Any], excluded: Set[str], above: str = "") -> dict[str, Any]:
    """Return a nested mapping without the keys ``excluded``, which are joined with ``/``."""
    kept: dict[str, Any] = {}
    for label, value in tree.items():
        key = f"{above}{label}"
        if key not in excluded:
            nested = isinstance(value, Mapping)
            kept[str(label)] = _without(value, excluded, f"{key}/") if nested else value
    return kept


def log_checkpoint(run: Any, checkpoint: Any, iteration: int | None) -> None:
    """Log a checkpoint as a version of the run's checkpoint artifact.

    Args:
        checkpoint: Ray's checkpoint, on any file system of pyarrow.
        iteration: of the training, for the artifact's alias and metadata.
    """
    import wandb

    metadata = {} if iteration is None else {STEP_KEY: iteration}
    artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=metadata)
    with checkpoint.as_directory() as folder:
        artifact.add_dir(folder)
    aliases = ["latest"] + ([] if iteration is None else [f"iteration-{iteration}"])
    run.log_artifact(artifact, aliases=aliases)
