"""Carry the selected runs of a source to a target, several at the same time."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

from mlflow_wandb_plugin.backfill.carrier import Carrier, selected, unlisted_outcomes
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines.waiting import wait_for_any
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source, Target


def backfill(
    source: Source,
    target: Target,
    selection: Selection,
    options: BackfillOptions | None = None,
    listener: Listener | None = None,
    curves: Curves | None = None,
) -> Iterator[Outcome]:
    """Carry the selected runs to the target; yield one outcome per run, as each is done.

    Runs that are complete on the target are skipped, incomplete ones are filled. A run that fails
    does not stop the others.

    Args:
        curves: keeps points for the report's curves; None keeps none.

    Raises:
        SourceError: the source cannot be listed.
    """
    options = options or BackfillOptions()
    carrier = Carrier(source, target, options, listener or Listener(), curves)
    with concurrent.futures.ThreadPoolExecutor(options.workers, "mlflow-wandb-backfill") as pool:
        waiting: set[concurrent.futures.Future[Outcome]] = set()
        try:
            for run in selected(source, selection):
                target.announce(run)
                waiting.add(pool.submit(carrier.carry, run))
                if len(waiting) >= 2 * options.workers:
                    yield from _next_outcomes(waiting)
            while waiting:
                yield from _next_outcomes(waiting)
        except BaseException:
            # An interrupt does not wait for the runs that are being carried.
            carrier.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    yield from unlisted_outcomes(source)


def _next_outcomes(waiting: set[concurrent.futures.Future[Outcome]]) -> Iterator[Outcome]:
    """Wait for one run or more; remove them from ``waiting`` and yield their outcomes."""
    done = wait_for_any(waiting)
    waiting -= done
    yield from (future.result() for future in done)
