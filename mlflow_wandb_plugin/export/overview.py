"""What a source has, project by project, with as little reading as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import RunOverview, Source
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError


@dataclass(slots=True)
class ProjectOverview:
    """The sums of one project; None where the source does not count.

    Attributes:
        states: number of runs by W&B's state.
        keys: names of the keys of all histories.
        first_ms, last_ms: the earliest start of a run and the latest start or end, Unix ms.
    """

    project: str
    runs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    rows: int | None = None
    keys: set[str] | None = None
    files: int | None = None
    file_bytes: int | None = None
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, run: RunInfo, found: RunOverview) -> None:
        """Add one run."""
        self.runs += 1
        self.states[run.state] += 1
        self.rows = _sum(self.rows, found.rows)
        self.files = _sum(self.files, found.files)
        self.file_bytes = _sum(self.file_bytes, found.file_bytes)
        if found.keys is not None:
            self.keys = (self.keys or set()) | found.keys
        times = [at for at in (run.started_ms, run.ended_ms) if at is not None]
        if times:
            self.first_ms = min(times if self.first_ms is None else [self.first_ms, *times])
            self.last_ms = max(times if self.last_ms is None else [self.last_ms, *times])

    def as_json(self) -> dict[str, Any]:
        """Return the sums as JSON-compatible values."""
        return {
            "project": self.project,
            "runs": self.runs,
            "states": dict(self.states),
            "rows": self.rows,
            "keys": None if self.keys is None else len(self.keys),
            "files": self.files,
            "bytes": self.file_bytes,
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
        }


@dataclass(frozen=True, slots=True)
class Overview:
    """The projects of a source, by name, and what could not be read, one line each."""

    projects: list[ProjectOverview]
    unread: list[str]


def overview(
    source: Source,
    selection: Selection,
    with_files: bool = False,
    run_done: Callable[[], None] = lambda: None,
) -> Overview:
    """Sum up the selected runs of ``source``.

    Args:
        with_files: count files, too, where that takes a request for each run.
        run_done: is called after each run.

    Raises:
        SourceError: the source cannot be listed. A run that cannot be read is named.
    """
    projects: dict[str, ProjectOverview] = {}
    unread: list[str] = []
    for run in source.runs(selection):
        try:
            found = source.overview(run, with_files)
        except SourceUnavailableError:
            raise
        except SourceError as error:
            unread.append(f"{run.path}: {error}")
            found = RunOverview()
        project = projects.setdefault(run.project_path, ProjectOverview(run.project_path))
        project.add(run, found)
        run_done()
    unread += [f"{one.where}: {one.reason}" for one in source.unreadable]
    return Overview([projects[name] for name in sorted(projects)], unread)


def _sum(known: int | None, more: int | None) -> int | None:
    return known if more is None else (known or 0) + more
