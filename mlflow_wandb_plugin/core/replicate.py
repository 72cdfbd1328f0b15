"""Read the items of one run from a source and write them to a target.

Live replication and every backfill are this one loop; they differ in the source's patience only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import RunWriter
from mlflow_wandb_plugin.errors import MlflowWandbError


@dataclass(slots=True)
class ReplicationResult:
    """What `replicate` moved, and the run as it was at the end."""

    points: int = 0
    info: RunInfo | None = None
    unreadable: list[UnreadableRange] = field(default_factory=list)


class _LastMark:
    """The mark that only the run's end stands behind."""

    mark: Checkpoint | None = None

    def held_back(self, items: Iterable[Item]) -> Iterator[Item]:
        """``items`` without it; one behind which the source breaks off comes before the error."""
        try:
            for item in items:
                if self.mark is not None and not isinstance(item, RunInfo):
                    yield self.mark
                    self.mark = None
                if isinstance(item, Checkpoint):
                    self.mark = item
                else:
                    yield item
        except MlflowWandbError:
            if self.mark is not None:
                yield self.mark
            raise


def replicate(
    items: Iterable[Item],
    writer: RunWriter,
    progress: Callable[[int], None] | None = None,
    prompt: bool = True,
) -> ReplicationResult:
    """Write ``items`` of one run; the last `RunInfo` among them finishes it. It is marked complete
    if it has ended and nothing of it is known to be missing.

    Args:
        prompt: items may be long in coming, and each mark is heeded at once. Else the last one goes
            with the run's end, as one piece.

    Raises:
        MlflowWandbError: reading or writing failed; nothing is marked as done.
    """
    carried = ReplicationResult()
    last = _LastMark()
    for item in items if prompt else last.held_back(items):
        if isinstance(item, Series):
            writer.append(item)
            carried.points += len(item.values)
            if progress is not None:
                progress(len(item.values))
        elif isinstance(item, Checkpoint):
            writer.checkpoint(item)
        elif isinstance(item, RunInfo):
            writer.update(item)
            carried.info = item
        elif isinstance(item, UnreadableRange):
            carried.unreadable.append(item)
            if item.lost:
                writer.record_loss(item)
        elif isinstance(item, (FileRef, ArtifactRef, RowObjects)):
            writer.add(item)
    if carried.info is not None:
        whole = carried.info.state != "running" and not carried.info.missing
        if last.mark is not None and not whole:
            writer.checkpoint(last.mark)
        writer.finish(carried.info, complete=whole)
    return carried
