"""What a report and a plan say above their runs: from where to where, when, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlflow_wandb_plugin.core.protocols import WriteMethod

PACKAGES = ("mlflow-wandb-plugin", "mlflow", "wandb")


@dataclass(frozen=True, slots=True)
class Heading:
    """The circumstances of a backfill.

    Attributes:
        sources, target: URIs without credentials.
        date: when it began, ISO 8601, UTC.
        versions: of the packages that took part, by name.
        method: how points are written.
        viewer: see `Target`.
        homes: whose runs the source and the target have.
    """

    sources: tuple[str, ...] = ()
    target: str = ""
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    method: WriteMethod | None = None
    viewer: str = ""
    homes: tuple[str, str] = ("W&B", "MLflow")

    def as_json(self) -> dict[str, Any]:
        """Return what is known as JSON-compatible values."""
        document = {
            "sources": list(self.sources),
            "target": self.target,
            "date": self.date,
            "versions": dict(self.versions),
            "write_path": None if self.method is None else asdict(self.method),
            "viewer": self.viewer,
        }
        return {name: value for name, value in document.items() if value}


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that carry runs."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # MLflow has distributions of other names.
            continue
    return found


def now() -> str:
    """Return the time as a report shows it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def day(at_ms: int | None) -> str:
    """Return the date and time of a run's start or end; empty if it is not known."""
    if at_ms is None:
        return ""
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError):
        # Whoever wrote the log chose the number.
        return ""
    return moment.strftime("%Y-%m-%d %H:%M")
