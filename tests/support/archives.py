"""Archives for tests: a source of one made run, and what an archive holds, to compare."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from mlflow_wandb_plugin.archive.target import (
    ArchiveTarget,
)
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import (
    ArtifactEntry,
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
)
from mlflow_wandb_plugin.core.protocols import Source


class MadeSource(Source):
    """A `Source` of one run: blocks of rows with objects, then files and an artifact.

    As a real one may, it sends the block that ``since`` lies in from its beginning.
    """

    rows = 500

    def __init__(self, folder: Path, blocks: int = 40) -> None:
        self._folder = folder
        self.blocks = blocks
        self.sent = 0
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(20):
            (folder / f"{number}.txt").write_bytes(random.Random(number).randbytes(20_000))

    @property
    def info(self) -> RunInfo:
        return RunInfo(
            "made",
            "Project",
            "team",
            segments=("log",),
            state="finished",
            started_ms=10,
            ended_ms=10**6,
            rows={"log": self.blocks * self.rows},
        )

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        yield self.info

    def size(self, run: RunInfo) -> Any:
        raise NotImplementedError

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        carried = since.get("log", 0)
        for block in range(self.blocks):
            steps = range(block * self.rows, (block + 1) * self.rows)
            times = [1000 + step for step in steps]
            if (block + 2) * self.rows > carried:
                self.sent += 1
                for key in (("loss",), ("a", "b"), ("a.b",)):
                    yield Series(key, steps, times, [step / len(key) for step in steps])
                yield Series(
                    ("cpu",), [0] * len(steps), times, [float(block)] * len(steps), "system"
                )
            yield from (RowObjects(s, 1000 + s, {("text",): f"row {s}"}) for s in steps[::10])
            if steps.stop > carried:
                yield Checkpoint("log", steps.stop)
        for number in range(20):
            yield FileRef(f"Folder/{number}.txt", self._folder / f"{number}.txt")
        entry = ArtifactEntry("w.bin", "d", 20_000, self._folder / "1.txt")
        yield ArtifactRef("model", "weights", "v0", entries=(entry,))
        yield replace(self.info, summary={"final": math.nan})


def archive_made(target: Path, folder: Path, blocks: int = 40) -> list[Outcome]:
    from mlflow_wandb_plugin.backfill.engines.threads import backfill as run_backfill

    return list(run_backfill(MadeSource(folder, blocks), ArchiveTarget(target), Selection()))


def items_of(source: Source) -> dict[str, Any]:
    """All that a source gives, by run: files by content, points without regard to blocks."""
    found: dict[str, Any] = {}
    for run in source.runs(Selection()):
        points: list[Any] = []
        rest: list[Any] = []
        for item in source.read(run, {}):
            if isinstance(item, Series):
                columns = zip(item.steps, item.timestamps_ms, map(repr, item.values), strict=True)
                points += [(item.kind, item.key, *point) for point in columns]
            elif isinstance(item, FileRef):
                rest.append((item.path, item.local.read_bytes()))
            elif isinstance(item, ArtifactRef):
                locals_ = [e.local.read_bytes() if e.local else e.ref for e in item.entries]
                rest.append((repr(replace(item, entries=())), locals_))
            elif not isinstance(item, Checkpoint):
                rest.append(repr(item))
        found[run.run_id] = (sorted(points), rest)
    return found


def points_of(root: Path) -> list[Any]:
    files = sorted(root.glob("*/*/*/metrics/*.parquet"))
    rows = pd.concat([pd.read_parquet(file) for file in files])
    return sorted(rows.itertuples(index=False, name=None))


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def part_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("part-*.parquet")}


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
