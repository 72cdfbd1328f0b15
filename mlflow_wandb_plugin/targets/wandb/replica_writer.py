"""Write one run to W&B: its items become a transaction log, which is uploaded at the end."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Origin
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.private_files import writing
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.targets.wandb import log_records
from mlflow_wandb_plugin.targets.wandb.history_rows import HistoryRows
from mlflow_wandb_plugin.targets.wandb.log_records import LogArtifact
from mlflow_wandb_plugin.targets.wandb.replica_folder import ReplicaFolder

REFUSED_POINT = "point"


@dataclass(slots=True)
class Arrived:
    """What W&B has of a run before it is written.

    Attributes:
        rows: number of its history's next row, which is its next step.
        lines: number of rows of its history.
        system_samples: number of its samples of system metrics.
        replica: the tags in its config that say which run it replicates.
    """

    rows: int = 0
    lines: int = 0
    system_samples: int = 0
    replica: Mapping[str, str] = field(default_factory=dict)


class ReplicaPlace(ABC):
    """Where the log of one run goes: a server, or a folder for ``wandb sync``."""

    entity: str
    project: str

    @abstractmethod
    def folder(self, info: RunInfo) -> Path:
        """Return the folder to write the log into."""

    def final_folder(self, info: RunInfo) -> Path:
        """Return where the folder is when the log is read."""
        return self.folder(info)

    @abstractmethod
    def lacking_files(self, info: RunInfo, files: Mapping[str, Path]) -> list[str]:
        """Return those of ``files`` that W&B does not have with this content."""

    @abstractmethod
    def remove_files(self, info: RunInfo, paths: Sequence[str]) -> None:
        """Delete files and folders of the run, as far as W&B has them.

        Raises:
            TargetUnavailableError: W&B does not answer.
        """

    def artifacts_of_log(self, folder: ReplicaFolder) -> Sequence[LogArtifact]:
        """Return the artifacts that the run's log is to have; `deliver` sees to the others."""
        return folder.artifacts

    def artifact_record(self, info: RunInfo, artifact: LogArtifact) -> Any:
        return log_records.artifact(artifact, info.run_id, self.entity, self.project)

    @abstractmethod
    def deliver(self, info: RunInfo, folder: ReplicaFolder, whole: Arrived) -> None:
        """Bring a closed log to its place, and record the tags, if any, once all has arrived.

        Args:
            whole: what W&B has when all has arrived.

        Raises:
            TargetUnavailableError: W&B does not have everything.
        """

    @abstractmethod
    def clear(self, info: RunInfo, fields: Collection[str]) -> None:
        """Empty the run's ``tags`` or ``notes``: a log that lacks them leaves them as they are."""

    @abstractmethod
    def close(self) -> None:
        """Remove what is temporary. Never raises."""


class ReplicaWriter:
    """A `RunWriter` of one W&B run.

    Rows that W&B has are left out, so a run is read from its start each time, and what is written
    twice is the same. Nothing is sent before `finish`, unless ``sends_parts``.

    Args:
        arrived: what W&B has of the run.
        selection: which metrics and artifacts the items have, as text.
        sends_parts: whether each checkpoint sends what there is, for a run that goes on.
        rows: collects the rows to write; default: those behind the ones that have arrived.
    """

    def __init__(
        self,
        place: ReplicaPlace,
        info: RunInfo,
        origin: Origin,
        arrived: Arrived,
        selection: str,
        sends_parts: bool = False,
        rows: HistoryRows | None = None,
    ) -> None:
        self._losses: Counter[str] = Counter()
        self._place = place
        self._first = self._info = info
        self._arrived = arrived
        self._sends_parts = sends_parts
        self._secrets = Secrets.of_setting()
        made = identity.identity_tags(info, origin, rules.MAPPING_VERSION)
        made |= {identity.SELECTION: selection} if selection else {}
        self._replica = {**made, **(arrived.replica or {}), identity.STATE: "live"}
        self._rows = rows or HistoryRows(arrived.rows - 1)
        self._system: dict[int, dict[str, float]] = {}
        self._filled = _filled(info)
        self._part: ReplicaFolder | None = None
        with _closed_on_error(place):
            self._part = self._new_part()

    @property
    def run_id(self) -> str:
        return self._first.run_id

    @property
    def experiment_id(self) -> str:
        return f"{self._place.entity}/{self._place.project}"

    @property
    def position(self) -> Mapping[str, int]:
        return {}

    @property
    def losses(self) -> Mapping[str, int]:
        refused = {REFUSED_POINT: self._rows.refused} if self._rows.refused else {}
        return dict(+self._losses) | refused

    def update(self, info: RunInfo) -> None:
        self._info = info
        self._filled |= _filled(info)

    def append(self, series: Series) -> None:
        if series.kind == "history":
            self._rows.add_series(series)
            return
        name = ".".join(series.key)
        for at_ms, value in zip(series.timestamps_ms, series.values, strict=True):
            self._system.setdefault(int(at_ms), {})[name] = float(value)

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        folder = self._folder
        with writing(folder.path):
            if isinstance(item, RowObjects):
                self._rows.add_objects(item)
            elif isinstance(item, FileRef):
                folder.add_file(item)
            else:
                folder.add_artifact(item)

    def record_loss(self, unreadable: UnreadableRange) -> None:
        self._losses[f"damaged_{unreadable.unit}"] += unreadable.length

    def restart(self, complete: bool) -> Mapping[str, int]:
        """The run is read from its start in any case."""
        return {}

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        folder = self._folder
        if checkpoint.whole_rows:
            with writing(folder.path):
                self._write_rows(folder)
        if self._sends_parts:
            self._send({})

    def finish(self, info: RunInfo, complete: bool) -> None:
        self.update(info)
        if info.sweep_id:
            # A sweep of the target has another id, and an agent that may start runs.
            self._losses["sweep"] = 1
        self._send(self._last_replica(complete))

    def close(self) -> None:
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.close()
            self._part.remove()
        self._place.close()

    @property
    def _folder(self) -> ReplicaFolder:
        """The folder of the log that is being written."""
        if self._part is None:
            self._part = self._new_part()
        return self._part

    def _new_part(self) -> ReplicaFolder:
        info, place = self._info, self._place
        path, final = place.folder(info), place.final_folder(info)
        # A reader of the log decides by its first record what the run is.
        of_mlflow = (rules.MLFLOW_KEY, identity.RUN_ID_CONFIG_KEY)
        shown = shown_config(info, self._secrets) if rules.MLFLOW_KEY in info.config else {}
        first = {key: value for key, value in shown.items() if key in of_mlflow}
        first |= {identity.REPLICA_CONFIG_KEY: self._replica}
        with writing(path):
            folder = ReplicaFolder(path, final, info.run_id, self._losses)
            folder.write(self._run_record(info, first))
        return folder

    def _send(self, replica: Mapping[str, str]) -> None:
        """Send everything that W&B lacks, and record ``replica``, unless it is empty."""
        info, folder, rows = self._info, self._folder, self._rows
        if folder.removed:
            self._place.remove_files(info, folder.removed)
        with writing(folder.path):
            self._write_end(folder)
        lines = self._arrived.lines + rows.taken
        self._place.deliver(info, folder, Arrived(rows.last + 1, lines, 0, replica))
        emptied = self._filled - _filled(info)
        if emptied:
            self._place.clear(info, emptied)
        self._filled = _filled(info)
        self._arrived.system_samples = max(self._arrived.system_samples, len(self._system))
        folder.remove()
        self._part = None

    def _write_end(self, folder: ReplicaFolder) -> None:
        """Write all that is left, and close the log."""
        info = self._info
        self._write_rows(folder)
        self._write_system_metrics(folder)
        self._write_description(folder)
        folder.write_files(self._place.lacking_files(info, folder.files))
        for artifact in self._place.artifacts_of_log(folder):
            folder.write(self._place.artifact_record(info, artifact))
        folder.write(end_record(info))
        folder.close()

    def _write_rows(self, folder: ReplicaFolder) -> None:
        # A journal may not say at its beginning when its run started.
        started_ms = self._first.started_ms or self._info.started_ms
        for row in self._rows.take():
            folder.write(log_records.history(row, started_ms))

    def _write_system_metrics(self, folder: ReplicaFolder) -> None:
        """Write the samples that W&B lacks: it keeps them in the order in which they came."""
        for at_ms in sorted(self._system)[self._arrived.system_samples :]:
            folder.write(log_records.system_metrics(at_ms, self._system[at_ms]))

    def _write_description(self, folder: ReplicaFolder) -> None:
        info = self._info
        shown = shown_config(info, self._secrets)
        folder.write(self._run_record(info, {}))
        folder.write(log_records.config(shown))
        for definition in log_records.definitions(info.config.get(rules.INTERNAL_KEY)):
            folder.write(definition)
        if rules.MLFLOW_KEY in shown:
            folder.write(log_records.define_metric("*", rules.STEP_METRIC))
            folder.write(log_records.hide_from_summary(rules.STEP_METRIC))
        internal: dict[str, Any] = {"_step": self._rows.last}
        if info.last_ms is not None:
            internal["_timestamp"] = info.last_ms / 1000
        folder.write(log_records.summary({**info.summary, **internal}))

    def _run_record(self, info: RunInfo, config: Mapping[str, Any]) -> Any:
        return log_records.run(info, self._place.entity, self._place.project, config)

    def _last_replica(self, complete: bool) -> dict[str, str]:
        replica = dict(self._replica)
        if complete:
            position = identity.ended({}, self._info.segments)
            replica[identity.STATE] = "complete"
            replica[identity.POSITION] = json.dumps(position)
            replica[identity.ROWS] = json.dumps(dict(self._info.rows))
        elif self._info.state != "running":
            replica[identity.STATE] = "partial"
        return replica | {identity.LOSSES: json.dumps(dict(sorted(self.losses.items())))}


def _filled(info: RunInfo) -> set[str]:
    """Return which of the fields that `ReplicaPlace.clear` empties have a value."""
    return {name for name, value in (("tags", info.tags), ("notes", info.notes)) if value}


@contextlib.contextmanager
def _closed_on_error(place: ReplicaPlace) -> Iterator[None]:
    try:
        yield
    except BaseException:
        place.close()
        raise


def shown_config(info: RunInfo, secrets: Secrets) -> dict[str, Any]:
    """Return the config as W&B gets it: without W&B's internal part, and without secrets."""
    hidden: dict[str, Any] = secrets.value(
        {
            key: value
            for key, value in info.config.items()
            if key not in (rules.INTERNAL_KEY, identity.REPLICA_CONFIG_KEY)
        }
    )
    return hidden


def end_record(info: RunInfo) -> Any:
    """The end of the run's log."""
    last_ms = info.ended_ms or info.last_ms or info.started_ms or 0
    runtime_s = (last_ms - (info.started_ms or last_ms)) / 1000
    return log_records.end(exit_code(info), runtime_s)


def exit_code(info: RunInfo) -> int:
    """Return the exit code that gives a run its state: W&B derives finished or failed from it."""
    if info.state in ("finished", "running"):
        return 0
    return info.exit_code or rules.EXIT_CODES["KILLED" if info.state == "killed" else "FAILED"]
