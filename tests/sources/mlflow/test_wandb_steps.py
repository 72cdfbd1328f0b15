"""Points that stand in MLflow at the values of step metrics are read at W&B's steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlflow_wandb_plugin.archive.source import ArchiveSource
from mlflow_wandb_plugin.archive.target import ArchiveTarget
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo, Selection, Series, StepDefinition
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.sources.mlflow.wandb_steps import WandbSteps, can_be_found
from tests.targets.mlflow.writing import end, opened

T = 1_700_000_000_000
DEFINED = (StepDefinition(0, "epoch", ""), StepDefinition(0, "*", "epoch"))
ROWS = {
    "loss": [(0, T, 4.0), (1, T + 5, 3.0), (2, T + 5, 3.5), (3, T + 9, 2.0), (4, T + 12, 1.0)],
    "epoch": [(0, T, 7.0), (1, T + 5, 7.0), (2, T + 5, 8.0), (3, T + 9, 0.5)],
    "apart": [(4, T + 12, 9.0)],
}


def written(uri: str, definitions: tuple[StepDefinition, ...]) -> None:
    info = RunInfo(
        "r1", "unit", segments=("seg",), state="finished", started_ms=T, ended_ms=T + 20,
        last_step=4, last_ms=T + 12, step_definitions=definitions,
        last={("epoch",): 0.5, ("loss",): 1.0}, summary={"best": 5.0},
    )  # fmt: skip
    with opened(uri, info) as writer:
        for key, points in ROWS.items():
            steps, times, values = zip(*points, strict=True)
            writer.append(Series((key,), steps, times, values))
        writer.checkpoint(Checkpoint("seg", 1))
        end(writer, replace(info, rows={"seg": 5}))


def points_of(source: Source) -> dict[str, list[tuple[Any, ...]]]:
    (run,) = source.runs(Selection())
    found: dict[str, list[tuple[Any, ...]]] = {}
    for item in source.history(run):
        if isinstance(item, Series) and item.kind == "history":
            points = zip(item.steps, item.timestamps_ms, item.values, strict=True)
            found.setdefault(item.key[0], []).extend(points)
    return found


def test_a_replica_has_the_rows_that_it_was_made_of(
    sqlite: str, opened: Callable[..., Source], tmp_path: Path
) -> None:
    """Also by way of an archive: the step metric's own points tell W&B's steps of the others."""
    written(sqlite, DEFINED)
    source = opened(sqlite)
    assert points_of(source) == ROWS
    (outcome,) = backfill(source, ArchiveTarget(tmp_path / "a"), Selection())
    assert outcome.action == "migrated", outcome.reason
    archive = ArchiveSource(tmp_path / "a", tmp_path / "a")
    assert points_of(archive) == ROWS
    (info,) = archive.runs(Selection())
    assert info.step_definitions == DEFINED


def test_rows_are_numbered_where_the_step_metric_is_its_own(
    sqlite: str, opened: Callable[..., Source]
) -> None:
    """Then no point stands at W&B's step."""
    written(sqlite, DEFINED[1:])
    found = points_of(opened(sqlite))
    assert [value for _, _, value in found["loss"]] == [4.0, 3.0, 3.5, 2.0, 1.0]
    assert [value for _, _, value in found["mlflow_step"]][:3] == [7.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("definitions", "found"),
    [
        ((), True),
        (DEFINED, True),
        (DEFINED[1:], False),
        ((StepDefinition(0, "a", "b"), StepDefinition(0, "b", "c")), False),
    ],
)
def test_which_steps_can_be_found(definitions: tuple[StepDefinition, ...], found: bool) -> None:
    """Those of which the step metrics stand at W&B's steps."""
    assert can_be_found(StepAxes(definitions)) is found


def test_rows_of_one_millisecond_are_told_by_value_and_order() -> None:
    """A point for which there is no row was written at W&B's step."""
    kind = np.dtype([("timestamp_ms", "i8"), ("step", "i8"), ("value", "f8"), ("key", "i4")])
    block = np.array(
        [(5, 1, 7.0, 0), (5, 2, 8.0, 0), (5, 3, 8.0, 0), (5, 7, 0.0, 1), (5, 8, 0.0, 1),
         (5, 8, 1.0, 1), (5, 8, 2.0, 1), (6, 8, 3.0, 1)],
        kind,
    )  # fmt: skip
    steps = WandbSteps(StepAxes((StepDefinition(0, "a", "s"),)), ["s", "a"])
    steps.learn([block])
    assert steps.restored(block)["step"].tolist() == [1, 2, 3, 1, 2, 3, 8, 8]
