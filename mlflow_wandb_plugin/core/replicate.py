"""Read the items of one run from a source and write them to a target.

Live replication and every backfill use this one loop. They differ only in how long the source
waits for more items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mlflow_wandb_plugin.core.model import Checkpoint, Item, RunInfo, Series, UnreadableRange
from mlflow_wandb_plugin.core.protocols import RunWriter
from mlflow_wandb_plugin.errors import MlflowWandbError


@dataclass(slots=True)
class ReplicationResult:
    """Number of points written, the run's last description, and what could not be read."""

    points: int = 0
    info: RunInfo | None = None
    unreadable: list[UnreadableRange] = field(default_factory=list)


class _LastCheckpoint:
    """Withholds the last checkpoint until the run is finished."""

    held: Checkpoint | None = None

    def withhold(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield ``items`` without the last checkpoint; yield it if the source raises an error."""
        try:
            for item in items:
                if self.held is not None and not isinstance(item, RunInfo):
                    yield self.held
                    self.held = None
                if isinstance(item, Checkpoint):
                    self.held = item
                else:
                    yield item
        except MlflowWandbError:
            if self.held is not None:
                yield self.held
            raise


def replicate(
    items: Iterable[Item],
    writer: RunWriter,
    progress: Callable[[int], None] | None = None,
    withhold_last_checkpoint: bool = False,
) -> ReplicationResult:
    """Write ``items`` of one run and finish it with the last `RunInfo` among them.

    The run is marked complete if it has ended and nothing of it is known to be missing.

    Args:
        progress: is called with the number of points of each series.
        withhold_last_checkpoint: write the last checkpoint together with the run's end, in one
            transaction where the target can. Not for items that arrive slowly: their position is
            then recorded late.

    Raises:
        MlflowWandbError: reading or writing failed; the run is not marked complete.
    """
    result = ReplicationResult()
    last = _LastCheckpoint()
    for item in last.withhold(items) if withhold_last_checkpoint else items:
        if isinstance(item, Series):
            writer.append(item)
            result.points += len(item.values)
            if progress is not None:
                progress(len(item.values))
        elif isinstance(item, Checkpoint):
            writer.checkpoint(item)
        elif isinstance(item, RunInfo):
            writer.update(item)
            result.info = item
        elif isinstance(item, UnreadableRange):
            result.unreadable.append(item)
            if item.lost:
                writer.record_loss(item)
        else:
            writer.add(item)
    if result.info is not None:
        complete = result.info.state != "running" and not result.info.missing
        if last.held is not None and not complete:
            writer.checkpoint(last.held)
        writer.finish(result.info, complete=complete)
    return result
