"""Open and create archives: folders of runs as Parquet, JSON and plain files.

An archive keeps what W&B recorded, in W&B's terms. Loading it into MLflow therefore has the same
result as a backfill from the archive's own source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlflow_wandb_plugin.archive.folder_names import NO_NAME
from mlflow_wandb_plugin.archive.points_table import require_pyarrow
from mlflow_wandb_plugin.archive.run_document import RUN_FILE, RunDocument, read_run, run_folder
from mlflow_wandb_plugin.archive.run_writer import ArchiveRunWriter
from mlflow_wandb_plugin.archive.source import ArchiveSource
from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.identity import EVERYTHING, Origin, Twin, selection_of
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.private_files import (
    FILE_MODE,
    close_to_others,
    is_open_to_others,
    private_folder,
)
from mlflow_wandb_plugin.core.protocols import Source, Target, TargetOptions
from mlflow_wandb_plugin.errors import SourceError, TargetError, UsageError
from mlflow_wandb_plugin.w2m.archive_source import EwmArchive, is_ewm_archive

SCHEME = "archive:"
ARCHIVE_FILE, README_FILE = "archive.json", "README.md"
FORMAT, VERSION = "mlflow-wandb-plugin archive", 1
README = """\
# An archive of W&B runs

Written by mlflow-wandb-plugin. Load it into MLflow, without any W&B access:

    mlflow-wandb backfill archive:THIS_FOLDER --to MLFLOW_TRACKING_URI

Run the command that wrote it again to resume it after an interruption, or to bring it up to date.

| path | content |
|---|---|
| `archive.json` | format and version of this folder |
| `ENTITY/PROJECT/RUN/` | one folder a run; `_` stands for an unknown entity |
| `…/run.json` | the run: name, tags, config, summary, state, times; progress of the archive |
| `…/metrics/part-*.parquet` | logged numbers, one a row |
| `…/system_metrics/part-*.parquet` | system metrics, under W&B's names |
| `…/rows.jsonl` | other values in history (text, lists, media), one line a step |
| `…/files.json` | the run's files and artifacts: W&B's names, and paths of the copies |
| `…/files/`, `…/artifacts/TYPE/NAME/VERSION/` | the copies |

Columns of the Parquet files: `key` (labels of nested keys joined with `.`), `path` (the labels as
a JSON list: `["a", "b"]` is `{"a": {"b": …}}`, `["a.b"]` is `{"a.b": …}`), `step` (meaningless
for system metrics), `timestamp_ms` (Unix time), `value` (double; NaN and infinities as logged).

    import pandas; pandas.read_parquet("ENTITY/PROJECT/RUN/metrics")
    duckdb -c "SELECT key, avg(value) FROM '*/*/*/metrics/*.parquet' GROUP BY key"

A run is complete when `state` in its `run.json` is `complete`. Names that some file system
does not accept or distinguish are rewritten and end in a hash; `run.json` and `files.json` have the
originals. In JSON, `{"$float": "nan"}` is a number that JSON cannot express, `{"$keyed": …}` an
object with nested keys, and `{"$object": …}` an object that would look like one of these.
"""


def open_archive(uri: str) -> Source:
    """Open an archive, or what export-wandb-to-mlflow wrote in its dry run, as a source.

    Raises:
        UsageError: there is no archive, its format is newer, or pyarrow is missing.
    """
    path = path_of(uri).resolve()
    root = archive_root(path)
    if root is not None:
        require_pyarrow()
        _check_version(root)
        return ArchiveSource(root, path)
    if is_ewm_archive(path):
        return EwmArchive(path)
    raise UsageError(
        f"no archive in {path}: make one with `mlflow-wandb backfill SOURCE --to archive:DIR`"
    )


def create_archive(uri: str, options: TargetOptions | None = None) -> ArchiveTarget:
    """Open the archive at ``uri`` as a target; creates it if necessary.

    Raises:
        UsageError: the folder holds another tool's archive, or cannot be one; or an option is
            for MLflow only.
    """
    if options is not None and options.write_path != "auto":
        raise UsageError("--write-path needs an MLflow target")
    path = path_of(uri).resolve()
    if not is_archive(path) and is_ewm_archive(path):
        raise UsageError(f"{path} holds an archive of export-wandb-to-mlflow: use another folder")
    return ArchiveTarget(path, EVERYTHING if options is None else options.selection)


def path_of(uri: str) -> Path:
    """Return the folder that ``archive:DIR`` or ``archive:///DIR`` names.

    Raises:
        UsageError: it names no folder.
    """
    rest = uri.removeprefix(SCHEME).removeprefix("//")
    if not rest:
        raise UsageError(f"{uri} names no folder: write archive:DIR")
    return Path(rest).expanduser()


def is_archive(path: Path) -> bool:
    """Whether ``path`` is an archive of this package."""
    return (path / ARCHIVE_FILE).is_file()


def archive_root(path: Path) -> Path | None:
    """Return the archive that ``path`` is, or in which it is an entity, project or run folder."""
    above = (path, *list(path.parents)[:3])
    return next((folder for folder in above if is_archive(folder)), None)


def _check_version(root: Path) -> None:
    try:
        document = json.loads((root / ARCHIVE_FILE).read_bytes())
        known = document["format"] == FORMAT and int(document["version"]) <= VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{root / ARCHIVE_FILE} cannot be read: {error!r}") from error
    if not known:
        raise UsageError(
            f"{root} is an archive of another format ({document['format']!r} "
            f"{document['version']}): a newer mlflow-wandb-plugin may read it"
        )


class ArchiveTarget(Target):
    """A `Target` that writes runs below ``root``.

    What an earlier version of this package wrote there for all users is closed to others.

    Args:
        selection: as `TargetOptions.selection`.

    Raises:
        UsageError: pyarrow is missing, or ``root`` cannot be an archive.
    """

    def __init__(self, root: Path, selection: str = EVERYTHING) -> None:
        require_pyarrow()
        self._root = root
        self._selection = selection
        try:
            private_folder(root)
            if is_archive(root) and is_open_to_others(root):
                self._close_to_others()
            if not (root / README_FILE).exists():
                write_atomically(root / README_FILE, README, mode=FILE_MODE, sync=True)
            if not is_archive(root):
                text = json.dumps({"format": FORMAT, "version": VERSION})
                write_atomically(root / ARCHIVE_FILE, text, mode=FILE_MODE, sync=True)
        except OSError as error:
            raise UsageError(f"{root} cannot be an archive: {error}") from error
        _check_version(root)

    def find(self, info: RunInfo) -> Twin | None:
        """Return the archived run, also if the entity is unknown in ``info`` or in the archive."""
        for folder in self._folders(info):
            run = self._read(folder)
            if run is not None and run.holds(info):
                return Twin(
                    self._name(folder),
                    self._name(folder.parent),
                    run.origin,
                    run.state,
                    run.position,
                    run.rows,
                    selection=run.info.selection,
                )
        return None

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> ArchiveRunWriter:
        """Return the writer of a new run or of ``twin``."""
        folder = run_folder(self._root, info) if twin is None else self._root / twin.run_id
        selection = selection_of(info, self._selection)
        return ArchiveRunWriter(folder, self._name(folder), info, origin, selection)

    def _close_to_others(self) -> None:
        """Close what the archive has to other users; what else the user keeps there is left."""
        for path in (self._root / README_FILE, self._root / ARCHIVE_FILE):
            close_to_others(path)
        for run in self._root.glob(f"*/*/*/{RUN_FILE}"):
            private_folder(run.parent, below=self._root, tighten=True)
            close_to_others(run.parent)
        private_folder(self._root, tighten=True)

    def _folders(self, info: RunInfo) -> Iterator[Path]:
        own = run_folder(self._root, info)
        yield own
        below = own.relative_to(own.parents[2]).parts[1:]
        others = [self._root / NO_NAME] if info.entity else sorted(self._root.iterdir())
        for entity in others:
            if entity.is_dir() and entity.joinpath(*below) != own:
                yield entity.joinpath(*below)

    def _read(self, folder: Path) -> RunDocument | None:
        try:
            return read_run(folder)
        except (SourceError, OSError) as error:
            raise TargetError(f"{error}; remove the folder to archive the run again") from error

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self._root).as_posix()
