"""A metric logger of torchtune that writes to Weights & Biases and MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torchtune.training.metric_logging import MetricLoggerInterface, save_config

from mlflow_wandb_plugin.core.redaction import without_secrets
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_torchtune.checkpoints import CheckpointLogging, Which, log_checkpoint
from mlflow_wandb_torchtune.session import STEP_KEY, Destination, Session

CONFIG_FILE = "torchtune_config.yaml"


class DualLogger(MetricLoggerInterface):
    """Logs a recipe to W&B and MLflow; takes the arguments of WandBLogger and MLFlowLogger.

    The run starts with `log_config`, or with the first metric if that is not called, or if the
    recipe resumes from a checkpoint. Only the process of rank zero logs. A helper process writes
    MLflow: when the recipe ends, training waits for it, at most for the setting ``finish_timeout``.

    Args:
        project: W&B's project, and MLflow's experiment unless ``experiment_name`` is given.
        entity: W&B's entity; None means the default one.
        group: W&B's group.
        log_dir: folder in which wandb writes, created if necessary; ``dir`` takes precedence.
        experiment_name: MLflow's experiment, may contain ``{project}`` and ``{entity}``; None
            means ``MLFLOW_WANDB_EXPERIMENT``, ``MLFLOW_EXPERIMENT_NAME``, or the project.
        tracking_uri: MLflow's tracking URI; None means MLflow's own setting.
        run_id: an MLflow run to resume; None means ``MLFLOW_RUN_ID``, or a new run.
        run_name: the run's name; ``name`` takes precedence.
        log_checkpoints: which checkpoints of the recipe become artifacts: all, the final one, or
            none.
        init: further arguments of ``wandb.init``.

    Raises:
        UsageError: an argument is invalid.
    """

    _session: Session | None = None
    _closed = True

    def __init__(
        self,
        project: str = "torchtune",
        entity: str | None = None,
        group: str | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        experiment_name: str | None = None,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
        log_checkpoints: Which | None = "none",
        **init: Any,
    ) -> None:
        log_checkpoints = log_checkpoints or "none"
        if log_checkpoints not in get_args(Which):
            choice = ", ".join(get_args(Which))
            raise UsageError(f"log_checkpoints must be one of {choice}: not {log_checkpoints!r}")
        self._config: Any = OmegaConf.create()
        self._rank = _global_rank()
        folder = init.pop("dir", log_dir)
        if folder is not None and self._rank == 0:
            Path(folder).mkdir(parents=True, exist_ok=True)
        named = {"name": run_name} if run_name else {}
        given = {name: _plain(value) for name, value in init.items()}
        where = {"project": project, "entity": entity, "group": group, "dir": folder}
        self._destination = Destination(
            named | given | where,
            tracking_uri,
            experiment_name or _experiment_of_mlflow(),
            run_id or os.environ.get("MLFLOW_RUN_ID", ""),
        )
        self._checkpoints = CheckpointLogging(log_checkpoints)
        self._closed = False

    # -- torchtune's interface ------------------------------------------------------------

    def log_config(self, config: Any) -> None:
        """Log the recipe's config, without passwords and keys.

        It becomes W&B's config, MLflow's params, and the file ``torchtune_config.yaml`` in both.

        Args:
            config: the recipe's ``DictConfig``.
        """
        if self._rank != 0 or self._closed:
            return
        save_config(config)
        self._config = config
        document = _resolved(config)
        self._checkpoints.watch(self._current_run, document)
        if self._session is not None:
            shown = without_secrets(document)
            self._session.run.config.update(shown, allow_val_change=True)
            self._save_config_file(self._session.run)
        elif not document.get("resume_from_checkpoint"):
            self._current_run()

    def log(self, name: str, data: Any, step: int) -> None:
        """Log one scalar; see `log_dict`."""
        self.log_dict({name: data}, step)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        """Log scalars: what wandb takes as a number, so tensors and arrays that hold one, too.

        Args:
            payload: values by name.
            step: W&B's x-axis ``global_step`` and MLflow's step; may decrease, as after a resume.
        """
        if self._rank != 0 or self._closed:
            return
        self._current_run().log({**payload, STEP_KEY: int(step)})

    def close(self) -> None:
        """End the run; as failed if an exception is being handled."""
        self._closed = True
        self._checkpoints.unwatch()
        if self._session is not None:
            self._session.end()

    def __del__(self) -> None:
        # The recipe crashed, the program continues, and nothing can call close() any more.
        if not self._closed:
            self._checkpoints.unwatch()
            if self._session is not None:
                self._session.abandon()

    # -- for custom recipes ---------------------------------------------------------------

    def log_checkpoint(
        self, path: str | os.PathLike[str], epoch: int, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Log a checkpoint as the W&B artifact ``torchtune_model_{epoch}`` and in MLflow.

        Does nothing on ranks other than zero. The files are read later, until the run ends: do not
        change them.

        Args:
            path: a file, or a folder, of which all files are logged.
            epoch: the checkpoint's epoch, counted from 0.
            metadata: about the checkpoint, such as ``seed`` and ``epochs_run``.

        Raises:
            UsageError: there is no such file, the folder is empty, or the logger is closed.
        """
        if self._rank == 0:
            if self._closed:
                raise UsageError("the logger is closed: log checkpoints before close()")
            log_checkpoint(self._current_run(), Path(path), epoch, metadata or {})

    def _current_run(self) -> Any:
        """Return the run; starts it, a resumed one not before there is something to log."""
        if self._session is None:
            config = _resolved(self._config)
            folder = config.get("output_dir")
            self._session = Session.begin(
                self._destination,
                without_secrets(config),
                Path(folder).absolute() if isinstance(folder, str) and folder else None,
                resume=bool(config.get("resume_from_checkpoint")),
            )
            if self._config:
                self._save_config_file(self._session.run)
        return self._session.run

    def _save_config_file(self, run: Any) -> None:
        try:
            file = Path(run.dir) / CONFIG_FILE
            # As YAML for ``tune run --config``: with interpolations, without secrets.
            document = without_secrets(OmegaConf.to_container(self._config, resolve=False))
            file.write_text(OmegaConf.to_yaml(OmegaConf.create(document)), encoding="utf-8")
            run.save(str(file), base_path=run.dir, policy="now")
        except Exception as error:
            # The config is logged in any case; only the file is missing.
            warn_once(f"{CONFIG_FILE} is not logged: {error}")


def _global_rank() -> int:
    """Return this process's rank in the training, 0 if there is only one process.

    It is that of torch.distributed's process group, or before that exists, that of torchrun's
    variables. ``RANK`` without ``WORLD_SIZE`` may be set by another tool and is ignored.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    rank = os.environ.get("RANK", "") if os.environ.get("WORLD_SIZE") else ""
    return int(rank) if rank.isdigit() else 0


def _resolved(config: Any) -> dict[str, Any]:
    """Return the config with its interpolations resolved, or unresolved if one of them fails."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[no-any-return]
    except OmegaConfBaseException:
        return OmegaConf.to_container(config, resolve=False)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """Convert OmegaConf's containers to dicts and lists; other values stay."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _experiment_of_mlflow() -> str | None:
    """Return MLflow's variable, which torchtune's MLFlowLogger reads, unless ours is set."""
    ours = os.environ.get("MLFLOW_WANDB_EXPERIMENT")
    return None if ours else os.environ.get("MLFLOW_EXPERIMENT_NAME")
