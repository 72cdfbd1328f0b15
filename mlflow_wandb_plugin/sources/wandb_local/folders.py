"""Find the logs of runs in local folders of wandb, whatever the folders are called."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.wandb_log.first_record import RunStart, run_start
from mlflow_wandb_plugin.wandb_log.run_folders import RUN_FOLDER, segment_of

_WANDB_FOLDERS = ("wandb", ".wandb")
_SUFFIX = ".wandb"
_OTHER_FOLDERS = (JOURNAL_DIR, outbox.FORMER_FOLDER, "sweep-", "__pycache__")
"""Folders beside run folders that hold no run, or the beginning of their names."""


@dataclass(frozen=True, slots=True)
class RunLog:
    """One log of a run; each resumption of a run starts another.

    Attributes:
        shared: whether other logs lie in the same folder, so that its files belong to none.
    """

    segment: str
    wandb_file: Path | None
    journal: Path | None = None
    shared: bool = False

    @property
    def run_folder(self) -> Path | None:
        """Folder of the log and the run's files."""
        return None if self.wandb_file is None or self.shared else self.wandb_file.parent


@dataclass(slots=True)
class FoundLogs:
    """The logs at a place, oldest first, and folders and files that are no log, with the reason."""

    logs: list[RunLog] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)


def find_logs(path: Path, recursive: bool = False) -> FoundLogs:
    """Find the logs at ``path``: a log, a folder with logs in it, or one with such folders.

    Args:
        recursive: look into all folders below; links to folders are not followed.
    """
    if path.is_file():
        return FoundLogs([_log_of_file(path)])
    folders = list(_all_folders(path)) if recursive else _near_folders(path)
    found = FoundLogs()
    files = [file for folder in folders for file in _log_files(folder)]
    found.logs = _distinct([_log_of_file(file) for file in _without_links(files)], found)
    found.logs += _journals_alone(path, folders, {log.segment for log in found.logs})
    found.logs.sort(key=_order)
    found.others += [] if recursive else _not_looked_at(path, folders)
    found.others += _folders_without_log(path, folders)
    return found


def without_removed_journal(log: RunLog) -> RunLog:
    """Return ``log`` without its journal if that was delivered and removed since `find_logs`."""
    if log.journal is None or log.wandb_file is None or log.journal.is_file():
        return log
    return replace(log, journal=None)


# -- where to look ------------------------------------------------------------------------------


def _near_folders(path: Path) -> list[Path]:
    """Return ``path``, its wandb folders, and the folders in them."""
    if _log_files(path) and RUN_FOLDER.match(path.resolve().name):
        return [path]
    tops = [path, *(path / name for name in _WANDB_FOLDERS if (path / name).is_dir())]
    return list(dict.fromkeys([*tops, *(folder for top in tops for folder in _subfolders(top))]))


def _all_folders(path: Path) -> Iterator[Path]:
    for folder, subfolders, _ in os.walk(path):
        subfolders.sort()
        yield Path(folder)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []


def _log_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{_SUFFIX}") if file.is_file())


def _without_links(files: Iterable[Path]) -> list[Path]:
    """Return each file once, by a name without a link if there is one: ``latest-run`` is one."""
    by_file: dict[Path, Path] = {}
    for file in files:
        real = file.resolve()
        if real not in by_file or file.absolute() == real:
            by_file[real] = file
    return list(by_file.values())


# -- what is there ------------------------------------------------------------------------------


def _log_of_file(file: Path) -> RunLog:
    real = file.resolve()
    segment = segment_of(real)
    journal = real.parent.parent / JOURNAL_DIR / f"{segment}{frames.SUFFIX}"
    shared = not RUN_FOLDER.match(real.parent.name) and len(_log_files(real.parent)) > 1
    return RunLog(segment, file, journal if journal.is_file() else None, shared)


def _distinct(logs: list[RunLog], found: FoundLogs) -> list[RunLog]:
    """Return the logs without copies; of several with one name, the later ones get another name."""
    kept: list[RunLog] = []
    starts: dict[RunStart, list[RunLog]] = {}
    # A log in a folder as wandb names it, and without a namesake, is no copy of another such log.
    unsure = not all(map(_is_named, logs)) or len({log.segment for log in logs}) < len(logs)
    for log in sorted(logs, key=lambda log: (-_size(log), not _is_named(log))):
        start = _start_of(log) if unsure else None
        same = starts.setdefault(start, []) if start is not None else []
        original = next((other for other in same if _is_copy(log, other)), None)
        if original is not None and log.wandb_file is not None:
            found.others.append((log.wandb_file, f"a copy of {original.wandb_file}"))
        else:
            same.append(log)
            kept.append(log)
    return _with_names(kept)


def _is_copy(log: RunLog, other: RunLog) -> bool:
    """Whether two logs of one run and start are one; wandb's own names tell logs apart."""
    return log.segment == other.segment or not (_is_named(log) and _is_named(other))


def _is_named(log: RunLog) -> bool:
    """Whether the log is called after its run folder, and thus after the time of its start."""
    return log.segment[:1].isdigit()


def _with_names(logs: list[RunLog]) -> list[RunLog]:
    taken: set[str] = set()
    named = []
    for log in sorted(logs, key=_order):
        if log.segment in taken:
            start = _start_of(log)
            number = 0 if start is None else start.started_ms
            log = replace(log, segment=f"{log.segment}-{number}")
        taken.add(log.segment)
        named.append(log)
    return named


def _journals_alone(path: Path, folders: list[Path], seen: set[str]) -> list[RunLog]:
    """Return the journals whose log is gone."""
    places = dict.fromkeys([path, *(each for each in folders if each.name == JOURNAL_DIR)])
    return [
        RunLog(file.stem, None, file)
        for folder in places
        for file in sorted(folder.glob(f"*{frames.SUFFIX}"))
        if file.stem not in seen
    ]


def _order(log: RunLog) -> str:
    """Sort by time: the names that wandb gives begin with it."""
    if _is_named(log):
        return log.segment
    start = _start_of(log)
    when = time.localtime(0 if start is None else start.started_ms / 1000)
    return time.strftime("%Y%m%d_%H%M%S", when) + log.segment


def _start_of(log: RunLog) -> RunStart | None:
    try:
        return None if log.wandb_file is None else run_start(log.wandb_file)
    except SourceError:
        return None


def _size(log: RunLog) -> int:
    return 0 if log.wandb_file is None else log.wandb_file.stat().st_size


# -- what is no log -----------------------------------------------------------------------------


def _folders_without_log(path: Path, folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield folders that are called like run folders, or lie among them, and hold no log."""
    holding = {folder for folder in folders if _log_files(folder)}
    among = {folder.parent for folder in holding if RUN_FOLDER.match(folder.name)}
    for folder in folders:
        named = RUN_FOLDER.match(folder.name) is not None
        beside = folder.parent in among and not folder.name.startswith((".", *_OTHER_FOLDERS))
        alike = folder.parent.name in _WANDB_FOLDERS or (folder / "files").is_dir()
        seen = named or (beside and alike)
        if folder in holding or folder.is_symlink() or folder == path or not seen:
            continue
        if folder.name not in _WANDB_FOLDERS and any(folder.iterdir()):
            yield folder, "no .wandb file in it: it was not read"


def _not_looked_at(path: Path, folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield wandb folders one level below those that were looked at."""
    for folder in folders:
        for name in _WANDB_FOLDERS:
            deeper = folder / name
            if deeper not in folders and not folder.is_symlink() and deeper.is_dir():
                yield deeper, "not looked at: pass --recursive"
