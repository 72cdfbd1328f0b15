"""Read all of one run that came from W&B into MLflow, as W&B had it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import (
    ArtifactEntry,
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    Key,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
    flatten,
    row_leaves,
)
from mlflow_wandb_plugin.core.protocols import SourceOptions
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mapping import documents, system_metrics, to_mlflow
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.mapping.to_wandb import SEGMENT
from mlflow_wandb_plugin.sources.mlflow.artifact_store import ArtifactStore, StoredFile
from mlflow_wandb_plugin.sources.mlflow.point_spool import PointSpool
from mlflow_wandb_plugin.sources.mlflow.points import PointReader
from mlflow_wandb_plugin.sources.mlflow.replica import replica_info
from mlflow_wandb_plugin.sources.mlflow.rows import RowBuilder
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient
from mlflow_wandb_plugin.sources.mlflow.wandb_steps import WandbSteps, can_be_found

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run
    from numpy.typing import NDArray

BLOCK_POINTS = 100_000
"""Points in memory at a time."""
FOLDER = "wandb"
"""The folder of W&B's files and of documents about them among the artifacts."""


class ReplicaReading:
    """Reads one run.

    Args:
        run: MLflow's entity.
    """

    def __init__(
        self, client: StoreClient, points: PointReader, run: Run, options: SourceOptions
    ) -> None:
        self._client = client
        self._points = points
        self._run = run
        self._options = options
        self._tags = identity.present_tags(run.data.tags)
        self._info = replica_info(run)
        self._missing = False
        self._store: ArtifactStore | None = None
        self._files: dict[str, StoredFile] = {}
        self._renamed: Mapping[str, list[str]] = {}
        self._summary_points: Mapping[str, Any] = {}
        self._count = 0
        self._last: dict[Key, float] = {}
        self._last_step: int | None = None
        self._last_ms: int | None = None
        self._steps: WandbSteps | None = None

    def describe(self) -> RunInfo:
        """Return the run with its config and summary."""
        for _ in self._load():
            pass
        return self._info

    def history(self, since: int = 0) -> Iterator[Item]:
        """Yield the rows of numbers alone, and the run as it is then."""
        yield from self._load()
        with closing(self._spool()) as spool:
            yield from self._series(spool, since)
        yield self._described()

    def read(self, since: int) -> Iterator[Item]:
        """Yield everything; see `MlflowSource.read`.

        Args:
            since: rows with lower numbers may be left out.
        """
        yield from self._load()
        with closing(self._spool()) as spool:
            yield replace(self._info, state="running", ended_ms=None, points=spool.count)
            yield from self._row_objects()
            yield from self._series(spool, since)
        if self._options.artifacts:
            yield from self._wandb_files()
            yield from self._artifacts()
        yield replace(self._described(), missing=self._missing)

    def _load(self) -> Iterator[Item]:
        """List W&B's files, and read the documents that describe the run."""
        try:
            uri = self._run.info.artifact_uri or ""
            self._store = ArtifactStore(self._client, uri, self._options.follow_links)
            self._files = {file.path: file for file in self._store.files(FOLDER)}
        except SourceUnavailableError:
            raise
        except SourceError as error:
            yield self._lost("files", 1, str(error), "folders")
        config = yield from self._document(documents.CONFIG_FILE, {})
        summary = yield from self._document(documents.SUMMARY_FILE, {})
        renamed = yield from self._document(documents.RENAMED_FILE, {})
        if not renamed:
            renamed = _parsed(self._tags.get(identity.RENAMED, "{}"), {})
        names = renamed.get("metrics")
        self._renamed = names if isinstance(names, dict) else {}
        self._summary_points = yield from self._document(documents.SUMMARY_POINTS_FILE, {})
        long_tags = yield from self._document(documents.LONG_TAGS_FILE, {})
        definitions = yield from self._document(documents.DEFINITIONS_FILE, [])
        internal = {to_mlflow.INTERNAL_CONFIG_KEY: {to_mlflow.DEFINITIONS: definitions}}
        self._info = replace(
            replica_info(self._run, {tag: str(text) for tag, text in long_tags.items()}),
            config=config | (internal if definitions else {}),
            first_config=flatten(config),
            summary=summary,
        )

    def _document(self, path: str, default: Any) -> Generator[Item, None, Any]:
        text = yield from self._text(path)
        return default if text is None else _parsed(text, default)

    def _text(self, path: str) -> Generator[Item, None, str | None]:
        """Read a document; None if there is none."""
        if path not in self._files:
            return None
        file = self._files[path]
        try:
            copy = self._fetch(path)
            return copy.read_text(encoding="utf-8", errors="replace")
        except SourceUnavailableError:
            raise
        except (SourceError, OSError) as error:
            yield self._lost(f"file {path}", max(1, file.size), str(error))
            return None

    def _fetch(self, path: str) -> Path:
        assert self._store is not None
        copy = self._store.fetch(path)
        if copy.refused:
            raise SourceError(copy.refused)
        return copy.path

    def _spool(self) -> PointSpool:
        spool = PointSpool()
        try:
            self._points.read(self._run.info.run_id, sorted(self._run.data.metrics), spool)
        except BaseException:
            spool.close()
            raise
        self._count = spool.count
        return spool

    def _series(self, spool: PointSpool, since: int) -> Iterator[Item]:
        import numpy as np

        starts = [name.startswith(system_metrics.PREFIX) for name in spool.names]
        system = np.array(starts, bool)
        keys = self._keys(spool.names)
        # Where W&B's steps are lost, rows are numbered as those of MLflow's own runs.
        axes = StepAxes(self._info.step_definitions)
        numbered = identity.STEP_METRIC in self._tags or not can_be_found(axes)
        if axes.any and not numbered:
            self._find_steps(spool, axes, keys)
        self._find_last_row(spool, system)
        rows = RowBuilder([_joined(key) for key in keys], (), since) if numbered else None
        for block in spool.blocks(BLOCK_POINTS):
            for number in np.flatnonzero(system).tolist():
                yield from self._system_series(spool.names[number], block, number)
            history = self._history(block, spool.names, system)
            if rows is not None and len(history):
                yield from self._numbered_series(rows, history, keys)
            elif len(history):
                yield from self._step_series(history, keys, since)
                yield Checkpoint(SEGMENT, int(history["step"].max()) + 1)

    def _find_steps(self, spool: PointSpool, axes: StepAxes, keys: list[Key]) -> None:
        steps = WandbSteps(axes, [_joined(key) for key in keys])
        steps.learn(self._of_rows(block, spool.names) for block in spool.blocks(BLOCK_POINTS))
        self._steps = steps

    def _numbered_series(self, rows: RowBuilder, block: Any, keys: list[Key]) -> Iterator[Item]:
        by_name = {_joined(key): key for key in keys}
        for series in rows.series(block):
            yield replace(series, key=by_name.get(series.key[0], series.key))
        self._last = {by_name.get(key, (key,)): value for key, value in rows.last.items()}
        self._last_step, self._last_ms = rows.rows - 1, rows.last_ms
        yield Checkpoint(SEGMENT, rows.rows)

    def _keys(self, names: list[str]) -> list[Key]:
        """W&B's keys of metrics: renamed ones have theirs in a document, others in the summary."""
        summary = {".".join(path): path for path in flatten(self._info.summary)}
        return [
            tuple(map(str, self._renamed[name]))
            if name in self._renamed
            else summary.get(name, (name,))
            for name in names
        ]

    def _step_series(self, block: Any, keys: list[Key], since: int) -> Iterator[Series]:
        """Yield the columns of a block whose steps are W&B's."""
        import numpy as np

        points = block[np.lexsort((block["timestamp_ms"], block["step"], block["key"]))]
        for part in np.split(points, np.flatnonzero(np.diff(points["key"])) + 1):
            key = keys[int(part["key"][0])]
            # A point that W&B's summary has beside its history was written after the last row.
            part = part[(part["step"] != self._last_step) | (part["timestamp_ms"] == self._last_ms)]
            if len(part):
                self._last[key] = float(part["value"][-1])
            part = part[part["step"] >= since]
            if len(part):
                steps, times = part["step"].tolist(), part["timestamp_ms"].tolist()
                yield Series(key, steps, times, part["value"].tolist())

    def _history(self, block: Any, names: list[str], system: NDArray[np.bool_]) -> Any:
        """Those of a block's points that were in rows, with W&B's steps where they are known."""
        points = self._of_rows(block[~system[block["key"]]], names)
        return points if self._steps is None else self._steps.restored(points)

    def _of_rows(self, block: Any, names: list[str]) -> Any:
        """A block's points without those that the summary alone has."""
        import numpy as np

        wanted = np.ones(len(block), bool)
        for number, name in enumerate(names):
            for place in self._summary_points.get(name, ()):
                if isinstance(place, list) and len(place) == 2:
                    step, at_ms = place
                    there = (block["step"] == step) & (block["timestamp_ms"] == at_ms)
                    wanted &= ~(there & (block["key"] == number))
        return block[wanted]

    def _find_last_row(self, spool: PointSpool, system: NDArray[np.bool_]) -> None:
        """Find step and time of the last row of numbers."""
        for block in spool.blocks(BLOCK_POINTS):
            history = self._history(block, spool.names, system)
            if len(history) and history["step"].max() >= (self._last_step or 0):
                step = int(history["step"].max())
                at_ms = int(history["timestamp_ms"][history["step"] == step].min())
                known = self._last_ms if step == self._last_step else None
                self._last_ms = at_ms if known is None else min(known, at_ms)
                self._last_step = step

    def _system_series(self, name: str, block: Any, number: int) -> Iterator[Series]:
        part = block[block["key"] == number]
        if len(part):
            named = [system_metrics.wandb_metric(name, value) for value in part["value"].tolist()]
            values, times = [value for _, value in named], part["timestamp_ms"].tolist()
            yield Series((named[0][0],), [0] * len(part), times, values, "system")

    def _row_objects(self) -> Iterator[Item]:
        path = documents.HISTORY_FILE
        if path not in self._files:
            return
        try:
            local = self._fetch(path)
        except SourceUnavailableError:
            raise
        except SourceError as error:
            yield self._lost(f"file {path}", max(1, self._files[path].size), str(error))
            return
        # Only "\n" ends a line: texts may have other separators.
        with open(local, encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                document = _parsed(line, {})
                step, at_ms = document.pop("_step", None), document.pop("_timestamp_ms", None)
                if isinstance(step, int) and isinstance(at_ms, int):
                    yield RowObjects(step, at_ms, row_leaves(document))
                else:
                    yield self._unreadable(path, 1, "it is damaged", "lines")

    def _wandb_files(self) -> Iterator[Item]:
        below = f"{documents.FILES_DIR}/"
        for file in self._files.values():
            if not file.path.startswith(below):
                continue
            path = file.path.removeprefix(below)
            try:
                yield FileRef(path, self._fetch(file.path))
            except SourceUnavailableError:
                raise
            except SourceError as error:
                yield self._lost(f"file {path}", max(1, file.size), str(error))

    def _artifacts(self) -> Iterator[Item]:
        below = f"{documents.ARTIFACTS_DIR}/"
        for path in sorted(self._files):
            inside = path.removeprefix(below)
            if path.startswith(below) and inside.endswith(".json") and inside.count("/") == 2:
                document = yield from self._document(path, {})
                if "entries" in document:
                    yield from self._artifact(path.removesuffix(".json"), document)
        lineage = yield from self._document(documents.LINEAGE_FILE, [])
        for used in lineage:
            if isinstance(used, dict):
                kind, name, version = (str(used.get(k, "")) for k in ("type", "name", "version"))
                digest = str(used.get("digest", ""))
                yield ArtifactRef(kind, name, version, digest, used=True)

    def _artifact(self, base: str, document: Mapping[str, Any]) -> Iterator[Item]:
        entries = []
        for entry in document["entries"]:
            path, local = str(entry.get("path", "")), None
            stored = f"{base}/{safe_path(path)}"
            if stored in self._files:
                try:
                    local = self._fetch(stored)
                except SourceUnavailableError:
                    raise
                except SourceError as error:
                    yield self._lost(f"file {stored}", 1, str(error), "files")
            known = str(entry.get("digest", "")), int(entry.get("size") or 0)
            entries.append(ArtifactEntry(path, *known, local, entry.get("ref")))
        yield ArtifactRef(
            str(document.get("type") or ""),
            str(document.get("name") or ""),
            str(document.get("version") or ""),
            str(document.get("digest") or ""),
            str(document.get("description") or ""),
            aliases=tuple(map(str, document.get("aliases") or ())),
            metadata=dict(document.get("metadata") or {}),
            entries=tuple(entries),
        )

    def _lost(self, what: str, length: int, reason: str, unit: str = "bytes") -> UnreadableRange:
        self._missing = True
        return self._unreadable(what, length, reason, unit)

    def _unreadable(self, what: str, length: int, reason: str, unit: str) -> UnreadableRange:
        where = " ".join(f"{self._info.path}: {what}".split())
        return UnreadableRange(where, 0, length, reason, unit)

    def _described(self) -> RunInfo:
        rows = identity.total_rows(identity.read_numbers(self._tags, identity.ROWS))
        return replace(
            self._info,
            rows={SEGMENT: rows},
            points=self._count,
            last=dict(self._last),
            last_step=self._last_step,
            last_ms=self._last_ms,
        )


def _parsed(text: str, default: Any) -> Any:
    """Parse JSON of the type that ``default`` has; the default for another text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return default
    return found if isinstance(found, type(default)) else default


def _joined(key: Key) -> str:
    return ".".join(key)
