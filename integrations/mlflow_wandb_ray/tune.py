"""Log each Ray Tune trial as a run in W&B and in MLflow, grouped by experiment."""

from __future__ import annotations

import glob
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.air.integrations import wandb as rays

from mlflow_wandb_plugin.core.identity import PARENT_GROUP_KEY
from mlflow_wandb_ray.arguments import MissingArgumentError, check_init_arguments, find_experiment
from mlflow_wandb_ray.run_thread import RunThread, not_logged, report
from mlflow_wandb_ray.runs import Destination, begin, group_of, project_of, run_id, shown
from mlflow_wandb_ray.runs import storage_path as path_of

STEP_KEY = "training_iteration"
FAILED, INTERRUPTED = 1, 255


class DualLoggerCallback(rays.WandbLoggerCallback):
    """Logs trials as runs of one W&B group, and of one parent run in MLflow.

    Takes the arguments of Ray's ``WandbLoggerCallback`` and ``MLflowLoggerCallback``, by position
    those of the first, and logs what Ray's callback for W&B logs, by the same names. The calls are
    made by threads of the driver. ``Tuner.restore`` resumes the same runs. MLflow's steps are
    Tune's training iterations. A param that changes while a trial runs, as with population based
    training, is its first value among MLflow's params and its last one in W&B's config and MLflow's
    ``wandb/config.json``.

    Args:
        project: W&B's project; None means ``WANDB_PROJECT_NAME``, ``WANDB_PROJECT``, or the name of
            MLflow's experiment.
        group: of W&B, and the name of the parent run; None means ``WANDB_GROUP_NAME``, or the
            experiment's name.
        api_key_file, api_key: W&B's key; neither is stored with the experiment.
        excludes: keys of the config, and of results with all below them, to leave out; ``/`` joins
            nested keys.
        log_config: log the numbers of the config with each result, too. A config that changes is
            updated in any case.
        upload_checkpoints: log each checkpoint that Tune keeps of a trial as an artifact of type
            ``model``, on any file system. ``save_checkpoints`` is its old name.
        upload_timeout: seconds to wait for the runs at the end of the experiment.
        video_kwargs, image_kwargs: arguments of ``wandb.Video`` and ``wandb.Image``, which results
            that are arrays become.
        tracking_uri, registry_uri, tracking_token: of MLflow; None means MLflow's own settings.
        experiment_name: of MLflow; None means what ``MLFLOW_EXPERIMENT_ID`` or
            ``MLFLOW_EXPERIMENT_NAME`` names, or the setting of this package.
        tags: a mapping has MLflow's tags, a sequence W&B's.
        save_artifact: at the trial's end, log the files of its local folder.
        log_params_on_trial_end: log the config at the trial's end.
        databricks_config_file: what ``databricks configure`` wrote, on storage of all nodes.
        init: further arguments of ``wandb.init``.

    Raises:
        UnknownArgumentError: an argument is unknown.
    """

    def __init__(
        self,
        project: str | None = None,
        group: str | None = None,
        api_key_file: str | None = None,
        api_key: str | None = None,
        excludes: Sequence[str] | None = None,
        log_config: bool = False,
        upload_checkpoints: bool = False,
        save_checkpoints: bool = False,
        upload_timeout: float = rays.DEFAULT_SYNC_TIMEOUT,
        video_kwargs: dict[str, Any] | None = None,
        image_kwargs: dict[str, Any] | None = None,
        *,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        experiment_name: str | None = None,
        tags: Any = None,
        tracking_token: str | None = None,
        save_artifact: bool = False,
        log_params_on_trial_end: bool = False,
        databricks_config_file: str | None = None,
        **init: Any,
    ) -> None:
        check_init_arguments(type(self).__name__, init)
        super().__init__(
            project, group, api_key_file, api_key, excludes, log_config, upload_checkpoints,
            save_checkpoints, upload_timeout, video_kwargs, image_kwargs, **init,
        )  # fmt: skip
        self.tracking_uri, self.registry_uri = tracking_uri, registry_uri
        self.experiment_name, self.tags, self.tracking_token = experiment_name, tags, tracking_token
        self.should_save_artifact = save_artifact
        self.log_params_on_trial_end = log_params_on_trial_end
        self._databricks_config_file = databricks_config_file
        self._ids: dict[str, str] = {}
        self._threads: dict[str, RunThread] = {}
        self._ending: list[RunThread] = []
        self._configs: dict[str, dict[str, Any]] = {}
        self._saved: dict[str, Any] = {}
        self._any_logged = False
        self._error: Exception | None = None

    def __del__(self) -> None:
        """Ray's own ends its actors here; these runs end with their threads."""

    # -- Tune's interface -----------------------------------------------------------------

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Called on the driver before the first trial.

        Raises:
            ValueError: there is no W&B key, no project, or no such experiment.
        """
        self.experiment_name = find_experiment(
            self.tracking_uri, None, self.experiment_name, create=True,
            registry_uri=self.registry_uri, tracking_token=self.tracking_token,
        )  # fmt: skip
        self.project: str | None = project_of({"project": self.project}, self.experiment_name)
        if not self.project:
            raise MissingArgumentError(
                f"pass project or experiment_name, or set {rays.WANDB_PROJECT_ENV_VAR}"
            )
        self.group: str | None = group_of({"group": self.group})
        self._destination().provide_key()

    def log_trial_start(self, trial: Any) -> None:
        """Also called when a trial is restarted, perhaps with another config."""
        config = self._config_of(trial)
        if trial.trial_id in self._threads:
            self._update_config(trial, config)
        else:
            self._configs[trial.trial_id] = dict(config)
            self._threads[trial.trial_id] = self._begin(trial, config)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if trial.trial_id not in self._threads:
            self.log_trial_start(trial)
        clean = rays._clean_log(
            dict(result), video_kwargs=self.video_kwargs, image_kwargs=self.image_kwargs
        )
        excluded = [
            *self._exclude_results,
            *self.excludes,
            *([] if self.log_config else ["config"]),
        ]
        rules = SimpleNamespace(_exclude=set(excluded), _to_config=set(self.AUTO_CONFIG_KEYS))
        row, config = rays._WandbLoggingActor._handle_result(rules, clean)
        self._update_config(trial, shown(config))
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
        if not self.upload_checkpoints or thread is None or checkpoint is None:
            return
        # The trial's last result may be a later one.
        latest = trial.latest_checkpoint_result
        at = (latest.metrics or {}).get(STEP_KEY) if latest else None
        thread.call(lambda run: log_checkpoint(run, checkpoint, at))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        thread = self._threads.pop(trial.trial_id, None)
        self._configs.pop(trial.trial_id, None)
        if thread is None:
            return
        if self.should_save_artifact:
            thread.call(lambda run: save_files(run, Path(trial.local_path)))
        if self.log_params_on_trial_end:
            config = self._config_of(trial, at_end=True)
            thread.call(lambda run: run.config.update(config, allow_val_change=True))
        thread.end(FAILED if failed else 0)
        self._note_ended()
        self._ending.append(thread)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Wait for the runs; those of interrupted trials get an exit code of their own.

        Raises:
            NotLoggedError: nothing of the experiment could be logged.
        """
        for thread in self._threads.values():
            thread.end(INTERRUPTED)
        self._ending += self._threads.values()
        self._threads.clear()
        deadline = time.monotonic() + self._upload_timeout
        for thread in self._ending:
            thread.wait(max(0.0, deadline - time.monotonic()))
        self._note_ended()
        if self._ending:
            report(f"{len(self._ending)} runs are not complete after {self._upload_timeout} s")
        if self._error is not None and not self._any_logged:
            raise not_logged(self._error)

    def get_state(self) -> dict[str, Any]:
        """Return what `Tuner.restore` needs to resume the same runs."""
        return {"ids": dict(self._ids)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._ids = dict(state["ids"])

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks with the experiment: without threads, and without keys."""
        dropped: dict[str, Any] = {
            "_threads": {},
            "_ending": [],
            "api_key": None,
            "tracking_token": None,
        }
        return {**self.__dict__, **dropped}

    def _note_ended(self) -> None:
        """Forget the runs that have ended."""
        for thread in self._ending:
            if thread.done:
                self._any_logged |= thread.error is None
                self._error = self._error or thread.error
        self._ending = [thread for thread in self._ending if not thread.done]

    def _destination(self, trial_name: str = "") -> Destination:
        init = {**self.kwargs, "project": self.project}
        settings = {"tracking_uri": self.tracking_uri, "experiment": self.experiment_name}
        tags = {"trial_name": trial_name}
        if isinstance(self.tags, Mapping):
            tags |= self.tags
        elif self.tags:
            init["tags"] = self.tags
        of_nodes = self.api_key, self.api_key_path, self._databricks_config_file
        return Destination(init, settings, tags, *of_nodes)

    def _update_config(self, trial: Any, config: Mapping[str, Any]) -> None:
        """Log what has changed in a trial's config."""
        known = self._configs[trial.trial_id]
        changed = {
            key: value
            for key, value in config.items()
            if known.get(key) != value and self._is_logged_now(key)
        }
        if changed:
            known.update(changed)
            self._threads[trial.trial_id].call(
                lambda run: run.config.update(changed, allow_val_change=True)
            )

    def _is_logged_now(self, key: str) -> bool:
        return not self.log_params_on_trial_end or key in self.AUTO_CONFIG_KEYS

    def _config_of(self, trial: Any, at_end: bool = False) -> dict[str, Any]:
        config = shown(rays._clean_log(trial.config or {}))
        left_out = {"callbacks", *self.excludes}
        return {
            key: value
            for key, value in config.items()
            if key not in left_out and (at_end or self._is_logged_now(key))
        }

    def _begin(self, trial: Any, config: Mapping[str, Any]) -> RunThread:
        storage, name = trial.storage, str(trial)
        # Trial ids begin with five digits a session: they are unique within an experiment only.
        own = self._ids.setdefault(trial.trial_id, run_id(path_of(storage), str(trial.trial_id)))
        group = self.group or trial.experiment_dir_name
        about = {PARENT_GROUP_KEY: group, "trial_log_path": str(trial.local_path)}
        arguments = {"id": own, "name": name, "group": group, "config": about}
        destination = self._destination(name)

        def start(offline: bool) -> Any:
            given = destination.offline() if offline else destination
            run = begin(given, arguments, config, storage, several=True)
            run.define_metric(STEP_KEY)
            run.define_metric("*", step_metric=STEP_KEY, step_sync=True)
            return run

        return RunThread(start)


class MLflowLoggerCallback(DualLoggerCallback):
    """`DualLoggerCallback` with the first argument of Ray's callback of this name."""

    def __init__(self, tracking_uri: str | None = None, **options: Any) -> None:
        super().__init__(tracking_uri=tracking_uri, **options)


def log_checkpoint(run: Any, checkpoint: Any, iteration: int | None) -> None:
    """Log a checkpoint as a version of the run's checkpoint artifact.

    Args:
        checkpoint: Ray's checkpoint, on any file system of pyarrow.
        iteration: of the training, for the artifact's alias and metadata.
    """
    import wandb

    metadata = {} if iteration is None else {STEP_KEY: iteration}
    name = re.sub(r"[^\w.-]", "_", f"checkpoint_{run.name}")
    artifact = wandb.Artifact(name, type="model", metadata=metadata)
    with checkpoint.as_directory() as folder:
        artifact.add_dir(folder)
    aliases = ["latest"] + ([] if iteration is None else [f"iteration-{iteration}"])
    run.log_artifact(artifact, aliases=aliases)


def save_files(run: Any, folder: Path) -> None:
    """Save copies of the files of a folder below ``trial`` among the run's files."""
    copies = Path(run.dir) / "trial"
    shutil.copytree(folder, copies, dirs_exist_ok=True)
    for file in sorted(copies.rglob("*")):
        if file.is_file():
            run.save(glob.escape(str(file)), base_path=run.dir, policy="now")


WandbLoggerCallback = DualLoggerCallback
"""`DualLoggerCallback` by the name that Ray's own callback has."""
