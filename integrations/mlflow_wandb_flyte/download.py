"""Download runs from W&B's server into a local folder, and show them in Flyte's UI as a trace."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import flyte
from flyte.io import Dir

from mlflow_wandb_flyte import keys
from mlflow_wandb_flyte.context import get_wandb_context, get_wandb_sweep_context
from mlflow_wandb_flyte.sweep import get_wandb_sweep_id

logger = logging.getLogger(__name__)

NO_PROJECT = "Cannot query sweep without entity and project: set them via wandb_config()"
DEFAULT_FOLDER = Path(tempfile.gettempdir()) / "wandb_runs"


def download_wandb_run_dir(
    run_id: str | None = None,
    path: str | None = None,
    include_history: bool = True,
    *,
    project: str | None = None,
    entity: str | None = None,
) -> str:
    """Download a run's files, its summary and its complete history.

    Args:
        run_id: by default the current run's.
        path: the folder; by default ``wandb_runs/<run_id>`` in the temporary folder.
        include_history: also write ``metrics_history.json``, a list of all rows.
        project, entity: by default those of the current run, then those of ``wandb_config``.

    Returns:
        The folder, with ``summary.json`` beside the run's files.

    Raises:
        RuntimeError: no run is given or current, or W&B does not return it.
    """
    import wandb

    context = flyte.ctx().custom_context or {}
    current = wandb.run.id if wandb.run is not None else None
    run_id = run_id or context.get(keys.WANDB_RUN_ID) or current
    if run_id is None:
        raise RuntimeError(
            "No run_id provided and no active wandb run found in context: "
            "pass run_id, or call from within a @wandb_init task"
        )
    config = get_wandb_context()
    project = project or context.get(keys.WANDB_PROJECT) or (config.project if config else None)
    entity = entity or context.get(keys.WANDB_ENTITY) or (config.entity if config else None)
    run_path = "/".join(filter(None, (entity if project else None, project, run_id)))
    folder = _folder(path or DEFAULT_FOLDER / quote(run_id, safe=""))
    with _doing(f"fetch wandb run '{run_path}'"):
        run = _api().run(run_path)
    with _doing(f"download files of wandb run '{run_path}'"):
        _fetch_files(run, folder)
    with _doing(f"fetch the summary of wandb run '{run_path}'"):
        summary = dict(run.summary)
    _write(folder / "summary.json", summary)
    if include_history:
        with _doing(f"fetch the history of wandb run '{run_path}'"):
            # history() samples, and a cached scan loses rows of a run that has grown.
            rows = [dict(row) for row in run.scan_history(use_cache=False)]
        _write(folder / "metrics_history.json", rows)
    return str(folder)


def download_wandb_sweep_dirs(
    sweep_id: str | None = None,
    base_path: str | None = None,
    include_history: bool = True,
    *,
    project: str | None = None,
    entity: str | None = None,
) -> list[str]:
    """Download every run of a sweep, each into a folder named by its id.

    Args:
        sweep_id: by default the current sweep's.
        base_path: by default ``wandb_runs`` in the temporary folder.
        project, entity: by default the sweep's own, then those of the configuration.

    Returns:
        The folders. Runs that cannot be downloaded are named in a warning.

    Raises:
        RuntimeError: no sweep is given or current, its entity or project is not known, or W&B
            does not return it or any of its runs.
    """
    sweep_id = sweep_id or get_wandb_sweep_id()
    if sweep_id is None:
        raise RuntimeError(
            "No sweep_id provided and no active wandb sweep found in context: "
            "pass sweep_id, or call from within a @wandb_sweep task"
        )
    entity, project = _sweep_project(entity, project)
    if not entity or not project:
        raise RuntimeError(NO_PROJECT)
    where = f"{entity}/{project}/{sweep_id}"
    with _doing(f"fetch wandb sweep '{where}'"):
        run_ids = [run.id for run in _api().sweep(where).runs]
    base = Path(base_path) if base_path else DEFAULT_FOLDER
    download = functools.partial(download_wandb_run_dir, project=project, entity=entity)
    found, failed = [], []
    for run_id in run_ids:
        target = str(base / quote(run_id, safe=""))
        try:
            found.append(download(run_id, target, include_history))
        except RuntimeError as error:
            failed.append(f"{run_id} ({error})")
    if failed and not found:
        raise RuntimeError(
            f"Failed to download all {len(failed)} runs of sweep '{sweep_id}': {failed}"
        )
    if failed:
        logger.warning("%d of %d runs were not downloaded: %s", len(failed), len(run_ids), failed)
    return found


@flyte.trace
async def download_wandb_run_logs(run_id: str, project: str = "", entity: str = "") -> Dir:  # type: ignore[type-arg]
    """`download_wandb_run_dir` as a trace, so that Flyte's UI shows the files."""
    return await Dir.from_local(
        download_wandb_run_dir(run_id, project=project or None, entity=entity or None)
    )


@flyte.trace
async def download_wandb_sweep_logs(sweep_id: str, project: str = "", entity: str = "") -> Dir:  # type: ignore[type-arg]
    """`download_wandb_sweep_dirs` as a trace, so that Flyte's UI shows the files."""
    base = _folder(DEFAULT_FOLDER / f"sweep-{quote(sweep_id, safe='')}")
    download_wandb_sweep_dirs(sweep_id, str(base), project=project or None, entity=entity or None)
    return await Dir.from_local(str(base))


async def show_logs(download: Any, name: str, project: str | None, entity: str | None) -> None:
    """Call one of the two traces, for ``download_logs``. Errors become warnings."""
    try:
        await download(name, project or "", entity or "")
    except Exception as error:
        logger.warning("download_logs: %s was not downloaded: %s", name, error)


def _sweep_project(entity: str | None, project: str | None) -> tuple[str | None, str | None]:
    context = flyte.ctx().custom_context or {}
    configs = (get_wandb_sweep_context(), get_wandb_context())
    entities = [entity, context.get(keys.SWEEP_ENTITY), *(c.entity for c in configs if c)]
    projects = [project, context.get(keys.SWEEP_PROJECT), *(c.project for c in configs if c)]
    entity, project = (next(filter(None, found), None) for found in (entities, projects))
    if project and not entity:
        try:
            with _doing("fetch the default entity"):
                entity = _api().default_entity
        except RuntimeError as error:
            raise RuntimeError(f"{NO_PROJECT}. {error}") from error
    return entity, project


def _api() -> Any:
    import wandb

    config = get_wandb_context()
    overrides = {"base_url": config.host} if config and config.host else None
    return wandb.Api(overrides=overrides)


def _fetch_files(run: Any, folder: Path) -> None:
    for file in run.files():
        target = (folder / file.name).resolve()
        if not target.is_relative_to(folder):
            raise RuntimeError(f"the server names a file outside of the folder: {file.name!r}")
        file.download(root=str(folder), replace=True)


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Turn any error of the block into a RuntimeError that names ``what`` the block does."""
    import wandb

    try:
        yield
    except wandb.errors.AuthenticationError as error:
        reason = f"Authentication failed, cannot {what}: set WANDB_API_KEY. {error}"
        raise RuntimeError(reason) from error
    except Exception as error:
        raise RuntimeError(f"Failed to {what}: {error}") from error


def _write(path: Path, content: Any) -> None:
    with _doing(f"write {path.name}"):
        path.write_text(json.dumps(content, indent=2, default=str))


def _folder(path: str | Path) -> Path:
    with _doing(f"create download directory {path}"):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path).resolve()
