"""Source and target interfaces. Plugins open them by URI through the hooks in `hookspecs.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from mlflow_wandb_plugin.core.identity import EVERYTHING, Origin, Twin
from mlflow_wandb_plugin.core.limiter import RequestGate
from mlflow_wandb_plugin.core.metric_rules import MapMetric, without_rules
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    Key,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    Size,
    UnreadableRange,
)
from mlflow_wandb_plugin.errors import TargetError

WritePath: TypeAlias = Literal["auto", "bulk", "api"]
Side: TypeAlias = Literal["", "source", "target"]
FilterLanguage: TypeAlias = Literal["", "wandb", "mlflow"]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is opened.

    Attributes:
        artifacts: whether W&B artifacts are wanted; a source need not fetch them otherwise.
        request_gate: decides when a request may be sent, for processes that share one limit; None
            means that the source limits itself.
        follow_links: read every file that a local run folder and its records name, also outside the
            folder one that may hold keys or that this user does not own.
        recursive: look for local logs in all folders below the one that is named.
    """

    artifacts: bool = True
    request_gate: RequestGate | None = None
    follow_links: bool = False
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target is opened.

    Attributes:
        experiment: template of the experiment's name, with {entity} and {project}.
        experiment_id: write all runs into this experiment; empty means the one that ``experiment``
            names.
        write_path: how points are written: "bulk" into the database behind MLflow, "api" by
            MLflow's own calls, "auto" in bulk where that can be done.
        find_dual_written: whether a dual-written run counts as the replica of a W&B run.
        find_beside: whether a run that MLflow code logged while the W&B run was open counts, if
            each of the two names the other. Not while that code may still run.
        create: whether the target may be created if it does not exist.
        selection: which metrics and artifacts the items will have, as text; empty means all.
        adopt_dual: whether a run that a W&B config names counts as its replica though it lacks the
            identity tags, as where another tool dual-writes. Only where the config can be
            trusted: it may come from a file that somebody else wrote, and name anybody's run.
        secret_names: as `Settings.secret_names`; None means that setting.
        steps: as `Settings.steps`, for runs that are created; None means that setting.
        projects: the W&B project, ENTITY/PROJECT, that the runs of a project go into, by that
            project's `RunInfo.project_path`; others go where the target's URI says.
        map_metric: how a key of a W&B run is written to MLflow.
    """

    experiment: str = "{project}"
    experiment_id: str = ""
    write_path: WritePath = "auto"
    find_dual_written: bool = True
    find_beside: bool = True
    create: bool = True
    adopt_dual: bool = False
    secret_names: str | None = None
    steps: str | None = None
    selection: str = EVERYTHING
    projects: Mapping[str, str] = field(default_factory=dict)
    map_metric: MapMetric = without_rules


@dataclass(frozen=True, slots=True)
class WriteMethod:
    """How a target writes points, and why in this way.

    Attributes:
        path: "bulk" into a database, "requests" to a server, "api" for MLflow's own calls, or
            "own" where a target has but one way.
    """

    path: str = "own"
    reason: str = "the target has one way to write"

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


@dataclass(frozen=True, slots=True)
class RunOverview:
    """What a run has, as far as it is known without carrying it; None where it is not counted.

    Attributes:
        keys: names of the keys of its history.
        file_bytes: size of its files.
    """

    rows: int | None = None
    keys: frozenset[str] | None = None
    files: int | None = None
    file_bytes: int | None = None


class Source(ABC):
    """Somewhere runs can be read from.

    Attributes:
        filter_language: whose `Selection.filter` is understood; empty for none.
        rate_limited: whether a server limits how fast it is asked, for all clients together.
        unreadable: runs that could not be listed, complete once `runs` has ended; ``where`` is the
            run id.
    """

    filter_language: FilterLanguage = ""
    rate_limited: bool = False
    unreadable: Sequence[UnreadableRange] = ()

    @abstractmethod
    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield the selected runs, oldest first, without their history.

        Raises:
            SourceError: the source cannot be listed.
        """

    def count(self, selection: Selection) -> int | None:
        """Return the number of selected runs; None where counting would cost too much."""
        return sum(1 for _ in self.runs(selection))

    def point_counts(self, run: RunInfo) -> Mapping[Key, int] | None:
        """Return the number of points by history key; None where counting would cost too much.

        Raises:
            SourceError: the run cannot be read.
        """
        return None

    def beside_runs(self, selection: Selection) -> Sequence[str]:
        """Return what the source has beside its runs and no backfill carries, one line each.

        Raises:
            SourceError: it cannot be listed.
        """
        return ()

    def describe(self, run: RunInfo) -> RunInfo:
        """Return a run with all that describes it, its summary too, without its files.

        Raises:
            SourceError: the run cannot be read.
        """
        described = run
        for item in self.history(run):
            if isinstance(item, RunInfo):
                described = item
        return described

    def history(self, run: RunInfo) -> Iterator[Item]:
        """Yield what `read` does; files and artifacts may be left out.

        Raises:
            SourceError: the run cannot be read.
        """
        return self.read(run, {})

    def overview(self, run: RunInfo, with_files: bool) -> RunOverview:
        """Return what a listed run has, with as little reading as possible.

        Args:
            with_files: count files, too, where that takes a request of its own.

        Raises:
            SourceError: the run cannot be read.
        """
        counts = self.point_counts(run)
        keys = None if counts is None else frozenset(".".join(key) for key in counts)
        if not with_files:
            return RunOverview(_rows_of(run), keys)
        size = self.size(run)
        return RunOverview(_rows_of(run), keys, size.files, size.file_bytes)

    @abstractmethod
    def size(self, run: RunInfo) -> Size:
        """Return what `read` would yield, counted or estimated, for a plan.

        Raises:
            SourceError: the run cannot be read.
        """

    @abstractmethod
    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """Yield all of one run in log order, in bounded blocks, with a `RunInfo` at the end.

        Args:
            since: position by segment. Series before it may be left out, and row objects where the
                checkpoint of that position said so; everything else is yielded again, because it is
                small or written as a whole.

        Raises:
            SourceError: the run cannot be read.
        """

    def add_to_config(  # noqa: B027
        self, run: RunInfo, keys: Mapping[str, str]
    ) -> None:
        """Add keys to the run's config, where the source can be written; may do nothing.

        Raises:
            SourceError: the source refused; the run is as before.
        """


def _rows_of(run: RunInfo) -> int | None:
    return sum(run.rows.values()) if run.rows else None


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
    def experiment_id(self) -> str:
        """The id of the experiment that the run is in; empty where there are none."""

    @property
    def position(self) -> Mapping[str, int]:
        """Position up to which each log had been written when the run was opened, by segment."""

    @property
    def losses(self) -> Mapping[str, int]:
        """Number of items that could not be written, by kind."""

    def update(self, info: RunInfo) -> None:
        """Write names, tags and params: whatever of ``info`` is new or has changed."""

    def append(self, series: Series) -> None:
        """Add points; they are written at the next checkpoint at the latest."""

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        """Add a file, an artifact, or the values of a row that are no numbers."""

    def record_loss(self, unreadable: UnreadableRange) -> None:
        """Count what the source could not read."""

    def restart(self, complete: bool) -> Mapping[str, int]:
        """Prepare a run to be written again; returns the position to read from.

        Args:
            complete: whether all of the run comes again, so that its documents are written anew.
        """

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Make everything so far durable and record ``checkpoint`` with it."""

    def finish(self, info: RunInfo, complete: bool) -> None:
        """Write what is known only at the end; mark the run complete, if it is, last."""

    def close(self) -> None:
        """Release threads and temporary files. Never raises; called in any case."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user finds a run in the target: its experiment's name and its page, if it has one."""

    experiment: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of a replica that is not what would be written.

    Attributes:
        by_design: why both are right, such as times of two clocks; empty for a real difference.
        fixable: whether writing the run again makes it equal; MLflow cannot change a param, remove
            a point or move the start of a run.
        values: number of values that differ.
        only_in: which of the two has something that the other has not; empty if both have it,
            with other values.
    """

    what: str
    by_design: str = ""
    fixable: bool = True
    values: int = 1
    only_in: Side = ""


class RunComparison(RunWriter, Protocol):
    """A `RunWriter` that writes nothing. Give it all items of the run, then call `compare`."""

    @property
    def checked(self) -> Mapping[str, int]:
        """Number of values compared, by kind."""

    @property
    def differences(self) -> Sequence[Difference]:
        """All differences."""

    def differs(self, difference: Difference | None) -> None:
        """Record a difference, if it is one."""

    def compare(self) -> None:
        """Compare what the items amount to with what is there."""


class Target(ABC):
    """Somewhere runs can be written to.

    Attributes:
        comparable: whether `compare` is offered.
        has_experiments: whether runs are in experiments with an id, as `TargetOptions` can name.
        write_method: how points are written.
        viewer: the command that shows its runs, where they have no pages; else empty.
    """

    comparable: bool = False
    has_experiments: bool = False
    write_method: WriteMethod = WriteMethod()
    viewer: str = ""

    def check(self) -> None:  # noqa: B027
        """Ask once, before the first run, whether the target as a whole can be used; from then on,
        `open` may raise the same error.

        Raises:
            TargetUnusableError: it cannot: each run would fail.
        """

    @abstractmethod
    def find(self, info: RunInfo) -> Twin | None:
        """Return the run that replicates ``info`` here, if there is one that is not deleted."""

    @abstractmethod
    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> RunWriter:
        """Continue ``twin``, or create the run."""

    def announce(self, info: RunInfo) -> None:  # noqa: B027
        """Learn that a run is going to be carried, after all that were announced before; for a
        target where the order matters though several runs are carried at the same time."""

    def settle(self, info: RunInfo) -> None:  # noqa: B027
        """Learn that an announced run is not going to be written any more."""

    def config_keys(self, twin: Twin) -> Mapping[str, str]:
        """Return the keys of a W&B config that name ``twin``; empty where a target has none."""
        return {}

    def place(self, experiment_id: str, run_id: str) -> Place:
        """Say where a user finds a run."""
        return Place()

    def destination(self, info: RunInfo) -> str:
        """Return the name of the experiment or project that a new run would go into; empty where
        there is none. Creates nothing."""
        return ""

    def compare(self, info: RunInfo, twin: Twin) -> RunComparison:
        """Return a comparison of ``twin`` with what would be written into it now."""
        raise TargetError("this target cannot be compared with")

    def lacking(self, info: RunInfo, twin: Twin, counts: Mapping[Key, int]) -> str:
        """Say which points of a complete replica are missing; empty if none are known to be.

        Args:
            counts: number of points by history key, as `Source.point_counts` returns them.
        """
        return ""

    def loss_reasons(self, run_id: str) -> Sequence[str]:
        """Return what was lost of a run and why, one line each, for a report; empty where the
        target does not keep it."""
        return ()

    def curve(self, run_id: str, key: Key) -> list[tuple[int, float]]:
        """Return all points (step, value) of a metric in the order in which they were logged, for a
        report's curve; empty where unknown."""
        return []
