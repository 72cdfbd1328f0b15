"""A backfill's job in another process, of this machine or of a cluster's."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.job import CurveRecordingSource, Job
from mlflow_wandb_plugin.backfill.run import Carrier, Listener, Outcome
from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.limiter import RequestGate
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.targets.mlflow.client import default_uri

RemoteOutcome = tuple[Outcome, dict[Any, Any]]
"""An outcome, and the curves of the run for the report."""
_FILES = ("sqlite", "file", "archive")

_open: dict[str, tuple[Any, Any]] = {}
"""Source and target of the job that this process carries runs for."""


def carry_one(job: Job, run: RunInfo, turns: RequestGate | None = None) -> RemoteOutcome:
    """Carry one run; source and target stay open for the job's next one.

    Args:
        turns: who says when a request to W&B may be sent; None means this process alone.
    """
    curves = Curves()
    try:
        source, target = _opened(job, turns)
        carrier = Carrier(CurveRecordingSource(source, curves), target, job.options, Listener())
    except Exception as error:
        # Here a key, a package or the target is missing: a word on it is better than a traceback.
        return Outcome(run, "new", "failed", f"on {socket.gethostname()}: {error}"), {}
    return carrier.carry(run), curves.of(run.run_id)


def _opened(job: Job, turns: RequestGate | None) -> tuple[Any, Any]:
    key = f"{job} {turns}"
    if key not in _open:
        _open.clear()
        source = plugins.open_source(job.source)
        if turns is not None and hasattr(source, "limit_by"):
            source.limit_by(turns)
        target: Any = plugins.open_target(job.to, job.experiment)
        if job.into:
            target.write_into(job.into)
        _open[key] = source, target
    return _open[key]


def check_many_may_write(to: str, engine: str, instead: str) -> None:
    """
    Raises:
        UsageError: the target is a file or a folder.
    """
    uri = target_uri(to)
    scheme = urlsplit(uri.removeprefix("wandb+")).scheme.split("+")[0]
    if scheme in _FILES or not scheme:
        raise UsageError(f"--engine {engine} {instead.format(uri=without_credentials(uri))}")


def resolve_job_uris(job: Job) -> Job:
    """The job in words that mean the same everywhere: no relative folder, no default."""
    source = job.source
    if "://" not in source and not source.startswith("archive:"):
        source = str(Path(source).absolute())
    return replace(job, to=target_uri(job.to), source=source)


def target_uri(to: str) -> str:
    """The target that is meant where none was named: MLflow's own."""
    if to.startswith("archive:"):
        return to
    return to or tracking_uri.uri(Settings()) or default_uri()
