"""The commands `backfill` and `verify` as Python functions."""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.backfill.execution import Backfill, open_ends
from mlflow_wandb_plugin.backfill.job import Job
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.verify import Verified, verify
from mlflow_wandb_plugin.core.model import Selection


def backfill_runs(
    source: str,
    to: str = "",
    *,
    experiment: str = "{project}",
    selection: Selection | None = None,
    **options: Any,
) -> list[Outcome]:
    """Migrate W&B runs to MLflow; skip complete ones, fill incomplete ones.

    Args:
        source: a wandb folder, a run folder, a ``.wandb`` file, or another source's URI.
        to: an MLflow tracking URI, or another target's URI; empty means MLflow's own.
        experiment: template of the experiment's name, with {entity} and {project}.
        selection: which runs; None means all.
        options: fields of `mlflow_wandb_plugin.backfill.options.BackfillOptions`.

    Raises:
        UsageError, SourceError: the backfill cannot be started. A run that fails is an outcome.
    """
    job = Job(source, to, experiment, selection or Selection(), BackfillOptions.of(**options))
    return list(Backfill(job).run())


def verify_runs(
    source: str,
    to: str = "",
    *,
    experiment: str = "{project}",
    selection: Selection | None = None,
    **options: Any,
) -> list[Verified]:
    """Compare W&B runs with their replicas in MLflow, value by value; write nothing.

    Args:
        source, to, experiment, selection, options: as `backfill_runs` takes them.

    Raises:
        UsageError, SourceError: nothing could be compared.
    """
    chosen = BackfillOptions.of(**options)
    job = Job(source, to, experiment, selection or Selection(), chosen)
    return list(verify(*open_ends(job), job.selection, chosen))
