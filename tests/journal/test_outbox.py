"""Batches in the journal of a mirrored run: the binary format equals JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.reader import JournalReader
from mlflow_wandb_plugin.journal.writer import Journal
from tests.support.health_checks import WITH_FIXTURE

LONG = st.integers(-(2**63), 2**63 - 1)


def read_back(path: Path, *payloads: bytes) -> list[dict[str, Any]]:
    journal = Journal(path, {"born": outbox.BORN})
    for payload in payloads:
        journal.append(outbox.OPERATION, payload)
    journal.close()
    return [operation for _, operation in outbox.operations(JournalReader(path))]


@settings(suppress_health_check=WITH_FIXTURE)
@given(
    rows=st.lists(st.tuples(st.text(), st.floats(), LONG, LONG), max_size=12),
    texts=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_batch_reads_as_json_would(
    rows: list[tuple[str, float, int, int]], texts: dict[str, str], tmp_path_factory: Any
) -> None:
    """Any keys, values, times and steps, with params and tags, are read as from JSON."""
    fast = outbox.encode_batch(7, [Metric(*row) for row in rows], texts, texts)
    plain = outbox.encode("batch", at=7, metrics=rows, params=texts, tags=texts)
    path = tmp_path_factory.mktemp("outbox") / "a.journal"
    one, other = read_back(path, fast, plain)
    assert repr(one["metrics"]) == repr(other.pop("metrics"))
    assert {key: one[key] for key in other} == other
    assert one.keys() - other.keys() == {"metrics"}


def test_numbers_over_eight_bytes_are_kept(tmp_path: Path) -> None:
    """Huge integers and times with a fraction, which MLflow accepts, go as JSON."""
    metrics = [Metric("a", 2**80, 1.5, 2**70), Metric("b", math.inf, 1, 2)]
    [batch] = read_back(tmp_path / "a.journal", outbox.encode_batch(7, metrics, {}, {}))
    assert batch["metrics"] == [["a", 2**80, 1.5, 2**70], ["b", math.inf, 1, 2]]
