"""Find the logs of runs in local folders of wandb."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.wandb_log.run_folders import RUN_FOLDER, segment_of

_WANDB_FOLDERS = ("wandb", ".wandb")


@dataclass(frozen=True, slots=True)
class RunLog:
    """One log of a run; each resumption of a run starts another."""

    segment: str
    wandb_file: Path | None
    journal: Path | None = None

    @property
    def run_folder(self) -> Path | None:
        """Folder of the log and the run's files."""
        return None if self.wandb_file is None else self.wandb_file.parent


def find_logs(path: Path) -> list[RunLog]:
    """Return all logs at ``path``, oldest first."""
    if path.is_file():
        return [_log_of_file(path)]
    folders = [path] if RUN_FOLDER.match(path.name) else _run_folders(path)
    files = [file for folder in folders for file in sorted(folder.glob("*.wandb"))]
    logs = [_log_of_file(file) for file in files]
    seen = {log.segment for log in logs}
    below = () if path in folders else (path, *(path / name for name in _WANDB_FOLDERS))
    journal_folders = [path, *(folder / JOURNAL_DIR for folder in below)]
    logs += [
        RunLog(file.stem, None, file)
        for folder in journal_folders
        for file in sorted(folder.glob(f"*{frames.SUFFIX}"))
        if file.stem not in seen
    ]
    return sorted(logs, key=lambda log: log.segment)


def _run_folders(path: Path) -> list[Path]:
    for folder in (path, *(path / name for name in _WANDB_FOLDERS)):
        found = sorted(f for f in folder.glob("*run-*") if RUN_FOLDER.match(f.name) and f.is_dir())
        if found:
            return found
    return []


def _log_of_file(file: Path) -> RunLog:
    segment = segment_of(file)
    journal = file.parent.parent / JOURNAL_DIR / f"{segment}{frames.SUFFIX}"
    return RunLog(segment, file, journal if journal.is_file() else None)


def without_removed_journal(log: RunLog) -> RunLog:
    """Return ``log`` without its journal if that was delivered and removed since `find_logs`."""
    if log.journal is None or log.wandb_file is None or log.journal.is_file():
        return log
    return replace(log, journal=None)
