"""Read archives that export-wandb-to-mlflow wrote in its dry run: CSV and JSON, a folder a run.

They lack the entity, the run's state, W&B's names of keys (``a.b`` is ``a/b``), and the times of
system metrics (they have row numbers instead). The CSV is not quoted: lines are split by what is
known about their fields, and lines that do not match are reported.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from mlflow_wandb_plugin.core.identity import TO_THE_END
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    Item,
    RunInfo,
    Selection,
    Series,
    Size,
    UnreadableRange,
    flatten,
)
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.mapping import system_metrics

TAGS, PARAMS = "tags.csv", "params.json"
METRICS, SYSTEM_METRICS = "metrics", "system_metrics"
SEGMENT = "export-wandb-to-mlflow"
BLOCK_LINES = 50_000
_INTERNAL = frozenset({"_step", "_timestamp", "_runtime"})
_RUN_TAGS = (
    "run_group", "wandb_run_name", "wandb_run_id", "wandb_run_created_at",
    "wandb_migration_complete",
)  # fmt: skip
_PROJECT_TAGS = ("migrate_from_wandb_project", "wandb_project_name")
_BOOLEANS = {"True": 1.0, "False": 0.0}


def is_ewm_archive(path: Path) -> bool:
    """Whether ``path`` is such an archive, one of its projects, or one of its runs."""
    return next(_run_folders(path), None) is not None


class EwmArchive(Source):
    """A `Source` of such an archive.

    Args:
        path: ``dry_run_save_dir``, or a project's or run's folder in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders: dict[tuple[str, str], Path] = {}

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield runs by the time of their creation.

        Raises:
            SourceError: there are no runs in the folder.
        """
        folders = _run_folders(self._path)
        started = [(_read_run(folder)[0].started_ms or 0, str(folder)) for folder in folders]
        if not started:
            raise SourceError(f"no runs in {self._path}")
        for _, name in sorted(started, reverse=selection.newest_first):
            info = _read_run(Path(name))[0]
            self._folders[info.project, info.run_id] = Path(name)
            if selection.takes(info):
                yield info

    def size(self, run: RunInfo) -> Size:
        """Count the points, which are lines."""
        return Size(points=sum(_count_lines(table.path) for table in _tables(self._folder(run))))

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """Yield the run file by file; a position is the size of the files so far, in bytes."""
        since_bytes = since.get(SEGMENT, 0)
        folder = self._folder(run)
        info, unreadable = _read_run(folder)
        yield from unreadable
        position, last_step, last_ms, missing = 0, None, None, bool(unreadable) or info.missing
        for table in _tables(folder):
            position += table.path.stat().st_size
            reading = _TableReading(table, info.started_ms or 0)
            copied = since_bytes == TO_THE_END or position <= since_bytes
            for item in reading.items():
                missing = missing or isinstance(item, UnreadableRange)
                if not copied or isinstance(item, UnreadableRange):
                    yield item
            if table.kind == "history" and reading.last_ms is not None:
                last_step = max(reading.last_step, last_step or reading.last_step)
                last_ms = max(reading.last_ms, last_ms or 0)
            if not copied:
                yield Checkpoint(SEGMENT, position, whole_rows=False)
        ended_ms = last_ms or info.started_ms
        yield replace(
            info, last_step=last_step, last_ms=last_ms, ended_ms=ended_ms, missing=missing
        )

    def _folder(self, run: RunInfo) -> Path:
        try:
            return self._folders[run.project, run.run_id]
        except KeyError:
            raise SourceError(f"no run {run.path} in {self._path}") from None


def _run_folders(path: Path) -> Iterator[Path]:
    for pattern in ("", "*", "*/*"):
        found = False
        for folder in filter(_is_run, sorted(path.glob(pattern)) if pattern else [path]):
            found = True
            yield folder
        if found:
            return


def _is_run(folder: Path) -> bool:
    if not (folder / TAGS).is_file():
        return False
    has_parts = any((folder / name).exists() for name in (PARAMS, METRICS, SYSTEM_METRICS))
    return has_parts or "wandb_run_id" in _read_tags(folder / TAGS, _RUN_TAGS)[0]


# -- runs -------------------------------------------------------------------------------------


def _read_run(folder: Path) -> tuple[RunInfo, list[UnreadableRange]]:
    tags, unreadable = _read_tags(folder / TAGS, _RUN_TAGS)
    config, more_damage = _read_params(folder / PARAMS)
    complete = tags.get("wandb_migration_complete") == "True"
    started = _milliseconds(tags.get("wandb_run_created_at", ""))
    info = RunInfo(
        run_id=tags.get("wandb_run_id") or folder.name,
        project=_project(folder),
        name=tags.get("wandb_run_name", ""),
        group=tags.get("run_group", ""),
        segments=(SEGMENT,),
        # That tool sets every run that it has migrated to FINISHED.
        state="finished",
        started_ms=started if started is not None else _first_time(folder),
        config=config,
        first_config=flatten(config),
        missing=not complete,
    )
    return info, unreadable + more_damage


def _project(folder: Path) -> str:
    tags = folder.parent / TAGS
    named = _read_tags(tags, _PROJECT_TAGS)[0] if tags.is_file() else {}
    return named.get("wandb_project_name") or folder.parent.name


def _read_tags(path: Path, known: tuple[str, ...]) -> tuple[dict[str, str], list[UnreadableRange]]:
    """Parse lines ``key, value``; a value may contain commas and line ends, so keys are known."""
    tags: dict[str, str] = {}
    unreadable: list[UnreadableRange] = []
    key, at = "", 0
    for raw in io.BytesIO(path.read_bytes()):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        start, comma, value = line.partition(",")
        if comma and start in known:
            key = start
            tags[key] = value.removeprefix(" ")
        elif key:
            tags[key] += "\n" + line
        elif line:
            reason = "not a tag that this tool wrote"
            unreadable.append(UnreadableRange(str(path), at, len(raw), reason))
        at += len(raw)
    return tags, unreadable


def _read_params(path: Path) -> tuple[dict[str, Any], list[UnreadableRange]]:
    """Read the config; its dicts, which that tool wrote as JSON text, become dicts again."""
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return {}, [UnreadableRange(str(path), 0, 0, "missing: the export was cut short")]
    except (OSError, ValueError) as error:
        return {}, [UnreadableRange(str(path), 0, path.stat().st_size, str(error))]
    return {key: _parsed_dict(value) for key, value in document.items()}, []


def _parsed_dict(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _milliseconds(text: str) -> int | None:
    """Convert W&B's ``2024-05-01T12:00:00`` or ``…Z``, which are UTC, to Unix ms."""
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def _first_time(folder: Path) -> int | None:
    times = []
    for table in _tables(folder):
        if table.kind == "history":
            with open(table.path, "rb") as file:
                point = _point(file.readline())
            if point is not None:
                times.append(point[1])
    return min(times, default=None)


# -- points -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """One key's CSV file."""

    path: Path
    key: str
    kind: Literal["history", "system"]


def _tables(folder: Path) -> Iterator[_Table]:
    """Yield the run's CSV files in a fixed order, without W&B's internal keys."""
    for kind, name in (("history", METRICS), ("system", SYSTEM_METRICS)):
        for path in sorted((folder / name).rglob("*.csv")):
            key = path.relative_to(folder / name).as_posix().removesuffix(".csv")
            if kind == "history" and key not in _INTERNAL:
                yield _Table(path, key, "history")
            elif kind == "system":
                yield _Table(path, key.removeprefix(system_metrics.PREFIX), "system")


class _TableReading:
    """Reads lines ``value, timestamp, step``; keeps the largest step and time."""

    def __init__(self, table: _Table, started_ms: int) -> None:
        self._table = table
        self._started_ms = started_ms
        self.last_step = 0
        self.last_ms: int | None = None

    def items(self) -> Iterator[Item]:
        """Yield the points in blocks, and the lines that cannot be read."""
        points: list[tuple[float, int, int]] = []
        at = 0
        with open(self._table.path, "rb") as file:
            for line in file:
                point = _point(line)
                if point is None:
                    reason = "not a line of value, time and step"
                    yield UnreadableRange(str(self._table.path), at, len(line), reason)
                else:
                    points.append(point)
                at += len(line)
                if len(points) >= BLOCK_LINES:
                    yield self._series(points)
                    points = []
        if points:
            yield self._series(points)

    def _series(self, points: list[tuple[float, int, int]]) -> Series:
        values, times, steps = (list(column) for column in zip(*points, strict=True))
        self.last_step = max(self.last_step, *steps)
        self.last_ms = max(self.last_ms or 0, *times)
        if self._table.kind == "history":
            return Series((self._table.key,), steps, times, values)
        # The archive lacks the times: sample n is set to n seconds after the run's start.
        times = [self._started_ms + 1000 * step for step in steps]
        return Series((self._table.key,), [0] * len(steps), times, values, "system")


_LINE = re.compile(rb"\s*([^,]+?)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\n")


def _point(line: bytes) -> tuple[float, int, int] | None:
    """Parse a line with a line end; one without may have lost digits of its step."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    text = match[1].decode("utf-8", "replace")
    try:
        value = _BOOLEANS[text] if text in _BOOLEANS else float(text)
    except ValueError:
        return None
    return value, int(match[2]), int(match[3])


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
