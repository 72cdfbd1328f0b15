"""Data types that sources yield and targets write: a run and its parts, in W&B's terms.

All times are Unix milliseconds. All values are as W&B recorded them: names and limits of MLflow
are applied by the rules in `mapping/`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

Key: TypeAlias = tuple[str, ...]
"""A W&B key as the labels of its nesting: ``{"a": {"b": 1}}`` is ``("a", "b")``."""

RunState: TypeAlias = Literal["running", "finished", "failed", "crashed", "killed", "preempted"]


@dataclass(frozen=True, slots=True)
class MlflowOrigin:
    """What a run that was created in MLflow was there, where `RunInfo` has no field for it.

    Attributes:
        experiment: its name.
        parent_id: id of its parent there; empty for none.
        tags: those with no field of their own.
        datasets: what is known of its inputs.
    """

    experiment: str = ""
    parent_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[Mapping[str, Any], ...] = ()


class StepDefinition(NamedTuple):
    """What `define_metric` said about the x axis of keys.

    Attributes:
        since: W&B's step from which on it holds.
        name: a dotted key, or a glob, which ends with ``*``.
        step_metric: dotted key of the metric whose values are the x axis; empty for W&B's step.
    """

    since: int
    name: str
    step_metric: str


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Everything about a run that is not a series or a file.

    Attributes:
        segments: the logs this run was recorded in, oldest first; a resumed run has several.
        started_ms, ended_ms: Unix ms; ended_ms is None while the run goes on.
        config: the config as it stands.
        first_config: each config leaf's first value, by nested path. Params are made of it, because
            a param in MLflow cannot change.
        summary: the summary, nested; of a resumed run, as its latest log has it.
        last: each numeric history key's last value in that log.
        carried: leaves of the summary that W&B handed to that log when it began, and that it has
            not logged since.
        rows: number of history rows, by segment.
        points: estimated number of points, where it is known before reading.
        last_step, last_ms: of the last history row; None when there is none. ``last_ms`` is the
            start of the latest log if that has no row.
        missing: part of the run's log is known to be lost, so that it is never complete.
        facts: origin of the run: program, args, host, user, email, python, git_commit, …; owner,
            whose the log is on this machine; and alerts, mappings with title, text and level.
        selection: which metrics and artifacts the source has, as text, where it does not have all
            of W&B's: an archive may have been written so. Empty for all.
        step_definitions: the x axes of keys, in the order in which they were defined. Those of a
            row are known before its points are yielded.
        mlflow: of a run that was created in MLflow, where the other fields are as MLflow had them;
            see `mapping.from_wandb_mirror`.
    """

    run_id: str
    project: str
    entity: str = ""
    name: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    group: str = ""
    job_type: str = ""
    sweep_id: str = ""
    url: str = ""
    segments: tuple[str, ...] = ()
    state: RunState = "running"
    exit_code: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    first_config: Mapping[Key, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[Key, float] = field(default_factory=dict)
    carried: Mapping[Key, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    points: int | None = None
    last_step: int | None = None
    last_ms: int | None = None
    missing: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    selection: str = ""
    step_definitions: tuple[StepDefinition, ...] = ()
    mlflow: MlflowOrigin | None = None

    @property
    def project_path(self) -> str:
        """W&B's path of the run's project, ``entity/project``, without the parts that are
        unknown."""
        return "/".join(part for part in (self.entity, self.project) if part)

    @property
    def path(self) -> str:
        """W&B's run path, ``entity/project/run_id``, without the parts that are unknown."""
        return "/".join(part for part in (self.entity, self.project, self.run_id) if part)


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one numeric key, in the order in which they were logged.

    The three sequences have one length. ``kind`` is "history" for what the user logged,
    "system" for what W&B measured; a system point's step is meaningless (0).
    """

    key: Key
    steps: Sequence[int]
    timestamps_ms: Sequence[int]
    values: Sequence[float]
    kind: Literal["history", "system"] = "history"


@dataclass(frozen=True, slots=True)
class RowObjects:
    """The values of one history row that are no numbers: text, lists, media, histograms, null."""

    step: int
    timestamp_ms: int
    values: Mapping[Key, Any]


INT64 = 2**63
"""Integers of 64 bits are from -INT64 to INT64 - 1."""
NO_FILE = Path(os.devnull)
"""Path of a file that is not read."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of the run.

    Attributes:
        path: relative to W&B's ``files/``, with forward slashes.
        refused: why the file is not read; ``local`` is then `NO_FILE`.
        fixed: nobody writes to ``local`` any more: a link to it keeps its content.
        removed: the run no longer has the file, or any file below the folder, of this path;
            ``local`` is then `NO_FILE`. Only a run that is read from a journal has such.
    """

    path: str
    local: Path
    refused: str = ""
    fixed: bool = False
    removed: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactEntry:
    """One file of an artifact: a local copy, or a reference to another store, or neither.

    Attributes:
        refused: why the local copy is not read; ``local`` is then None.
        kept_in: W&B's id of the artifact version that the target has this file of; it is not
            uploaded again.
    """

    path: str
    digest: str
    size: int
    local: Path | None = None
    ref: str | None = None
    refused: str = ""
    kept_in: str = ""


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A W&B artifact that the run logged or used."""

    type: str
    name: str
    version: str
    digest: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    entries: tuple[ArtifactEntry, ...] = ()
    used: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Position ``position`` in log ``segment``, up to which all items were yielded.

    Attributes:
        rows_too: reading from here also yields no `RowObjects` of earlier rows again.
        whole_rows: no more values of the rows so far will come. False where a source has its points
            key by key.
    """

    segment: str
    position: int
    rows_too: bool = False
    whole_rows: bool = True


@dataclass(frozen=True, slots=True)
class UnreadableRange:
    """A part of a source that could not be read.

    Attributes:
        offset, length: in bytes, or in what ``unit`` names, a plural noun.
        lost: False where another log has the same data, or a later read may find it.
    """

    where: str
    offset: int
    length: int
    reason: str
    unit: str = "bytes"
    lost: bool = True

    def __str__(self) -> str:
        place = f"at {self.unit.removesuffix('s')} {self.offset}"
        return f"{self.where}: {self.length} {self.unit} {place} unreadable ({self.reason})"


Item: TypeAlias = (
    RunInfo | Series | RowObjects | FileRef | ArtifactRef | Checkpoint | UnreadableRange
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs of a source to read. Empty means all.

    Attributes:
        runs: ids, display names, or regular expressions that match one of them whole.
        filter: for W&B servers, a MongoDB-style filter as `wandb.Api().runs` takes; for MLflow,
            text in the language of `mlflow.search_runs`. See `Source.filter_language`: others
            refuse an empty one, too. None for no filter.
        states: W&B's run states.
        since_ms, until_ms: when the run started, Unix ms; since is inclusive, until is not.
        groups: W&B groups.
        projects: names of W&B projects, or regular expressions that match one of them whole.
        experiments: of MLflow: names, ids, or regular expressions that match a name whole.
        newest_first: the order; oldest first by default, so that MLflow lists the newest on top.
    """

    runs: tuple[str, ...] = ()
    filter: Mapping[str, Any] | str | None = None
    states: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    groups: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    newest_first: bool = False

    def takes(self, info: RunInfo) -> bool:
        """Return whether ``info`` is selected; the source applies filter and experiments."""
        names = (info.run_id, info.name)
        return (
            (not self.runs or any(_matches(wanted, names) for wanted in self.runs))
            and (not self.states or info.state in self.states)
            and (not self.groups or info.group in self.groups)
            and self.takes_project(info.project)
            and (self.since_ms is None or (info.started_ms or 0) >= self.since_ms)
            and (self.until_ms is None or (info.started_ms or 0) < self.until_ms)
        )

    def takes_project(self, name: str) -> bool:
        """Return whether runs of this project are selected."""
        return not self.projects or any(_matches(wanted, (name,)) for wanted in self.projects)

    def takes_experiment(self, experiment_id: str, name: str) -> bool:
        """Return whether runs of this MLflow experiment are selected."""
        return (
            not self.experiments
            or experiment_id in self.experiments
            or any(_matches(wanted, (name,)) for wanted in self.experiments)
        )


def _matches(wanted: str, names: Sequence[str]) -> bool:
    if wanted in names:
        return True
    try:
        return any(re.fullmatch(wanted, name) for name in names)
    except re.error:
        return False


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a run: number of points, bytes of files, requests to the source, number of files."""

    points: int = 0
    file_bytes: int = 0
    requests: int = 0
    files: int = 0


def flatten(tree: Mapping[str, Any], prefix: Key = ()) -> dict[Key, Any]:
    """Return the leaves of a nested mapping by path. An empty mapping below the top is a leaf."""
    leaves: dict[Key, Any] = {}
    for label, value in tree.items():
        path = (*prefix, str(label))
        if isinstance(value, Mapping) and value:
            leaves.update(flatten(value, path))
        else:
            leaves[path] = value
    return leaves


def row_leaves(tree: Mapping[str, Any], prefix: Key = ()) -> dict[Key, Any]:
    """Return the values of a nested row by path, as `flatten`, but a typed value of W&B's, such as
    an image or a histogram, whole."""
    leaves: dict[Key, Any] = {}
    for label, value in tree.items():
        path = (*prefix, label)
        if isinstance(value, Mapping) and value and "_type" not in value:
            leaves.update(row_leaves(value, path))
        else:
            leaves[path] = value
    return leaves


def nest(leaves: Mapping[Key, Any]) -> dict[str, Any]:
    """Invert `flatten`. Of a leaf and a branch of one path, the later replaces the earlier."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        node = tree
        for label in path[:-1]:
            below = node.get(label)
            if not isinstance(below, dict):
                below = node[label] = {}
            node = below
        node[path[-1]] = value
    return tree


def set_leaf(leaves: dict[Key, T], path: Key, value: T) -> None:
    """Set one leaf of a tree that is kept by path; remove the leaves above and below it."""
    depth = len(path)
    for other in [
        other for other in leaves if other[:depth] == path or path[: len(other)] == other
    ]:
        if other != path:
            del leaves[other]
    leaves[path] = value


def as_float(value: float) -> float:
    """Return ``value`` as a double; integers beyond its range become infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
