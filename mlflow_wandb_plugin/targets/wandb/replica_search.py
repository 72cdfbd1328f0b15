"""Find the runs of a W&B project that replicate others."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.targets.wandb.lookup import Access, RunAddress
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress

ASKED_ALONE = 5
"""Runs of a project that are asked for one by one, before all of its runs are listed."""
LISTING_S = 300.0
"""A listing is used for this time. What it does not tell is asked for when a run is opened."""
KEYS = (identity.REPLICA_CONFIG_KEY, identity.RUN_ID_CONFIG_KEY, identity.BESIDE_CONFIG_KEY)
"""Config keys that tell which run another one replicates, beside the section of MLflow."""


@dataclass(slots=True)
class _Project:
    """What is known of one project. Times are of `time.monotonic`, in seconds."""

    asked: int = 0
    configs: dict[str, Mapping[str, Any]] | None = None
    listed_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class ReplicaSearch:
    """Answers which config a run of a project has. Thread-safe.

    Raises from every method:
        SourceError, SourceUnavailableError, UsageError: as `Access`.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._projects: dict[str, _Project] = {}
        self._lock = threading.Lock()

    def find(self, project: ProjectAddress, run_id: str) -> Mapping[str, Any] | None:
        """Return the keys of a run's config that tell what it replicates; None without a run."""
        with self._lock:
            known = self._projects.setdefault(project.path, _Project())
        with known.lock:
            known.asked += 1
            if known.asked <= ASKED_ALONE:
                address = RunAddress(project.entity, project.project, run_id)
                remote = self._access.run(address)
                return _telling(remote.config) if remote.exists else None
            now = time.monotonic()
            if known.configs is None or now > known.listed_s + LISTING_S:
                runs = self._access.configs(project.entity, project.project)
                known.configs = {name: _telling(config) for name, config in runs}
                known.listed_s = now
            return known.configs.get(run_id)


def _telling(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: config[key] for key in KEYS if key in config}
    section = config.get(rules.MLFLOW_KEY)
    if isinstance(section, Mapping):
        kept[rules.MLFLOW_KEY] = {"status": section.get("status")}
    return kept
