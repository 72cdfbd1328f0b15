"""W&B's step semantics, checked against wandb-core on random programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, note, settings
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.journal import frames, reader
from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions
from mlflow_wandb_plugin.wandb_log.steps import StepMachine
from mlflow_wandb_plugin.wandb_log.summary import SummaryFold
from tests.support import core_says
from tests.support.health_checks import WITH_FIXTURE
from tests.support.logging_child import LoggingChild
from tests.support.programs import programs

Rows = list[tuple[int, dict[tuple[str, ...], Any]]]


def machine_rows(path: Path) -> Rows:
    """The rows that our machine makes of a journal."""
    metrics = MetricDefinitions(SummaryFold())
    machine = StepMachine(metrics)
    rows = []
    for frame in reader.JournalReader(path).read():
        if frame.kind != frames.RECORD:
            continue
        record = Record.FromString(frame.payload)
        if record.HasField("metric"):
            metrics.define(record.metric)
        elif record.HasField("request") and record.request.HasField("partial_history"):
            rows += list(machine.add(record.request.partial_history))
    rows += list(machine.flush())
    return [
        (row.step, {key: core_says.comparable(json.loads(v)) for key, v in row.values.items()})
        for row in rows
    ]


@settings(max_examples=25, suppress_health_check=WITH_FIXTURE)
@given(lines=programs())
def test_rows_are_those_of_wandb_core(sdk: LoggingChild, lines: list[str]) -> None:
    """From the SDK's calls alone the machine makes the rows that wandb-core wrote to its file."""
    recorded = sdk.run(lines)
    note(f"errors: {recorded.errors}")
    assert machine_rows(recorded.journal) == core_says.rows(recorded.wandb_file)
