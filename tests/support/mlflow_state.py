"""Everything that an MLflow store holds of its runs, read through MLflow's own client."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class RunState:
    """One run. ``metrics`` holds (value, timestamp in ms, step), NaN as the text "nan"."""

    run_id: str
    name: str
    status: str
    start: int
    end: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, list[tuple[Any, int, int]]]
    latest: dict[str, Any]
    artifacts: dict[str, str] = field(default_factory=dict)

    def points(self, key: str) -> list[tuple[int, Any]]:
        """(step, value) of one metric, by step."""
        return [(step, value) for value, _, step in sorted(self.metrics[key], key=lambda p: p[2])]

    def comparable(self) -> dict[str, Any]:
        """What must be equal in two replicas of one run: everything but ids and the origin."""
        tags = {key: value for key, value in self.tags.items() if key != "mlflow.wandb.origin"}
        return {
            "name": self.name, "status": self.status, "start": self.start, "end": self.end,
            "params": self.params, "tags": tags, "metrics": self.metrics, "latest": self.latest,
            "artifacts": self.artifacts,
        }  # fmt: skip


def read_runs(
    uri: str, folder: Path | None = None, only: str = "", experiments: Sequence[str] = ()
) -> dict[str, RunState]:
    """All active runs of the store at ``uri`` by W&B run id (else MLflow's).

    Args:
        folder: where artifacts are downloaded to be hashed; None leaves them out.
        only: a W&B run id; the others are left out.
        experiments: ids of experiments; empty means all.
    """
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    states: dict[str, RunState] = {}
    for experiment in client.search_experiments():
        if experiments and experiment.experiment_id not in experiments:
            continue
        wanted = f"tags.`wandb.run_id` = '{only}'" if only else ""
        for run in client.search_runs([experiment.experiment_id], wanted, max_results=1000):
            run_id = run.info.run_id
            key = run.data.tags.get("wandb.run_id", run_id)
            assert key not in states, f"two MLflow runs replicate {key}"
            states[key] = RunState(
                run_id, run.info.run_name, run.info.status, run.info.start_time,
                run.info.end_time, dict(run.data.params), dict(run.data.tags),
                {name: _history(client, run_id, name) for name in run.data.metrics},
                {name: _plain(value) for name, value in run.data.metrics.items()},
                _artifacts(client, run_id, folder) if folder is not None else {},
            )  # fmt: skip
    return states


def _history(client: Any, run_id: str, name: str) -> list[tuple[Any, int, int]]:
    history = client.get_metric_history(run_id, name)
    return sorted(
        ((_plain(m.value), m.timestamp, m.step) for m in history),
        key=lambda point: (point[2], point[1], str(point[0])),
    )


def _plain(value: float) -> Any:
    return "nan" if math.isnan(value) else value


def _artifacts(client: Any, run_id: str, folder: Path) -> dict[str, str]:
    target = folder / run_id
    target.mkdir(parents=True, exist_ok=True)
    if not client.list_artifacts(run_id):
        return {}
    root = Path(client.download_artifacts(run_id, "", str(target)))
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
