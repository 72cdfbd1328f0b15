"""The doors of the house: what a source and a target must offer. Opened by URI through hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    Size,
    UnreadableRange,
)


class Source(Protocol):
    """Somewhere runs can be read from.

    A source that meets runs it cannot even list has them in ``unreadable``, a sequence of
    `UnreadableRange` whose ``where`` is the run id, complete once `runs` has ended.
    """

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield the selected runs, oldest first, cheaply: without their history.

        Raises:
            SourceError: the source cannot be listed.
        """

    def size(self, run: RunInfo) -> Size:
        """What `read` would yield, counted or estimated, for a plan.

        Raises:
            SourceError: the run cannot be read.
        """

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """Yield all of one run in log order, in bounded blocks, with a `RunInfo` at the end.

        Series before ``since`` (a position by segment) may be left out, and row objects where the
        mark of that position said so; everything else comes again, for it is small or written as
        a whole.

        Raises:
            SourceError: the run cannot be read.
        """


class RunWriter(Protocol):
    """One run being written. Every call may be repeated with the same data.

    Raises from every method:
        TargetUnavailableError: the target did not answer in the time that it is given.
        TargetError: the target refused for good.
    """

    @property
    def run_id(self) -> str:
        """The run's id in the target."""

    @property
    def position(self) -> Mapping[str, int]:
        """How far each log had been carried when the run was opened."""

    @property
    def losses(self) -> Mapping[str, int]:
        """What could not be carried, by kind."""

    def update(self, info: RunInfo) -> None:
        """Names, tags, params: whatever of ``info`` is new or has changed."""

    def append(self, series: Series) -> None:
        """Points; they are written at the next checkpoint at the latest."""

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        """A file, an artifact, or what a row holds beside numbers."""

    def record_loss(self, unreadable: UnreadableRange) -> None:
        """Count what the source could not read."""

    def restart(self) -> Mapping[str, int]:
        """The whole of a complete run is to come again; returns where it should be read from."""

    def checkpoint(self, mark: Checkpoint) -> None:
        """Make everything so far durable and remember ``mark`` with it."""

    def finish(self, info: RunInfo, complete: bool) -> None:
        """Write what is known only at the end; mark the run complete, if it is, last."""

    def close(self) -> None:
        """Let go of threads and temporary files; never raises. Called in any case."""


class Target(Protocol):
    """Somewhere runs can be written to."""

    def find(self, info: RunInfo, dual: bool = True) -> Twin | None:
        """The run that replicates ``info`` here, if there is one that is alive.

        Args:
            dual: whether a dual-written one counts.
        """

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> RunWriter:
        """Go on with ``twin``, or create the run."""
