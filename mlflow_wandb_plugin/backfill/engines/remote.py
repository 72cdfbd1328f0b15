"""Carry runs of a backfill in another process, on this machine or on a cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.carrier import Carrier, unlisted_outcomes
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.backfill.outcome import (
    Listener,
    Outcome,
)
from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.limiter import RequestGate
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import Source, Target
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mlflow_access.address import default_uri, resolved
from mlflow_wandb_plugin.settings import Settings

RemoteOutcome = tuple[Outcome, dict[Any, Any]]
"""An outcome, and the points of the run's curves for the report."""
_FILES = ("sqlite", "file", "archive")

_open: dict[str, tuple[Source, Target]] = {}
"""Source and target of the job that this process carries runs for."""


def carry_one(job: Job, run: RunInfo, gate: RequestGate | None = None) -> RemoteOutcome:
    """Carry one run; source and target stay open for the job's next one.

    Args:
        gate: decides when a request to W&B may be sent; None means that this process alone asks.
    """
    curves = Curves()
    try:
        source, target = _opened(job, gate)
    except Exception as error:
        # Here a key, a package or the target is missing: one line says more than a traceback.
        return Outcome(run, "new", "failed", f"on {socket.gethostname()}: {error}"), {}
    carrier = Carrier(source, target, job.options, Listener(), curves)
    return carrier.carry(run), curves.of(run.run_id)


def reported(
    results: Iterable[RemoteOutcome], source: Source, listener: Listener, curves: Curves
) -> Iterator[Outcome]:
    """Pass remote results to ``listener`` and ``curves``; yield them, then the unlisted runs'."""
    for outcome, points in results:
        curves.add(outcome.run.run_id, points)
        listener.points(outcome.points)
        listener.run_done(outcome)
        yield outcome
    yield from unlisted_outcomes(source)


def _opened(job: Job, gate: RequestGate | None) -> tuple[Source, Target]:
    key = f"{job} {gate}"
    if key not in _open:
        _open.clear()
        source = plugins.open_source(job.source, job.source_options(gate))
        _open[key] = source, plugins.open_target(job.to, job.target_options())
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
    """Return the job with URIs that other processes understand: absolute, no default."""
    source = job.source
    if tracking_uri.names_mlflow(source):
        source = resolved(source)
    elif "://" not in source and not source.startswith("archive:"):
        source = str(Path(source).absolute())
    return replace(job, to=target_uri(job.to), source=source)


def target_uri(to: str) -> str:
    """Return the URI of the target; MLflow's own tracking URI where none was given."""
    if to.startswith("archive:"):
        return to
    return to or tracking_uri.uri(Settings()) or default_uri()
