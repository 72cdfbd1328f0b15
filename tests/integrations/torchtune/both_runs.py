"""What a run left in its two homes, and whether that is the same."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import flatten
from tests.support.mlflow_state import RunState, read_runs
from tests.wandb_server import Run, WandbServer

NOT_THE_USERS = {
    "mlflow_run_id", "mlflow_experiment_id", "mlflow_tracking_uri",
    "mlflow_run_given",
}  # fmt: skip
OF_A_ROW = {"_step", "_runtime", "_timestamp", "_wandb"}
STATUS = {"finished": "FINISHED", "failed": "FAILED", "running": "RUNNING"}


@dataclass
class BothRuns:
    """One run: as the W&B server has it, and as MLflow has it. ``folder`` holds its artifacts."""

    wandb: Run
    mlflow: RunState
    folder: Path

    @classmethod
    def of(cls, server: WandbServer, uri: str, path: str, folder: Path) -> BothRuns:
        """The run at ``project/id`` of the server, and its only replica."""
        run = server.run(path)
        return cls(run, read_runs(uri, folder, only=run.name)[run.name], folder)

    @property
    def config(self) -> dict[str, Any]:
        """The recipe's config, as W&B has it."""
        values = self.wandb.values.items()
        return {key: value for key, value in values if key not in NOT_THE_USERS}

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [line.row for line in self.wandb.history.live]

    def points(self, key: str) -> list[tuple[int, Any]]:
        """(global_step, value) of W&B, in the order in which they were logged."""
        return [(int(row["global_step"]), row[key]) for row in self.rows if key in row]

    def artifacts(self) -> dict[str, dict[str, Any]]:
        """The W&B artifacts of the run, each with its type, metadata and files by digest."""
        found = {}
        for artifact in self.wandb.logged_artifacts:
            assert artifact.manifest is not None
            manifest = json.loads(artifact.manifest.path.read_bytes())["contents"]
            found[artifact.collection.name] = {
                "type": artifact.collection.type,
                "metadata": json.loads(artifact.metadata or "{}"),
                "files": {name: entry["digest"] for name, entry in manifest.items()},
            }
        return found

    def document(self, path: str) -> bytes:
        """An artifact of the MLflow run."""
        return (self.folder / self.mlflow.run_id / path).read_bytes()

    def assert_equal(self) -> None:
        """Every point with its time, the config, the files, the checkpoints and the status."""
        self.assert_equal_points()
        params = {".".join(path): _as_param(value) for path, value in flatten(self.config).items()}
        assert self.mlflow.params == params
        assert json.loads(self.document("wandb/config.json")).items() >= self.config.items()
        name = "torchtune_config.yaml"
        if name in self.wandb.files:
            theirs = self.wandb.files[name].path.read_bytes()
            assert self.document(f"wandb/files/{name}") == theirs
        assert self._mlflow_artifacts() == self.artifacts()
        assert self.mlflow.status == STATUS[self.wandb.state]
        assert self.mlflow.tags["mlflow.wandb.state"] == "complete"
        assert json.loads(self.mlflow.tags["mlflow.wandb.losses"]) == {}

    def assert_equal_points(self) -> None:
        """Every point with its time and the step ``global_step``, which itself is at W&B's step."""
        keys = {key for row in self.rows for key in row} - OF_A_ROW
        assert keys == {key for key in self.mlflow.metrics if not key.startswith("system/")}
        for key in keys:
            rows = [row for row in self.rows if key in row]
            step = "_step" if key == "global_step" else "global_step"
            wanted = [
                (_comparable(row[key]), int(row["_timestamp"] * 1000), int(row[step]))
                for row in rows
            ]
            found = [(_comparable(value), at, step) for value, at, step in self.mlflow.metrics[key]]
            assert sorted(found, key=str) == sorted(wanted, key=str), key

    def _mlflow_artifacts(self) -> dict[str, dict[str, Any]]:
        root = self.folder / self.mlflow.run_id / "wandb" / "artifacts"
        found = {}
        for described in sorted(root.glob("*/*/*.json")):
            document = json.loads(described.read_text())
            files = described.with_suffix("")
            found[document["name"]] = {
                "type": document["type"],
                "metadata": document["metadata"],
                "files": {
                    file.relative_to(files).as_posix(): _digest(file)
                    for file in files.rglob("*")
                    if file.is_file()
                },
            }
        return found


def _comparable(value: Any) -> Any:
    if value == "nan" or math.isnan(value):
        return "nan"
    return float(value)


def _digest(file: Path) -> str:
    """As a W&B manifest has it."""
    return base64.b64encode(hashlib.md5(file.read_bytes()).digest()).decode()


def _as_param(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
