"""Names of one run's W&B keys in MLflow, and their original keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.mapping.names import Limits, Namer, fitting
from mlflow_wandb_plugin.targets.mlflow.files.run_files import RenamedKeys, RunFiles

if TYPE_CHECKING:
    from mlflow.entities import RunData


class RunNames:
    """Names of one run's W&B keys, unique within each kind.

    The original key of a changed name is saved before anything is written under the name: else a
    session that follows a killed one would take the name for another key's, and choose a new one.

    Args:
        data: has the names that the run uses already.
        earlier: original keys by name, by kind, as an earlier session saved them.
    """

    def __init__(self, files: RunFiles, data: RunData, earlier: Mapping[str, RenamedKeys]) -> None:
        limit = Limits.installed().key
        taken: dict[str, Iterable[str]] = {
            "metrics": data.metrics, "params": data.params, "tags": data.tags,
        }  # fmt: skip
        self._namers = {kind: Namer(limit, earlier.get(kind), taken[kind]) for kind in taken}
        self._files = files
        self._saved = self._count()

    @property
    def metrics(self) -> Namer:
        return self._namers["metrics"]

    @property
    def params(self) -> Namer:
        return self._namers["params"]

    @property
    def tags(self) -> Namer:
        return self._namers["tags"]

    def restart(self) -> None:
        """Name all keys again, because all of the run comes again: the saved keys may be damaged.
        Those that fit their names are kept."""
        limit = Limits.installed().key
        for kind, namer in self._namers.items():
            self._namers[kind] = Namer(limit, fitting(namer.renamed, limit))
        self._saved = -1

    def save(self) -> None:
        """Save the original keys of the names that were changed since the last call; call this
        before anything is written under them."""
        if self._count() != self._saved:
            renamed = {kind: dict(namer.renamed) for kind, namer in self._namers.items()}
            self._files.save_names(renamed)
            self._saved = self._count()

    def _count(self) -> int:
        return sum(len(namer.renamed) for namer in self._namers.values())

    def count_rewritten(self) -> int:
        """Number of names that differ from their dotted key."""
        return sum(
            name != ".".join(key)
            for namer in self._namers.values()
            for name, key in namer.renamed.items()
        )
