"""The writer of one W&B run: opened when there is something to write, closed when it has ended."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.replicator.mirrored_run import MirroredRunState
from mlflow_wandb_plugin.targets.wandb.lookup import Mode, RunAddress
from mlflow_wandb_plugin.targets.wandb.run_writer import Description, Opening, WandbRunWriter
from mlflow_wandb_plugin.wandb_api.address import wandb_folder


class WriterSession:
    """Opens, holds and closes the `WandbRunWriter` of a mirrored run.

    Args:
        folder: where wandb keeps its files until W&B has them, or (offline) the run is complete.
        server: whether an MLflow server writes the journal, so that the run may go on later.

    Attributes:
        writer: None while the W&B run is not open.
        sets_final_state: whether closing the open run sets its state in W&B.
    """

    def __init__(self, address: RunAddress, mode: Mode, folder: Path, server: bool) -> None:
        self.address = address
        self.mode = mode
        self.writer: WandbRunWriter | None = None
        self.sets_final_state = False
        self._folder = folder
        self._server = server
        shutil.rmtree(folder, ignore_errors=True)

    def open(
        self, state: MirroredRunState, description: Description, final: bool = False
    ) -> WandbRunWriter:
        """Open the W&B run; ``final`` if only to set its final state."""
        self.sets_final_state = final or self.mode == "offline" or not self._server or state.ended
        opening = Opening(
            self.address,
            self.mode,
            self._folder,
            description,
            self.sets_final_state,
            group=state.parent,
            source=rules.source_settings(state.tags),
        )
        self.writer = WandbRunWriter(opening)
        return self.writer

    def close(self, exit_code: int) -> Path | None:
        """End the W&B run, if it is open, and return the folder that wandb wrote."""
        writer, self.writer = self.writer, None
        if writer is None:
            return None
        writer.finish(exit_code)
        return writer.folder

    def abandon(self) -> None:
        """End a W&B run that is still open; another attempt sends what it lacks. Never raises."""
        with contextlib.suppress(MlflowWandbError):
            self.close(rules.KILLED_EXIT_CODE)

    def delete_files(self) -> None:
        """Delete wandb's files of the run."""
        shutil.rmtree(self._folder, ignore_errors=True)


def place_offline_run(written: Path, report: Callable[[Path], None]) -> None:
    """Move a complete offline run to where wandb has such runs; a partial one never appears there.

    Args:
        report: called with the path that it will have, before it is moved.
    """
    target = wandb_folder() / written.name
    for number in range(1, 1000):
        if not target.exists():
            break
        target = target.with_name(f"{written.name}-{number}")
    report(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(written, target)


def delete_offline_runs(folders: list[str]) -> None:
    """Delete offline runs that an interrupted attempt has placed."""
    for folder in map(Path, folders):
        if folder.name.startswith("offline-run-") and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
