"""`mlflow_wandb_plugin.backfill`: the command as a function."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.engine import Outcome, backfill
from mlflow_wandb_plugin.model import Selection


def backfill_runs(
    source: str,
    to: str = "",
    *,
    experiment: str = "{project}",
    runs: Sequence[str] = (),
    workers: int = 1,
) -> list[Outcome]:
    """Carry W&B runs into MLflow; skip those that are there, fill those that have holes.

    Args:
        source: a wandb folder, a run folder or a ``.wandb`` file.
        to: an MLflow tracking URI; empty means MLflow's own.
        experiment: template of the experiment's name, with {entity} and {project}.
        runs: ids or names; empty means all.

    Raises:
        UsageError, SourceError: nothing could be started. A run that fails is an outcome.
    """
    opened = plugins.open_source(source), plugins.open_target(to, experiment)
    return list(backfill(*opened, Selection(tuple(runs)), workers))
