"""One W&B run being written with the wandb SDK, as the mirror of one MLflow run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.errors import TargetError, TargetUnavailableError
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.targets.wandb import models
from mlflow_wandb_plugin.targets.wandb.lookup import Mode

if TYPE_CHECKING:
    import wandb

NOT_OURS = (
    "RUN_ID", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "RESUME", "SWEEP_ID",
    "SWEEP_PARAM_PATH", "PROGRAM", "HOST", "USERNAME", "SERVICE", "FORK_FROM", "RESUME_FROM",
)  # fmt: skip
"""``WANDB_…`` variables that a user sets for a run of their own: no mirrored run heeds them."""

TABLE_BYTES = 50_000_000
"""A larger table is not read to be shown; its file is carried."""


class CoreGoneError(TargetUnavailableError):
    """wandb-core died. No run can be written from this process any more."""


def forget_users_run() -> None:
    """Take variables that describe a run of the user's out of this process's environment."""
    for name in NOT_OURS:
        os.environ.pop(f"WANDB_{name}", None)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a W&B run is opened with. ``folder`` is where wandb keeps its files meanwhile. ``ends``
    says that the run's state may be set at its end."""

    run_id: str
    project: str
    entity: str
    mode: Mode
    folder: Path
    ends: bool = True
    name: str | None = None
    notes: str | None = None
    group: str | None = None
    labels: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)


class WandbRunWriter:
    """Writes one run. Rows that W&B has are told by `next_row`: the caller leaves them out.

    Raises from every method:
        TargetUnavailableError: W&B did not answer.
        TargetError: W&B or its SDK refused.
    """

    def __init__(self, opening: Opening) -> None:
        self.mode = opening.mode
        self.losses: list[str] = []
        self._sent: dict[str, Any] = dict(opening.config)
        self._said = (opening.name, opening.notes, opening.labels)
        with _translated():
            self._run = _open(opening)
            self._run.define_metric("*", step_metric=rules.STEP)
        self.next_row = int(self._run.starting_step)
        self.entity = str(self._run.entity or opening.entity)
        self.url = str(self._run.url or "") if opening.mode == "online" else ""
        self.folder = Path(self._run.dir).parent

    # -- rows -----------------------------------------------------------------------------

    def log(self, number: int, document: Mapping[str, Any]) -> None:
        """Write row ``number``; W&B's ``_step`` is that number."""
        with _translated():
            self._run.log(dict(document), step=number, commit=True)

    def show(self, number: int, picture: rules.Picture, local: Path, at_ms: int) -> None:
        """Write an image as row ``number``. What cannot be shown leaves a row without it."""
        import wandb

        document = _stamp(picture.step, picture.timestamp_ms or at_ms)
        try:
            document[picture.key] = wandb.Image(str(local))
        except Exception as error:
            self.losses.append(f"image not shown ({type(error).__name__})")
        self.log(number, document)

    def tabulate(
        self, number: int, key: str, columns: Sequence[str | int], data: list[list[Any]], at_ms: int
    ) -> None:
        """Write a table as row ``number``."""
        import wandb

        document = _stamp(None, at_ms)
        try:
            document[key] = wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)
        except Exception as error:
            self.losses.append(f"table not shown ({type(error).__name__})")
        self.log(number, document)

    # -- what describes the run -----------------------------------------------------------

    def describe(
        self,
        name: str | None,
        notes: str | None,
        labels: tuple[str, ...],
        config: Mapping[str, Any],
    ) -> None:
        """Name, notes, W&B's tags and config; what has not changed is not sent."""
        before_name, before_notes, before_labels = self._said
        changed = {key: value for key, value in config.items() if self._sent.get(key) != value}
        with _translated():
            if name and name != before_name:
                self._run.name = name
            if notes is not None and notes != before_notes:
                self._run.notes = notes
            if labels and labels != before_labels:
                self._run.tags = labels
            if changed:
                update: Any = self._run.config.update
                update(changed, allow_val_change=True)
        self._said = (name, notes, labels)
        self._sent.update(changed)

    # -- files and artifacts --------------------------------------------------------------

    def save(self, files: Mapping[str, Path]) -> None:
        """Make ``files`` the run's, by their path; they are linked or copied at once."""
        root = Path(self._run.dir)
        with _translated():
            for path, local in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(local, target)
                # Already below the run's folder: save only tells wandb-core to upload it.
                self._run.save(_literal(target), base_path=str(root), policy="now")

    def drop(self, paths: Sequence[str]) -> None:
        """Take files, and whatever is below them, from the run, as far as W&B has them."""
        for path in paths:
            target = Path(self._run.dir, path)
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
        if self.mode == "online":
            with _translated():
                models.delete_files(self._path, paths)

    def model(self, model: models.Model) -> None:
        """Log a model, or make what W&B has of it equal to ``model``."""
        with _translated():
            known = self._online and models.find(self._path, model.model_id)
            if known:
                models.update(self._run, known, model)
            elif model.status != models.DELETED:
                models.log(self._run, model, wait=self._online)

    def alias(self, name: str, alias: str, version: str | None) -> bool:
        """Move an alias of a registered model among the run's models; False where W&B cannot be
        asked for them (the SDK's offline mode)."""
        if not self._online:
            return False
        with _translated():
            models.set_alias(self._path, name, alias, version)
        return True

    def use_dataset(self, dataset: Mapping[str, Any]) -> bool:
        """Mark a dataset as used by the run; False where W&B cannot (the SDK's offline mode)."""
        if not self._online:
            return False
        with _translated():
            models.use_dataset(self._run, dataset)
        return True

    def finish(self, exit_code: int) -> None:
        """Wait until wandb-core has sent everything, and end the run."""
        unlabelled = self._online and self._run.tags and not self._said[2]
        with _translated():
            self._run.finish(exit_code=exit_code)
            if unlabelled:
                # The SDK's record of a run cannot say "no tags any more".
                models.clear_labels(self._path)

    @property
    def _online(self) -> bool:
        return self.mode == "online"

    @property
    def _path(self) -> str:
        return f"{self.entity}/{self._run.project}/{self._run.id}"


def _open(opening: Opening) -> wandb.Run:
    import wandb

    settings: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "disable_code": True,
        "disable_git": True,
        "save_code": False,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "x_update_finish_state": opening.ends,
        **opening.source,
    }
    known = wandb.Settings.model_fields
    opening.folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {
        "name": opening.name,
        "notes": opening.notes,
        "group": opening.group,
        "tags": list(opening.labels) or None,
    }
    return wandb.init(
        id=opening.run_id,
        project=opening.project,
        entity=opening.entity or None,
        mode=opening.mode,
        dir=str(opening.folder),
        resume="allow",
        reinit="create_new",
        config=dict(opening.config),
        settings=wandb.Settings(
            **{key: value for key, value in settings.items() if key in known and value is not None}
        ),
        **{key: value for key, value in described.items() if value is not None},
    )


def _stamp(step: int | None, at_ms: int) -> dict[str, Any]:
    stamp: dict[str, Any] = {"_timestamp": at_ms / 1000}
    return stamp if step is None else stamp | {rules.STEP: step}


def _link(local: Path, target: Path) -> None:
    """Put ``local`` at ``target`` in one step: W&B may be reading what stood there before."""
    temporary = target.with_name(f".{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(local, temporary)
    except OSError:
        shutil.copyfile(local, temporary)
    os.replace(temporary, target)


def _literal(path: Path) -> str:
    import glob

    return glob.escape(str(path))


@contextlib.contextmanager
def _translated() -> Any:
    """wandb's errors as ours."""
    import wandb

    try:
        yield
    except ConnectionError as error:
        raise CoreGoneError(f"wandb-core is gone: {_one_line(error)}") from error
    except (wandb.errors.CommError, TimeoutError) as error:
        raise TargetUnavailableError(f"W&B: {_one_line(error)}") from error
    except Exception as error:
        if type(error).__name__ == "MailboxClosedError":
            raise CoreGoneError("wandb-core is gone") from error
        raise TargetError(f"W&B: {type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
