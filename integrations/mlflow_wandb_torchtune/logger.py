"""torchtune's metric logger that writes to Weights & Biases and MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torchtune.training.metric_logging import MetricLoggerInterface, save_config

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_torchtune import recipe_config
from mlflow_wandb_torchtune.checkpoints import CheckpointLogging, Which, log_checkpoint
from mlflow_wandb_torchtune.ranks import global_rank
from mlflow_wandb_torchtune.session import STEP_KEY, Homes, Session

CONFIG_FILE = "torchtune_config.yaml"


class DualLogger(MetricLoggerInterface):
    """One recipe, two homes. Takes the arguments of torchtune's WandBLogger and MLFlowLogger.

    The run begins with `log_config`, or with the first metric where there is none; only the
    process of rank zero logs. MLflow is written by a helper process: training waits for it when
    the recipe ends, no longer than the setting ``finish_timeout``.

    Args:
        project: W&B's project; MLflow's experiment, unless ``experiment_name`` says otherwise.
        entity: W&B's entity; None means your default one.
        group: W&B's group.
        log_dir: folder below which wandb writes, created if need be; ``dir`` stands over it.
        experiment_name: MLflow's experiment, maybe with ``{project}`` and ``{entity}``; None
            means ``MLFLOW_WANDB_EXPERIMENT``, ``MLFLOW_EXPERIMENT_NAME``, or the project.
        tracking_uri: MLflow's; None means as MLflow itself has it.
        run_id: a run of MLflow's to go on in; None means ``MLFLOW_RUN_ID``, or a new run.
        run_name: the run's name in both homes; ``name`` stands over it.
        log_checkpoints: which checkpoints of the recipe become artifacts: all, the final one, or
            none.
        init: further arguments of ``wandb.init``.

    Raises:
        UsageError: an argument does not fit.
    """

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
        self._session: Session | None = None
        self._closed = False
        self._rank = global_rank()
        folder = init.pop("dir", log_dir)
        if folder is not None and self._rank == 0:
            Path(folder).mkdir(parents=True, exist_ok=True)
        named = {"name": run_name} if run_name else {}
        given = {name: recipe_config.plain(value) for name, value in init.items()}
        where = {"project": project, "entity": entity, "group": group, "dir": folder}
        self._homes = Homes(
            named | given | where,
            tracking_uri,
            experiment_name or _experiment_of_mlflow(),
            run_id or os.environ.get("MLFLOW_RUN_ID", ""),
        )
        self._checkpoints = CheckpointLogging(log_checkpoints)

    # -- torchtune's interface ------------------------------------------------------------

    def log_config(self, config: Any) -> None:
        """Begin the run and log the recipe's whole config: as W&B's config, as MLflow's params,
        and as the file ``torchtune_config.yaml`` in both. Passwords and keys are left out.

        Args:
            config: the recipe's ``DictConfig``.
        """
        if self._rank != 0 or self._closed:
            return
        save_config(config)
        document = recipe_config.resolved(config)
        if self._session is None:
            self._begin(document)
        else:
            shown = recipe_config.shown(document)
            self._current_run().config.update(shown, allow_val_change=True)
        self._save_config_file(config)
        self._checkpoints.watch(self._current_run(), document)

    def log(self, name: str, data: Any, step: int) -> None:
        """Log one scalar; see `log_dict`."""
        self.log_dict({name: data}, step)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        """Log scalars: numbers, or tensors and arrays that hold one.

        Args:
            payload: values by name.
            step: W&B's x-axis ``global_step`` and MLflow's step. It may fall, as after a resume.
        """
        if self._rank != 0 or self._closed:
            return
        run = self._current_run()
        run.log({**{name: _number(value) for name, value in payload.items()}, STEP_KEY: int(step)})

    def close(self) -> None:
        """End the run in both homes. Called while an exception goes by, it ends it as failed."""
        self._closed = True
        self._checkpoints.unwatch()
        if self._session is not None:
            self._session.end()

    def __del__(self) -> None:
        # A recipe that crashed inside a program that goes on: nobody can close us any more.
        session = getattr(self, "_session", None)
        if session is not None and not session.ended:
            self._checkpoints.unwatch()
            session.abandon()

    # -- for custom recipes ---------------------------------------------------------------

    def log_checkpoint(
        self,
        path: str | os.PathLike[str],
        epoch: int,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Log a checkpoint as the W&B artifact ``torchtune_model_{epoch}`` and in MLflow.

        Does nothing on other ranks than zero. The files are read after this returns, until the
        run ends: leave them as they are.

        Args:
            path: a file, or a folder, of which all files are taken.
            epoch: the epoch that it belongs to, counted from 0.
            metadata: about the checkpoint, such as ``seed`` and ``epochs_run``.

        Raises:
            UsageError: there is no such file, the folder is empty, or the logger is closed.
        """
        if self._rank == 0:
            if self._closed:
                raise UsageError("the logger is closed: log checkpoints before close()")
            log_checkpoint(self._current_run(), Path(path), epoch, metadata or {})

    # -- the run --------------------------------------------------------------------------

    def _current_run(self) -> Any:
        if self._session is None:
            self._begin({})
        assert self._session is not None
        return self._session.run

    def _begin(self, config: Mapping[str, Any]) -> None:
        output_dir = config.get("output_dir")
        self._session = Session.begin(
            self._homes,
            recipe_config.shown(dict(config)),
            Path(output_dir).absolute() if isinstance(output_dir, str) and output_dir else None,
            resume=bool(config.get("resume_from_checkpoint")),
        )

    def _save_config_file(self, config: Any) -> None:
        run = self._current_run()
        try:
            file = Path(run.dir) / CONFIG_FILE
            file.write_text(recipe_config.as_yaml(config), encoding="utf-8")
            run.save(str(file), base_path=run.dir, policy="now")
        except Exception as error:
            # The config is in both homes all the same.
            warn_once(f"{CONFIG_FILE} is not logged: {error}")


def _experiment_of_mlflow() -> str | None:
    """MLflow's own variable, which torchtune's MLFlowLogger honours, unless ours is set."""
    ours = os.environ.get("MLFLOW_WANDB_EXPERIMENT")
    return None if ours else os.environ.get("MLFLOW_EXPERIMENT_NAME")


def _number(value: Any) -> Any:
    """The one number in a tensor or array; anything else is W&B's to judge."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.detach()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        return value.item()
    return value
