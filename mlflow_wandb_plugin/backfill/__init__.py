"""Backfill: plan, run, verify, report.

The public function has the name of this package, and Python binds the name to whichever was
imported last. So the package itself can be called: ``mlflow_wandb_plugin.backfill(source, to)``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow_wandb_plugin.backfill.outcome import Outcome


class _Callable(ModuleType):
    def __call__(self, source: str | Sequence[str], to: str = "", **options: Any) -> list[Outcome]:
        """See `mlflow_wandb_plugin.backfill.execution.backfill_runs`."""
        from mlflow_wandb_plugin.backfill.execution import backfill_runs

        return backfill_runs(source, to, **options)


sys.modules[__name__].__class__ = _Callable
