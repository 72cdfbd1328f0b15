"""Write one W&B run with the wandb SDK, as the mirror of one MLflow run."""

from __future__ import annotations

import glob
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_wandb_plugin.core.atomic_files import link_or_copy, replaced
from mlflow_wandb_plugin.core.private_files import private_folder
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.models import DELETED, Model
from mlflow_wandb_plugin.targets.wandb import models
from mlflow_wandb_plugin.targets.wandb.lookup import Mode, RunAddress
from mlflow_wandb_plugin.targets.wandb.sdk_errors import translated_errors

if TYPE_CHECKING:
    import wandb

USER_RUN_VARIABLES = (
    "RUN_ID", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "RESUME", "SWEEP_ID",
    "SWEEP_PARAM_PATH", "PROGRAM", "HOST", "USERNAME", "SERVICE", "FORK_FROM", "RESUME_FROM",
)  # fmt: skip
"""``WANDB_…`` variables that describe a run of the user's own, and no mirrored run."""


def unset_user_run_variables() -> None:
    for name in USER_RUN_VARIABLES:
        os.environ.pop(f"WANDB_{name}", None)


class Description(NamedTuple):
    """Name, notes, W&B tags and config of a run. None leaves a name or notes as they are."""

    name: str | None
    notes: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any]


class WandbRunWriter:
    """Writes one run.

    Args:
        folder: where wandb keeps its files while the run is open.
        sets_final_state: whether `finish` sets the run's state in W&B.
        source: fields of `wandb.Settings` for the program and its git commit.

    Attributes:
        next_row: number of the first history row that W&B lacks; callers leave out earlier ones.
        losses: what could not be shown, since the caller last cleared the list.

    Raises from every method:
        TargetUnavailableError: W&B did not answer.
        TargetError: W&B or its SDK refused.
    """

    def __init__(
        self,
        address: RunAddress,
        mode: Mode,
        folder: Path,
        description: Description,
        sets_final_state: bool,
        group: str | None,
        source: Mapping[str, str],
    ) -> None:
        import wandb

        self.losses: list[str] = []
        self.online = mode == "online"
        self._sent = description
        self._sent_config = dict(description.config)
        with translated_errors():
            private_folder(folder)
            self._run = wandb.init(
                id=address.run_id,
                project=address.project,
                entity=address.entity or None,
                mode=mode,
                dir=str(folder),
                resume="allow",
                reinit="create_new",
                name=description.name,
                notes=description.notes,
                group=group,
                tags=list(description.tags) or None,
                config=dict(description.config),
                settings=_settings({"x_update_finish_state": sets_final_state, **source}),
            )
            # A row without MLflow's step, such as that of a file, gets none from another row.
            self._run.define_metric("*", step_metric=rules.STEP_METRIC, step_sync=False)
            self._run.define_metric(rules.STEP_METRIC, summary="none")
        self.next_row = int(self._run.starting_step)
        self.entity = str(self._run.entity or address.entity)
        self.url = str(self._run.url or "") if self.online else ""
        self.folder = Path(self._run.dir).parent
        self._path = f"{self.entity}/{self._run.project}/{self._run.id}"

    def log(self, number: int, document: Mapping[str, Any]) -> None:
        """Write row ``number``, which becomes W&B's ``_step``."""
        with translated_errors():
            self._run.log(dict(document), step=number, commit=True)

    def log_image(self, number: int, name: rules.ImageName, local: Path | None, at_ms: int) -> None:
        """Write an image as row ``number``; the row is without it if wandb cannot read it.

        Args:
            local: None if there is no file.
            at_ms: time of the row in Unix ms, where the image's name has none.
        """
        row: dict[str, Any] = {"_timestamp": (name.timestamp_ms or at_ms) / 1000}
        if name.step is not None:
            row[rules.STEP_METRIC] = name.step
        try:
            if local is not None:
                row[name.key] = read_image(local)
        except Exception as error:
            self.losses.append(f"image not shown ({type(error).__name__})")
        self.log(number, row)

    def log_table(
        self, number: int, key: str, columns: Sequence[str | int], data: list[list[Any]], at_ms: int
    ) -> None:
        """Write a table as row ``number``; the row is without it if wandb does not accept it."""
        import wandb

        row: dict[str, Any] = {"_timestamp": at_ms / 1000}
        try:
            row[key] = wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)
        except Exception as error:
            self.losses.append(f"table not shown ({type(error).__name__})")
        self.log(number, row)

    def describe(self, description: Description) -> None:
        """Send the parts of the description that have changed."""
        sent, config = self._sent, description.config
        changed = {key: config[key] for key in config if self._sent_config.get(key) != config[key]}
        with translated_errors():
            if description.name and description.name != sent.name:
                self._run.name = description.name
            if description.notes is not None and description.notes != sent.notes:
                self._run.notes = description.notes
            if description.tags and description.tags != sent.tags:
                self._run.tags = description.tags
            if changed:
                update: Any = self._run.config.update
                update(changed, allow_val_change=True)
        self._sent = description
        self._sent_config.update(changed)

    def summarize(self, values: Mapping[str, float]) -> None:
        """Set values of the summary, where W&B has what was logged last.

        A NaN is left to what was logged last: the SDK takes one for a value that is removed.
        """
        with translated_errors():
            self._run.summary.update({key: v for key, v in values.items() if not math.isnan(v)})

    def save(self, files: Mapping[str, Path]) -> None:
        """Upload ``files``, by their path in the run; they are linked or copied at once."""
        root = Path(self._run.dir)
        with translated_errors():
            for path, local in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                # In one step: wandb-core may be reading the file that was there before.
                with replaced(target) as temporary:
                    link_or_copy(local, temporary)
                # The file is in the run's folder already: save only has wandb-core upload it.
                self._run.save(glob.escape(str(target)), base_path=str(root), policy="now")

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files and folders of the run, as far as W&B has them."""
        for path in paths:
            target = Path(self._run.dir, path)
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
        if self.online:
            with translated_errors():
                models.delete_files(self._path, paths)

    def log_model(self, model: Model) -> None:
        """Log a model as an artifact, or bring the artifact that W&B has of it up to date."""
        with translated_errors():
            known = self.online and models.find(self._path, model.model_id)
            if known:
                models.update(self._run, known, model)
            elif model.status != DELETED:
                models.log(self._run, model, wait=self.online)

    def set_alias(self, name: str, alias: str, version: str | None) -> None:
        """Move an alias of a registered model to the run's model that is ``version`` of it.

        Only online: W&B is asked for the models.
        """
        with translated_errors():
            models.set_alias(self._path, name, alias, version)

    def use_dataset(self, dataset: Mapping[str, Any]) -> None:
        """Mark a dataset as used by the run, except in the SDK's offline mode, which cannot."""
        if self.online:
            with translated_errors():
                models.use_dataset(self._run, dataset)

    def finish(self, exit_code: int) -> None:
        """Wait until wandb-core has sent everything, and end the run."""
        tags_removed = self.online and self._run.tags and not self._sent.tags
        with translated_errors():
            self._run.finish(exit_code=exit_code)
            if tags_removed:
                # The SDK's record of a run cannot express that the last tag was removed.
                models.remove_tags(self._path)


def read_image(local: Path) -> wandb.Image:
    """Read an image file. Any thread may call this.

    Pillow is imported before wandb does it: wandb imports it lazily and without a lock, and two
    threads that do so at once get two modules, one of which recognises no format from then on.

    Raises:
        Exception: Pillow is not installed or cannot read the file.
    """
    import PIL.Image  # noqa: F401
    import wandb

    return wandb.Image(str(local))


def _settings(more: Mapping[str, Any]) -> wandb.Settings:
    """wandb's settings for a run that describes another process; those that wandb knows."""
    import wandb

    settings = {
        "console": "off",
        "silent": True,
        "disable_code": True,
        "disable_git": True,
        "save_code": False,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        **more,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(
        **{key: value for key, value in settings.items() if key in known and value is not None}
    )
