"""What the benchmarks share: a private place to write, and figures as rows."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def private_place() -> Iterator[Path]:
    """A temporary folder that wandb and MLflow write to, and nowhere else."""
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-bench-") as name:
        folder = Path(name)
        for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            (folder / variable).mkdir()
            os.environ[variable] = str(folder / variable)
        os.environ.update(
            WANDB_MODE="offline",
            WANDB_SILENT="true",
            WANDB_ERROR_REPORTING="false",
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
            MLFLOW_TRACKING_URI=f"sqlite:///{folder / 'mlflow.db'}",
        )
        yield folder


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def row(name: str, *figures: str) -> None:
    """Print one line of a table."""
    print(f"{name:<36}" + "".join(f"{figure:>14}" for figure in figures), flush=True)
